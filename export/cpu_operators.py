"""What layers ask of ONNX Runtime's CPU kernels: frames of all rows as one matrix, memory written where it lies.

Numbers are those of models/operators.py but for rounding. What a product need not compute is left out of the graph:
queries are scaled by their weights, the bias of K adds the same to all scores of a query, and that of V adds to a mean
of values what it is itself. Knows nothing of files, int8 or the order of layers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.attention import MASKED, Attention, visible
from models.config import ModelConfig
from models.encoder import Convolution, pointwise
from models.operators import Plain


@torch.library.custom_op("streamer::ring_write", mutates_args=())
def ring_write(ring: Tensor, new: Tensor, at: Tensor, axis: int) -> Tensor:
    """`ring` with `new` from position `at` (B,) of `axis` on, modulo the ring: ONNX TensorScatter."""
    places = torch.remainder(at[:, None] + torch.arange(new.shape[axis], device=at.device), ring.shape[axis])
    shape = [1] * ring.dim()
    shape[0], shape[axis] = places.shape
    return ring.scatter(axis, places.view(shape).expand_as(new), new)


@ring_write.register_fake
def _like_ring(ring: Tensor, *_: object) -> Tensor:
    return torch.empty_like(ring)


@torch.library.custom_op("streamer::heads_matmul", mutates_args=())
def heads_matmul(x: Tensor, y: Tensor, shape: Tensor, width: int, transposed: bool) -> Tensor:
    """(B, heads, T, n) times (B, heads, n, m), or its transpose if `transposed`, is (B, heads, T, m); width: m.

    How many of the T frames one product of the runtime takes is the fourth of `shape` (0, 0, -1, frames, n): x is cut
    into (B, heads, T / frames, frames, n). The numbers are the same but for rounding.
    """
    del shape, width
    return x @ (y.transpose(2, 3) if transposed else y)


@heads_matmul.register_fake
def _like_product(x: Tensor, _y: Tensor, _shape: Tensor, width: int, _transposed: bool) -> Tensor:
    return x.new_empty(*x.shape[:3], width)


@dataclass(frozen=True, slots=True)
class AttentionParts:
    """An attention layer's constants, as its graph has them."""

    qkv: Tensor  # (d, 3d), the queries' third scaled by 1 / sqrt(head_dim)
    by_content: Tensor  # (d,), added to queries that meet keys: their bias and u
    by_position: Tensor  # (d,), added to queries that meet positions: their bias and v
    table: Tensor  # (heads, head_dim, positions)
    bias: Tensor  # (d,) of the output, with what the bias of V comes to

    @classmethod
    def of(cls, attention: Attention, table: Tensor) -> AttentionParts:
        scale = 1.0 / math.sqrt(attention.head_dim)
        q, k, v, out = (getattr(attention, f"linear_{name}") for name in ("q", "k", "v", "out"))
        of_q, of_v, of_out = (_bias(linear) for linear in (q, v, out))
        return cls(
            qkv=torch.cat([q.weight * scale, k.weight, v.weight]).T.contiguous(),
            by_content=(of_q + attention.pos_bias_u.flatten()) * scale,
            by_position=(of_q + attention.pos_bias_v.flatten()) * scale,
            table=table.contiguous(),
            bias=of_out + out.weight @ of_v,
        )


def _bias(linear: nn.Linear) -> Tensor:
    return linear.bias if linear.bias is not None else torch.zeros_like(linear.weight[:, 0])


def conv_ring(config: ModelConfig) -> int:
    """Positions of a layer's ring of convolution inputs: what a frame looks back at, and the longest chunk."""
    return config.conv_context[0] + max(config.chunks)


class Places:
    """Where the new frames lie in the rings, and what their queries see: the same for all layers."""

    def __init__(
        self, config: ModelConfig, frames: Tensor, end: Tensor, new: int, context: tuple[Tensor, Tensor]
    ) -> None:
        """frames (B,) done before; end (B,) the stream's length in frames as known now; new: frames of this step, one
        or more of each row's chunks; context: left and right of each row, (B,), chunks of one frame or all longer."""
        self.rows, self.new, self.heads = frames.shape[0], new, config.heads
        self.ring, self.head_dim, behind = config.ring, config.head_dim, config.conv_context[0]
        ring = self.ring
        newest = frames[:, None] + (new - 1)
        key = newest - torch.remainder(newest - torch.arange(ring), ring)  # (B, ring): the frame each position holds
        query = frames[:, None] + torch.arange(new)
        left, right = (side[:, None, None] for side in context)
        seen = visible(query[:, :, None], key[:, None, :], (left, right), "chunked_limited")
        seen = seen & ((key >= 0) & (key < end[:, None]))[:, None, :]
        self.penalty = (~seen)[:, None].float() * MASKED  # (B, 1, new, ring)
        index = query[:, :, None] - key[:, None, :] + (max(config.chunks) - 1)
        self.relative = index[:, None].expand(-1, config.heads, -1, -1)  # (B, heads, new, ring) into the table
        self.at = torch.remainder(frames, ring)
        # The runtime rounds a product of a single row in another way: chunks of one frame are that whether one is
        # computed or some at once, all others never are.
        right = context[1][:1]
        at_once = torch.where(right == 0, torch.ones_like(right), torch.full_like(right, new))
        self.by_content, self.by_key = (
            torch.cat([torch.tensor([0, 0, -1]), at_once, torch.tensor([size])]) for size in (config.head_dim, ring)
        )
        size = conv_ring(config)
        self.conv_at = torch.remainder(frames, size)
        window = torch.remainder(frames[:, None] - behind + torch.arange(behind + new), size)
        self.window = window + size * torch.arange(self.rows)[:, None]  # (B, left + new) into the rings of all rows


class CpuOperators(Plain):
    """Frames are (B T, d_model), row after row; `keys`, `values` and `tails` hold the rings once layers have run."""

    def __init__(
        self, parts: list[AttentionParts], places: Places, rings: tuple[list[Tensor], list[Tensor], list[Tensor]]
    ) -> None:
        """rings: of each layer keys and values (B, heads, ring, head_dim), convolution inputs (B, conv_ring, d)."""
        self._parts, self._places = parts, places
        self.keys, self.values, self.tails = (list(ring) for ring in rings)

    def attend(self, layer: int, attention: nn.Module, x: Tensor) -> Tensor:
        own, places = self._parts[layer], self._places
        q, k, v = (x @ own.qkv).chunk(3, dim=-1)
        self.keys[layer] = ring_write(self.keys[layer], self._by_head(k), places.at, 2)
        self.values[layer] = ring_write(self.values[layer], self._by_head(v), places.at, 2)
        query = self._by_head(q + own.by_content)
        by_content = heads_matmul(query, self.keys[layer], places.by_content, places.ring, True)
        # One product for the frames of all rows: the table is the same for them. With a row of nothing below them, so
        # that it is never a product of a single row, or a stream's words would depend on company.
        query = nn.functional.pad(q + own.by_position, (0, 0, 0, 1)).unflatten(-1, (places.heads, -1)).transpose(0, 1)
        by_position = (query @ own.table)[:, :-1].unflatten(1, (places.rows, places.new)).transpose(0, 1)
        scores = by_content + (by_position.gather(-1, places.relative) + places.penalty)
        heard = heads_matmul(scores.softmax(-1), self.values[layer], places.by_key, places.head_dim, False)
        heard = heard.transpose(1, 2).reshape(x.shape)
        return heard @ attention.linear_out.weight.T + own.bias

    def _by_head(self, x: Tensor) -> Tensor:
        """(B T, d) -> (B, heads, T, head_dim)."""
        return x.reshape(self._places.rows, self._places.new, self._places.heads, -1).transpose(1, 2)

    def convolve(self, layer: int, convolution: nn.Module, x: Tensor, live: Tensor) -> Tensor:
        assert isinstance(convolution, Convolution)
        places = self._places
        h = nn.functional.glu(pointwise(convolution.pointwise_conv1, x), dim=-1).masked_fill(~live, 0.0)
        h = h.unflatten(0, (places.rows, places.new))
        self.tails[layer] = ring_write(self.tails[layer], h, places.conv_at, 1)
        heard = nn.functional.embedding(places.window, self.tails[layer].flatten(0, 1))  # (B, left + T, d)
        h = convolution.depthwise_conv(heard.transpose(1, 2)).transpose(1, 2)
        return pointwise(convolution.pointwise_conv2, nn.functional.silu(convolution.batch_norm(h.reshape(x.shape))))
