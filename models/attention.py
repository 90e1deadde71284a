"""Relative attention under one visibility rule, over a K/V store that is a value. Knows nothing of mel or tokens."""

from __future__ import annotations

import math
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.config import ModelConfig, position_rates

MASKED = -10_000.0  # NeMo multi_head_attention.py: masked scores, before the softmax


def visible(query: Tensor, key: Tensor, context: tuple[int | Tensor, int | Tensor], style: str) -> Tensor:
    """May frame `query` see frame `key`? Integer tensors that broadcast; the one rule for training and streaming.

    chunked_limited: keys of the query's chunk and of the left // C chunks before it (conformer_encoder.py:823-842).
    regular: -left <= key - query <= right. -1 is unlimited. Either may be a tensor where rows differ.
    """
    left, right = context
    if style == "chunked_limited":
        chunk = right + 1
        behind = query // chunk - key // chunk
        seen = behind >= 0
        return seen if isinstance(left, int) and left == -1 else seen & (behind <= left // chunk)
    ahead = key - query
    seen = torch.ones_like(ahead, dtype=torch.bool)
    if left >= 0:
        seen = seen & (ahead >= -left)
    return seen if isinstance(right, int) and right < 0 else seen & (ahead <= right)


def sinusoids(low: int, high: int, d_model: int) -> Tensor:
    """(high - low + 1, d_model): the encoding of each relative position low ... high (query minus key)."""
    rate = torch.tensor(position_rates(d_model), dtype=torch.float64)
    angle = torch.arange(low, high + 1, dtype=torch.float64)[:, None] * rate
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1).float()


class KeyValues(Protocol):
    """Where an attention layer puts its new K and V, and which it gets to read."""

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """New frames (B, heads, T, head_dim) in; all that queries may see (B, heads, S, head_dim) out."""

    def positions(self, layer: int) -> Tensor:
        """(heads, head_dim, R): the projected encodings of relative positions."""

    def align(self, by_position: Tensor) -> Tensor:
        """Scores by relative position (B, heads, T, R) to scores by key (B, heads, T, S)."""

    @property
    def hidden(self) -> Tensor:
        """(B or 1, 1, T, S) bool: keys that a query must not see."""


class PassThrough:
    """All of an utterance at once, under the mask of one context: training and whole files."""

    def __init__(self, tables: list[Tensor], hidden: Tensor) -> None:
        self._tables, self.hidden = tables, hidden

    @classmethod
    def over(cls, tables: list[Tensor], frames: Tensor, config: ModelConfig, context: tuple[int, int]) -> PassThrough:
        """tables cover positions -(T-1) ... T-1; frames (B,) valid frames of each row."""
        count = (tables[0].shape[-1] + 1) // 2
        index = torch.arange(count, device=frames.device)
        seen = visible(index[:, None], index[None, :], context, config.style)
        descending = [table.flip(-1) for table in tables]  # from T-1 to -(T-1), as `align` wants them
        return cls(descending, ~(seen[None] & (index < frames[:, None])[:, None, :])[:, None])

    def append(self, _layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        return k, v

    def positions(self, layer: int) -> Tensor:
        return self._tables[layer]

    def align(self, by_position: Tensor) -> Tensor:
        """Row i holds position i - j at column j - i + T - 1: the shift of Transformer-XL."""
        b, h, t, r = by_position.shape
        skewed = F.pad(by_position, (1, 0)).view(b, h, r + 1, t)[:, :, 1:].reshape(b, h, t, r)
        return skewed[..., :t]


class Ring:
    """Rings of the last frames, read where they lie: streaming. Frame f sits at f mod ring."""

    def __init__(
        self,
        tables: list[Tensor],
        keys: tuple[Tensor, ...],
        values: tuple[Tensor, ...],
        frames: Tensor,
        context: tuple[int | Tensor, int],
    ) -> None:
        """tables cover positions -(C-1) ... ring-1, C being the longest chunk; frames (B,) done before this chunk."""
        self._tables, self.keys, self.values = tables, list(keys), list(values)
        self._frames, self._context = frames, context
        self._ring = keys[0].shape[2]

    def place(self, chunk: int, end: Tensor) -> Ring:
        """Computes what the layers share: `end` (B,) is the stream's length in frames as known after this chunk."""
        slot = torch.arange(self._ring, device=end.device)
        query = self._frames[:, None] + torch.arange(chunk, device=end.device)  # (B, T)
        newest = self._frames[:, None] + (chunk - 1)
        key = newest - torch.remainder(newest - slot, self._ring)  # (B, ring): the frame each position holds
        seen = visible(query[:, :, None], key[:, None, :], self._context, "chunked_limited")
        seen = seen & ((key >= 0) & (key < end[:, None]))[:, None, :]
        self.hidden = ~seen[:, None]
        self._index = (query[:, :, None] - key[:, None, :] + (self._tables[0].shape[-1] - self._ring))[:, None]
        self._slots = torch.remainder(query, self._ring)
        return self

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        self.keys[layer] = write_ring(self.keys[layer], k, self._slots)
        self.values[layer] = write_ring(self.values[layer], v, self._slots)
        return self.keys[layer], self.values[layer]

    def positions(self, layer: int) -> Tensor:
        return self._tables[layer]

    def align(self, by_position: Tensor) -> Tensor:
        return by_position.gather(-1, self._index.expand(-1, by_position.shape[1], -1, -1))


def write_ring(ring: Tensor, new: Tensor, slots: Tensor) -> Tensor:
    """(B, heads, ring, d) with new (B, heads, T, d) at positions slots (B, T); a copy: `ring` stays as it was."""
    index = slots[:, None, :, None].expand_as(new)
    return ring.scatter(2, index, new)


class Attention(nn.Module):
    """NeMo's RelPositionMultiHeadAttention: ((q + u) k + (q + v) p(i - j)) / sqrt(d), softmax, values."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        d, bias = config.d_model, config.use_bias
        self.heads, self.head_dim = config.heads, config.head_dim
        self.linear_q = nn.Linear(d, d, bias=bias)
        self.linear_k = nn.Linear(d, d, bias=bias)
        self.linear_v = nn.Linear(d, d, bias=bias)
        self.linear_out = nn.Linear(d, d, bias=bias)
        self.linear_pos = nn.Linear(d, d, bias=False)
        self.pos_bias_u = nn.Parameter(torch.zeros(config.heads, config.head_dim))
        self.pos_bias_v = nn.Parameter(torch.zeros(config.heads, config.head_dim))

    def table(self, encodings: Tensor) -> Tensor:
        """(R, d_model) sinusoids -> (heads, head_dim, R), a constant of the layer."""
        return self.linear_pos(encodings).view(-1, self.heads, self.head_dim).permute(1, 2, 0)

    def forward(self, x: Tensor, layer: int, kv: KeyValues) -> Tensor:
        """(B, T, d_model) -> (B, T, d_model)."""
        q = self.linear_q(x).unflatten(-1, (self.heads, self.head_dim))
        k, v = kv.append(layer, self._heads(self.linear_k(x)), self._heads(self.linear_v(x)))
        by_content = (q + self.pos_bias_u).transpose(1, 2) @ k.transpose(2, 3)
        by_position = kv.align((q + self.pos_bias_v).transpose(1, 2) @ kv.positions(layer))
        scores = (by_content + by_position) * (1.0 / math.sqrt(self.head_dim))
        # A query with nothing to see (idle rows, padding) gets an even mix here, NeMo zeros; nobody reads either.
        weights = scores.float().masked_fill(kv.hidden, MASKED).softmax(-1).to(v.dtype)
        return self.linear_out((weights @ v).transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, self.head_dim)).transpose(1, 2)
