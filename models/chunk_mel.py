"""Log-mel features of one chunk of many streams with static shapes, for a device. Owns no state, only constants.

The numbers of features_np.chunk_mel_rows up to rounding: the transform is a product with windowed cosines and sines,
float32 whatever the model's dtype is. Knows nothing of models or slots' owners.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from models.config import FFT, HOP, SUBSAMPLING, WINDOW
from models.features_np import BINS, LOG_GUARD, PREEMPHASIS, TAIL


class ChunkMel(nn.Module):
    """`fb` [mels, 257] and `window` [400] are the checkpoint's own."""

    def __init__(self, fb: Tensor, window: Tensor) -> None:
        super().__init__()
        angle = 2 * np.pi / FFT * np.outer(np.arange(WINDOW), np.arange(BINS))
        waves = np.concatenate([np.cos(angle), np.sin(angle)], axis=1) * window.double().numpy()[:, None]
        self.waves: Tensor
        self.fb: Tensor
        self.register_buffer("waves", torch.from_numpy(waves.astype(np.float32)))
        self.register_buffer("fb", fb.reshape(-1, BINS).float().T.contiguous())

    def forward(self, tails: Tensor, pcm: Tensor, bounds: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """tails (B, 241) and pcm (B, 1280 C) float32 -> mel (B, 8C, mels) natural log, and the new tails (B, 241).

        bounds, each (B,): samples of `pcm` that are heard or precede the stream; the first mel place of the audio (7 in
        a stream's first chunk, else 0); how many places precede its end. Places outside of these are 0.0.
        """
        used, first, valid = bounds
        places = SUBSAMPLING * pcm.shape[1] // (SUBSAMPLING * HOP)
        samples = torch.cat([tails, pcm], dim=1)
        ends = used + TAIL
        index = torch.arange(samples.shape[1], device=pcm.device)
        emphasised = samples[:, 1:] - PREEMPHASIS * samples[:, :-1]
        emphasised = emphasised.masked_fill(index[None, 1:] >= ends[:, None], 0.0)
        spectrum = emphasised.unfold(1, WINDOW, HOP)[:, :places].reshape(-1, WINDOW) @ self.waves
        power = spectrum.square().view(-1, 2, BINS).sum(1)
        mel = torch.log(power @ self.fb + LOG_GUARD).view(len(pcm), places, -1)
        place = torch.arange(places, device=pcm.device)[None, :]
        mel = mel.masked_fill(((place < first[:, None]) | (place >= valid[:, None]))[..., None], 0.0)
        newest = (ends[:, None] - TAIL + index[None, :TAIL]).long()
        return mel, samples.gather(1, newest)
