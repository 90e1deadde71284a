"""Encoder state of all slots on one device, and the layers' operators that read and write it in place by slot.

Frame counters are the caller's; a slot's rings need no clearing for a new stream, since nothing sees a frame before its
start. Knows nothing of PCM, tokens or who owns a slot.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.attention import Ring
from models.config import ModelConfig


@dataclass(frozen=True, slots=True)
class EncoderArena:
    """One row per slot.

    mel (slots, 1, mels), sub1 (slots, channels, 1, F1), sub2 (slots, channels, 1, F2): the last frame of each
    subsampling stage's input. conv (layers, slots, left, d_model): the last frames after the GLU.
    keys, values: per layer (slots, heads, ring, head_dim), frame f at f mod ring.
    """

    mel: Tensor
    sub1: Tensor
    sub2: Tensor
    conv: Tensor
    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]

    @classmethod
    def zeros(cls, config: ModelConfig, slots: int, dtype: torch.dtype, device: torch.device) -> EncoderArena:
        first, second, _ = config.sub_widths

        def zeros(*sizes: int) -> Tensor:
            return torch.zeros(sizes, dtype=dtype, device=device)

        def lines(width: int) -> Tensor:
            """Channels last in memory, as the kernels read them."""
            return zeros(slots, 1, width, config.sub_channels).permute(0, 3, 1, 2)

        def rings() -> tuple[Tensor, ...]:
            return tuple(zeros(slots, config.heads, config.ring, config.head_dim) for _ in range(config.layers))

        return cls(
            zeros(slots, 1, config.mels),
            lines(first),
            lines(second),
            zeros(config.layers, slots, config.conv_context[0], config.d_model),
            rings(),
            rings(),
        )

    def reset(self, slots: Tensor) -> None:
        """New streams in these slots (n,) int64."""
        for tensor in (self.mel, self.sub1, self.sub2):
            tensor.index_fill_(0, slots, 0.0)
        self.conv.index_fill_(1, slots, 0.0)

    def scrub(self, slots: Tensor) -> None:
        """Take everything out of these slots, numbers that are none included: a masked NaN is still one in a sum."""
        self.reset(slots)
        for ring in (*self.keys, *self.values):
            ring.index_fill_(0, slots, 0.0)

    def copy(self, source: int, target: int) -> None:
        """Make `target` what `source` is."""
        for tensor in (self.mel, self.sub1, self.sub2, *self.keys, *self.values):
            tensor[target].copy_(tensor[source])
        self.conv[:, target].copy_(self.conv[:, source])

    def rows(self) -> dict[str, Tensor]:
        """Every tensor with the slot first, by the names that a stream's state has."""
        named = {"mel_tail": self.mel, "sub1": self.sub1, "sub2": self.sub2}
        for kind, tensors in (("conv", self.conv), ("keys", self.keys), ("values", self.values)):
            named |= {f"{kind}.{layer}": tensor for layer, tensor in enumerate(tensors)}
        return named


class ArenaRing(Ring):
    """The rings of some slots (B,) int64, written in place; rows without a stream may share a slot."""

    def __init__(
        self,
        tables: list[Tensor],
        arena: EncoderArena,
        slots: Tensor,
        frames: Tensor,
        context: tuple[int | Tensor, int],
    ) -> None:
        super().__init__(tables, arena.keys, arena.values, frames, context)
        self._rows = slots

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        for rings, new in ((self.keys, k), (self.values, v)):
            rings[layer][self._rows[:, None], :, self._slots] = new.transpose(1, 2)
        return self.keys[layer][self._rows], self.values[layer][self._rows]


class OnArena:
    """The layers' operators in torch, one after the other: the reference of the fused ones."""

    def __init__(self, arena: EncoderArena, slots: Tensor, ring: ArenaRing) -> None:
        self._arena, self._slots, self._ring = arena, slots, ring

    def norm(self, x: Tensor, norm: nn.Module) -> Tensor:
        return norm(x)

    def add_norm(self, x: Tensor, y: Tensor, scale: float, norm: nn.Module) -> tuple[Tensor, Tensor]:
        x = torch.add(x, y, alpha=scale)
        return x, norm(x)

    def attend(self, layer: int, attention: nn.Module, x: Tensor) -> Tensor:
        return attention(x, layer, self._ring)

    def convolve(self, layer: int, convolution: nn.Module, x: Tensor, live: Tensor) -> Tensor:
        tails = self._arena.conv[layer]
        y, tail = convolution(x, tails[self._slots], live)
        tails[self._slots] = tail
        return y
