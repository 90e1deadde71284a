"""The subsampling as ONNX Runtime's CPU kernels like it: no layout changes between stages that could be spared.

Numbers are those of models/subsampling.py but for rounding; three things are done another way. The mask after the first
stage is a second input channel that pushes dead frames below zero, where ReLU makes them zero. The frame that the
second stage wants of the past is computed again, from three mel frames, which costs less than keeping it. Pointwise
convolutions are matrix products over frames with the channels last.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.config import ModelConfig
from models.subsampling import Subsampling, within

MEL_TAIL = 3  # mel frames of the past that a chunk reads
_NEVER = -1e30  # far below anything a convolution of log-mel frames comes to


def tail_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """What a stream keeps: mel frames, and the last frame after the second stage, channels last."""
    return {"mel_tail": (MEL_TAIL, config.mels), "sub2": (1, config.sub_widths[1], config.sub_channels)}


class CpuSubsampling(nn.Module):
    """Mel frames to encoder frames, with the tails of `tail_shapes`."""

    def __init__(self, module: Subsampling) -> None:
        super().__init__()
        stages = {name: conv for name, conv in module.conv.items() if isinstance(conv, nn.Conv2d)}
        self._next = module._next  # first position and length after a stage
        channels, width = stages["0"].out_channels, module.out.in_features // stages["0"].out_channels
        push = torch.zeros_like(stages["0"].weight)
        push[:, :, 2, 0] = _NEVER  # of the newest of the three frames: the output's own
        self._first = torch.cat([stages["0"].weight, push], dim=1), stages["0"].bias
        self._depthwise = nn.ModuleList([stages["2"], stages["5"]])
        pointwise = (stages["3"], stages["6"])
        self._pointwise = [(conv.weight.flatten(1).T.contiguous(), conv.bias) for conv in pointwise]
        by_band = module.out.weight.unflatten(1, (channels, width)).transpose(1, 2)  # NeMo has the channels first
        self._out = by_band.flatten(1).T.contiguous(), module.out.bias

    def forward(
        self, mel: Tensor, tails: tuple[Tensor, Tensor], frames: Tensor, length: Tensor
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """mel (B, 8T, mels) -> (B T, d_model) and the new tails; frames, length: as in models/subsampling.py."""
        first, chunk = 8 * frames - 7, mel.shape[1] // 8
        mel = mel.masked_fill(~within(first, 8 * chunk, length)[:, :, None], 0.0)
        mel = torch.cat([tails[0], mel], dim=1)
        first, length = self._next(first, length)
        x = self._mel_stage(mel, ~within(first - 1, 4 * chunk + 1, length))
        first, length = self._next(first, length)
        x = self._stage(0, x, ~within(first, 2 * chunk, length))
        x = torch.cat([tails[1], x], dim=1)
        sub2 = x[:, -1:]
        first, length = self._next(first, length)
        x = self._stage(1, x.permute(0, 3, 1, 2), ~within(first, chunk, length))
        weight, bias = self._out
        return x.flatten(2).flatten(0, 1) @ weight + bias, (mel[:, -MEL_TAIL:], sub2)

    def _mel_stage(self, mel: Tensor, dead: Tensor) -> Tensor:
        """mel (B, 8T + 3, mels) -> (B, channels, 4T + 1, bands), zero in dead (B, 4T + 1) frames."""
        dead = F.pad(dead.repeat_interleave(2, dim=1).float(), (1, 0))  # at each output's newest frame
        bands = F.pad(mel, (2, 1))
        weight, bias = self._first
        return F.relu(F.conv2d(torch.stack([bands, dead[:, :, None].expand_as(bands)], dim=1), weight, bias, stride=2))

    def _stage(self, index: int, x: Tensor, dead: Tensor) -> Tensor:
        """x (B, channels, 2T + 1, bands) -> (B, T, bands', channels), zero in dead (B, T) frames."""
        x = self._depthwise[index](F.pad(x, (2, 1))).permute(0, 2, 3, 1)
        weight, bias = self._pointwise[index]
        y = F.relu(x.flatten(0, 2) @ weight + bias).view(x.shape)
        return y.masked_fill(dead[:, :, None, None], 0.0)
