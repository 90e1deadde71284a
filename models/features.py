"""Log-mel features in torch for batches of whole utterances, the numbers of features_np. Knows nothing of models."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.config import FFT, HOP, WINDOW
from models.features_np import BINS, HALF, LOG_GUARD, PREEMPHASIS, filterbank, window

GROUP_FRAMES = 64  # the filterbank's product has this many rows always, so that a row's numbers ignore its neighbours


class LogMel(nn.Module):
    """16 kHz PCM [B, n] with its lengths -> natural-log mel [B, n // 160, mels] and frames [B]; past the end is 0.0."""

    fb: Tensor  # [1, mels, 257], named and shaped as in NeMo's state dict
    window: Tensor  # [400]

    def __init__(self, mels: int, normalize: str = "none") -> None:
        super().__init__()
        if normalize not in ("none", "per_feature"):
            raise ValueError(f"features.normalize: got {normalize!r}, expected none or per_feature")
        self.normalize = normalize
        self.register_buffer("fb", torch.from_numpy(filterbank(mels))[None])
        self.register_buffer("window", torch.from_numpy(window()))

    def forward(self, pcm: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        frames = lengths // HOP
        places = pcm.shape[1] // HOP
        samples = F.pad(_emphasise(pcm, lengths), (HALF, HALF))
        if not places:
            return pcm.new_zeros(len(pcm), 0, self.fb.shape[1]), frames
        spectrum = torch.fft.rfft(samples.unfold(1, WINDOW, HOP)[:, :places] * self.window, FFT)
        mel = torch.log(self._bands(spectrum.real.square() + spectrum.imag.square()) + LOG_GUARD)
        real = (torch.arange(places, device=pcm.device)[None, :] < frames[:, None])[..., None]
        if self.normalize == "per_feature":
            mel = _per_feature(mel, real)
        return mel.masked_fill(~real, 0.0), frames

    def _bands(self, power: Tensor) -> Tensor:
        """[B, frames, 257] -> [B, frames, mels], in groups of 64 frames so that every product has one shape.

        Not on CUDA, where each product is a launch, and thousands of them take longer than all else.
        """
        if power.is_cuda:
            return power @ self.fb[0].T
        batch, places, _ = power.shape
        groups = F.pad(power, (0, 0, 0, -places % GROUP_FRAMES)).reshape(-1, GROUP_FRAMES, BINS)
        bands = torch.stack([group @ self.fb[0].T for group in groups])
        return bands.reshape(batch, -1, bands.shape[-1])[:, :places]


def _emphasise(pcm: Tensor, lengths: Tensor) -> Tensor:
    """y[t] = x[t] - 0.97 x[t-1], and zero from the length on: padding comes after the emphasis."""
    emphasised = pcm - PREEMPHASIS * F.pad(pcm[:, :-1], (1, 0))
    return emphasised.masked_fill(torch.arange(pcm.shape[1], device=pcm.device)[None, :] >= lengths[:, None], 0.0)


def _per_feature(mel: Tensor, real: Tensor) -> Tensor:
    """Mean 0 and deviation 1 (N - 1) of each band over the real frames; a single frame has deviation 0."""
    count = real.sum(1, keepdim=True)
    mean = (mel * real).sum(1, keepdim=True) / count.clamp(min=1)
    spread = (((mel - mean) * real).square().sum(1, keepdim=True) / (count - 1).clamp(min=1)).sqrt()
    return (mel - mean) / (spread + 1e-5)
