"""What an encoder remembers of a stream between two chunks, as one value. Knows nothing of slots, audio or tokens."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from models.config import ModelConfig


@dataclass(frozen=True, slots=True)
class EncoderState:
    """Rows of encoder state, float32 but for the counter. Zeros are the start of a stream.

    mel:    (B, 1, mels)            the last mel frame
    sub1:   (B, channels, 1, F1)    the last frame after the first subsampling stage
    sub2:   (B, channels, 1, F2)    the last frame after the second
    keys:   layers x (B, heads, ring, head_dim)   frame f sits at f mod ring
    values: layers x (B, heads, ring, head_dim)
    conv:   layers x (B, left, d_model)           the last frames after the GLU
    frames: (B,) int64              encoder frames done
    """

    mel: Tensor
    sub1: Tensor
    sub2: Tensor
    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    conv: tuple[Tensor, ...]
    frames: Tensor

    @classmethod
    def zeros(cls, config: ModelConfig, rows: int, *, ring: int | None = None) -> EncoderState:
        """`ring=0` makes a state without K/V rings: all that a whole-file pass needs."""
        first, second, _ = config.sub_widths
        positions = config.ring if ring is None else ring
        kv = [torch.zeros(rows, config.heads, positions, config.head_dim) for _ in range(2 * config.layers)]
        return cls(
            mel=torch.zeros(rows, 1, config.mels),
            sub1=torch.zeros(rows, config.sub_channels, 1, first),
            sub2=torch.zeros(rows, config.sub_channels, 1, second),
            keys=tuple(kv[: config.layers]),
            values=tuple(kv[config.layers :]),
            conv=tuple(torch.zeros(rows, config.conv_context[0], config.d_model) for _ in range(config.layers)),
            frames=torch.zeros(rows, dtype=torch.int64),
        )

    def where(self, active: Tensor, old: EncoderState) -> EncoderState:
        """Rows that are `active` (B,) bool advance, the others stay at `old`.

        The rings are taken as they are: an idle row wrote at its own next positions, which no query of it can see.
        """
        return EncoderState(
            mel=rows_where(active, self.mel, old.mel),
            sub1=rows_where(active, self.sub1, old.sub1),
            sub2=rows_where(active, self.sub2, old.sub2),
            keys=self.keys,
            values=self.values,
            conv=tuple(rows_where(active, new, before) for new, before in zip(self.conv, old.conv, strict=True)),
            frames=rows_where(active, self.frames, old.frames),
        )


def rows_where(active: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """`new` in the rows that are active (B,) bool, `old` in the others."""
    return torch.where(active.view(-1, *[1] * (new.dim() - 1)), new, old)
