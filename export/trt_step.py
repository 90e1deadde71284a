"""The step of one latency as TensorRT is to run it: an arena of slots in, the rows' new state out, casts explicit.

Wraps the one forward of models/ with a K/V store that reads rings in the order of time. Knows nothing of files,
TensorRT or ONNX.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.config import ModelConfig
from models.encoder import Convolution
from models.state import EncoderState
from models.transducer import Model


class Gathered:
    """The `left` frames before a chunk, read from an arena of rings by slot; the chunk's own are kept as they come.

    After `left` frames of the past come the chunk's: the relative position of query i and key j is left + i - j in
    every row, so positions need no index that depends on a stream, and nothing of the ring's order remains.
    """

    def __init__(self, tables: list[Tensor], arenas: tuple[list[Tensor], list[Tensor]], config: ModelConfig) -> None:
        """tables cover left + C - 1 down to -(C - 1); arenas: keys and values, (slots * heads * ring, head_dim)."""
        self._tables, self._arenas, self._config = tables, arenas, config
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []

    def at(self, slots: Tensor, frames: Tensor, left: int) -> Gathered:
        """Slots and frames done, (B,) int64, of the rows; the table's lines that hold their past."""
        heads, ring = self._config.heads, self._config.ring
        # ring - left is added rather than left taken away: a remainder of what is negative means two things
        place = torch.remainder(frames[:, None] + (torch.arange(left) + (ring - left)), ring)
        lane = slots[:, None] * heads + torch.arange(heads)
        self._lines = lane[:, :, None] * ring + place[:, None, :]  # (B, heads, left)
        self._frames, self._left = frames, left
        return self

    def place(self, chunk: int, end: Tensor) -> Gathered:
        """Computes what the layers share: `end` (B,) is the stream's length in frames as known after this chunk."""
        key = self._frames[:, None] + (torch.arange(self._left + chunk) - self._left)  # (B, left + C)
        # A stream's chunks have one length, which divides `left`: its chunk-limited mask lets all of these be seen.
        self.hidden = ((key < 0) | (key >= end[:, None]))[:, None, None, :]
        return self

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        self.keys.append(k)
        self.values.append(v)
        if not self._left:
            return k, v
        keys, values = (F.embedding(self._lines, arena[layer]) for arena in self._arenas)
        return torch.cat([keys, k], dim=2), torch.cat([values, v], dim=2)

    def positions(self, layer: int) -> Tensor:
        return self._tables[layer]

    def align(self, by_position: Tensor) -> Tensor:
        """Row i holds position left + i - j at column C - 1 - i + j: the shift of Transformer-XL."""
        _, h, t, r = by_position.shape
        if t == 1:
            return by_position
        skewed = F.pad(by_position, (1, 0)).reshape(-1, h, r + 1, t)[:, :, 1:].reshape(-1, h, t, r)
        return skewed[..., : self._left + t]


class ArenaStep(nn.Module):
    """One chunk of the rows that `slots` names: features and an arena in, scores and the rows' new state out."""

    def __init__(self, model: Model, chunk: int, dtype: torch.dtype) -> None:
        super().__init__()
        config = self.config = model.config
        self.left, self.dtype = config.context_of(chunk)[0], dtype
        with torch.no_grad():
            tables = model.encoder.position_tables(chunk - 1, self.left + chunk - 1)
        self.tables = [table.flip(-1).to(dtype).contiguous() for table in tables]
        self.model = cast(model, dtype)

    def forward(
        self,
        mel: Tensor,
        counters: list[Tensor],
        tails: list[Tensor],
        conv: list[Tensor],
        keys: list[Tensor],
        values: list[Tensor],
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """mel (B, 8C, mels); counters: slots, frames, valid, last and, where the model has them, prompts, (B,) int32.

        tails: mel_tail, sub1, sub2, the last two channels last; conv: one a layer; all (slots, ...). -> scores float32,
        frames that count int32, and the rows' tails, convolution tails, keys and values.
        """
        slots, frames, valid, last, *prompt = (counter.long() for counter in counters)
        old = self._state([tail.index_select(0, slots) for tail in tails], conv, slots, frames)
        kv = Gathered(self.tables, (keys, values), self.config).at(slots, frames, self.left)
        y, new, count = self.model.encoder.step(mel.to(self.dtype), old, valid, last != 0, kv)
        if prompt:
            y = self.model.with_prompt(y, prompt[0])
        scores = self.model.joint.enc(y) if self.config.transducer else self.model.ctc(y)
        state = [new.mel, *(tail.permute(0, 2, 3, 1) for tail in (new.sub1, new.sub2)), *(new.conv if conv else ())]
        state += [*new.keys, *new.values] if self.left else []
        return scores.float(), count.int(), state

    def _state(self, tails: list[Tensor], conv: list[Tensor], slots: Tensor, frames: Tensor) -> EncoderState:
        config = self.config
        none = torch.zeros(1, 0, config.d_model, dtype=self.dtype).expand(frames.shape[0], -1, -1)
        convs = tuple(tail.index_select(0, slots) for tail in conv) or (none,) * config.layers
        mel, *subs = tails
        sub1, sub2 = (tail.permute(0, 3, 1, 2) for tail in subs)
        return EncoderState(mel=mel, sub1=sub1, sub2=sub2, keys=(), values=(), conv=convs, frames=frames)


class WideNorm(nn.Module):
    """A LayerNorm whose statistics and factors are float32, whatever comes in."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__()
        self.norm = norm.float()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(x.float())
        return y.to(x.dtype)


def cast(model: Model, dtype: torch.dtype) -> Model:
    """A copy of the model that computes in `dtype` but for norms and softmax; batch norms go into their convolution."""
    model = copy.deepcopy(model).eval().float().requires_grad_(False)
    for module in model.modules():
        if isinstance(module, Convolution) and isinstance(module.batch_norm, nn.BatchNorm1d):
            _fold(module.depthwise_conv, module.batch_norm)
            module.batch_norm = nn.Identity()  # type: ignore[assignment]
    model = model.to(dtype)
    if dtype != torch.float32:
        _widen(model)
    return model


def _widen(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.LayerNorm):
            setattr(module, name, WideNorm(child))
        else:
            _widen(child)


def _fold(conv: nn.Conv1d, norm: nn.BatchNorm1d) -> None:
    """norm(conv(x)) as one convolution."""
    factor = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    bias = conv.bias if conv.bias is not None else torch.zeros_like(norm.running_mean)
    conv.weight = nn.Parameter(conv.weight * factor[:, None, None], requires_grad=False)
    conv.bias = nn.Parameter((bias - norm.running_mean) * factor + norm.bias, requires_grad=False)
