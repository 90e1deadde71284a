"""What a layer asks of where it runs: attention and convolution with their memory, and the sums between. In torch here.

`Plain` is training, whole files, the CPU and the exporters; models/arena.py has the same over slots on a device. Knows
nothing of weights or their order.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn

from models.attention import KeyValues


class Operators(Protocol):
    """Layers are numbered from 0; x, y and what comes back are (B, T, d_model)."""

    def norm(self, x: Tensor, norm: nn.Module) -> Tensor:
        """The normalised frames."""

    def add_norm(self, x: Tensor, y: Tensor, scale: float, norm: nn.Module) -> tuple[Tensor, Tensor]:
        """x + scale * y, and that normalised."""

    def attend(self, layer: int, attention: nn.Module, x: Tensor) -> Tensor:
        """The layer's attention of the new frames over all that they may see."""

    def convolve(self, layer: int, convolution: nn.Module, x: Tensor, live: Tensor) -> Tensor:
        """The layer's convolution module; live (B, T, 1) bool says which frames are of the audio."""


class Plain:
    """One operator after the other; K and V in a store, convolution tails (B, left, d_model) as values.

    `tails` holds the layers' new tails once they have run.
    """

    def __init__(self, kv: KeyValues, tails: tuple[Tensor, ...]) -> None:
        self._kv, self._old = kv, tails
        self.tails: list[Tensor] = []

    def norm(self, x: Tensor, norm: nn.Module) -> Tensor:
        return norm(x)

    def add_norm(self, x: Tensor, y: Tensor, scale: float, norm: nn.Module) -> tuple[Tensor, Tensor]:
        x = x + y if scale == 1.0 else x + scale * y
        return x, norm(x)

    def attend(self, layer: int, attention: nn.Module, x: Tensor) -> Tensor:
        return attention(x, layer, self._kv)

    def convolve(self, layer: int, convolution: nn.Module, x: Tensor, live: Tensor) -> Tensor:
        y, tail = convolution(x, self._old[layer], live)
        self.tails.append(tail)
        return y
