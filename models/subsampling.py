"""Three stride-2 convolutions that turn 8 mel frames into one encoder frame. Knows nothing of attention or PCM."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.config import ModelConfig

ENDLESS = 1 << 40  # mel frames: the length of a stream whose end is not known yet


class Subsampling(nn.Module):
    """NeMo's `dw_striding` (subsampling.py:184-257, 427-478). Output j of a causal stage reads inputs 2j-2, 2j-1, 2j.

    A stage's positions before the start, and at or after its length, are zero: bias and ReLU would make them something
    else. The masks come from the frame counter, so first, middle, last and idle rows run in the same step.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        channels = config.sub_channels
        depthwise = {"kernel_size": 3, "stride": 2, "groups": channels}
        self.causal = config.causal_subsampling
        self.conv = nn.ModuleDict(
            {
                "0": nn.Conv2d(1, channels, kernel_size=3, stride=2),
                "2": nn.Conv2d(channels, channels, **depthwise),
                "3": nn.Conv2d(channels, channels, kernel_size=1),
                "5": nn.Conv2d(channels, channels, **depthwise),
                "6": nn.Conv2d(channels, channels, kernel_size=1),
            }
        )
        self.out = nn.Linear(channels * config.sub_widths[2], config.d_model)

    def forward(
        self, mel: Tensor, tails: tuple[Tensor, Tensor, Tensor], frames: Tensor, length: Tensor
    ) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        """mel (B, 8T, mels) -> (B, T, d_model) and the new tails.

        tails: the frame of each stage's input that precedes this chunk (unused when not causal).
        frames (B,): encoder frames done. length (B,): mel frames of the utterance, or ENDLESS.
        """
        first = 8 * frames - 7 if self.causal else frames
        x = mel.masked_fill(~within(first, mel.shape[1], length)[:, :, None], 0.0)[:, None]
        x, tail_mel = self._stage(("0",), x, tails[0][:, None])
        first, length = self._next(first, length)
        x = self._live(x, first, length)
        x, tail_sub1 = self._stage(("2", "3"), x, tails[1])
        first, length = self._next(first, length)
        x = self._live(x, first, length)
        x, tail_sub2 = self._stage(("5", "6"), x, tails[2])
        first, length = self._next(first, length)
        x = self._live(x, first, length)
        y = self.out(x.transpose(1, 2).flatten(2))  # channel major, as NeMo
        return y, (tail_mel[:, 0], tail_sub1, tail_sub2)

    def _stage(self, names: tuple[str, ...], x: Tensor, tail: Tensor) -> tuple[Tensor, Tensor]:
        new_tail = x[:, :, -1:]
        x = F.pad(torch.cat([tail, x], dim=2), (2, 1)) if self.causal else F.pad(x, (1, 1, 1, 1))
        for name in names:
            x = self.conv[name](x)
        return x, new_tail

    def _next(self, first: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        """First position and length after one more stage. First positions are 8f-7, 4f-3, 2f-1, f."""
        if self.causal:
            return (first + 1) // 2, length // 2 + 1
        return first, (length - 1) // 2 + 1

    @staticmethod
    def _live(x: Tensor, first: Tensor, length: Tensor) -> Tensor:
        dead = ~within(first, x.shape[2], length)[:, None, :, None]
        # As wide as x: a runtime's loop over whole frames is three times as fast as one over each band.
        return F.relu(x).masked_fill(dead.expand(-1, -1, -1, x.shape[3]), 0.0)


def within(first: Tensor, count: int, length: Tensor) -> Tensor:
    """(B, count) bool: which of the positions first, first + 1, ... lie in [0, length)."""
    position = first[:, None] + torch.arange(count, device=first.device)
    return (position >= 0) & (position < length[:, None])
