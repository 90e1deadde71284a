"""How features are disturbed as they are drawn: another voice, noise and level on log-mel frames, and masks.

What would have happened to the sound happens to its log-mel frames, nearly: a voice of another size moves the
spectrum along the frequency axis, noise adds its power to each band. So no batch is ever the same.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.config import SAMPLE_RATE
from models.features_np import BINS, filterbank

Floats = NDArray[np.float32]

NEPERS = np.log(10.0) / 10.0  # of log power, a decibel
UNWARPED = 0.6  # of the Nyquist frequency: above it the warped axis runs straight to where it ends
GRAINS = 4.0  # of a band's noise power in a frame, a gamma variable of so many degrees
SWELL_DB, SWELL_FRAMES = 3.0, 40  # how noise comes and goes
TILT_DB = 12.0  # of noise from the lowest band to the highest, either way
BUMPS_DB, BUMPS = 6.0, 8  # of its spectrum between
LOUD = 0.5  # share of the frames that say how loud the speech is: those that are louder


@dataclass(frozen=True, slots=True)
class Augment:
    """How much of it; all zero means not at all."""

    freq_masks: int = 2
    freq_width: int = 20  # mel bands, the widest
    time_masks: int = 3
    time_width: float = 0.05  # share of the utterance, the widest
    gain_db: float = 6.0  # level drawn from -gain_db ... +gain_db
    warp: float = 0.0  # frequencies times 1 - warp ... 1 + warp: a longer or shorter vocal tract
    noise: float = 0.0  # share of the utterances that get noise, of a spectrum of its own each
    noise_db: float = 5.0  # the least by which speech is above it
    quiet_db: float = 30.0  # and the most


def sounded(mel: Floats, rng: np.random.Generator, augment: Augment) -> Floats:
    """Another voice, noise, level: log-mel [frames, mels], unnormalised, to the same; the argument is left alone."""
    if augment.warp:
        mel = warped(mel, float(rng.uniform(1.0 - augment.warp, 1.0 + augment.warp)))
    if augment.noise and rng.random() < augment.noise:
        mel = np.logaddexp(mel, noise(mel, rng, float(rng.uniform(augment.noise_db, augment.quiet_db))))
    if augment.gain_db:  # the guard of the log is far below speech
        mel = mel + np.float32(rng.uniform(-augment.gain_db, augment.gain_db) * NEPERS)
    return mel


def warped(mel: Floats, factor: float) -> Floats:
    """The spectrum with its frequencies times `factor`, as far as the scale goes (Jaitly and Hinton 2013)."""
    centres, top = _centres(mel.shape[1]), SAMPLE_RATE / 2
    knee = UNWARPED * top * min(1.0, 1.0 / factor)
    came = np.interp(centres, [0.0, knee * factor, top], [0.0, knee, top])
    place = np.interp(came, centres, np.arange(len(centres)))
    below = np.minimum(place.astype(np.int64), len(centres) - 2)
    share = (place - below).astype(np.float32)
    return mel[:, below] * (1 - share) + mel[:, below + 1] * share


def noise(mel: Floats, rng: np.random.Generator, below_db: float) -> Floats:
    """Log-mel frames of noise of as many frames, so many decibels below the louder frames of `mel`."""
    frames, mels = mel.shape
    axis = np.linspace(0.0, 1.0, mels)
    bumps = np.interp(axis, np.linspace(0.0, 1.0, BUMPS), rng.normal(0.0, BUMPS_DB, BUMPS))
    spectrum = (rng.uniform(-TILT_DB, TILT_DB) * (axis - 0.5) + bumps) * NEPERS + np.log(_widths(mels))
    swells = rng.normal(0.0, SWELL_DB * NEPERS, frames // SWELL_FRAMES + 2)
    swell = np.interp(np.arange(frames) / SWELL_FRAMES, np.arange(len(swells)), swells)
    grains = np.log(rng.standard_gamma(GRAINS, (frames, mels), np.float32) / np.float32(GRAINS) + np.float32(1e-6))
    made = (grains + (swell[:, None] + spectrum).astype(np.float32)).astype(np.float32)
    powers = np.exp(mel.astype(np.float64)).sum(1)
    speech = np.log(np.sort(powers)[int(LOUD * len(powers)) :].mean())
    level = np.log(np.exp(made.astype(np.float64)).sum(1).mean())
    return made + np.float32(speech - level - below_db * NEPERS)


def masked(mel: Floats, rng: np.random.Generator, augment: Augment) -> None:
    """Masks set to the utterance's mean (SpecAugment), in place; slices, not element-wise."""
    frames, mels = mel.shape
    mean = mel.mean()
    for _ in range(augment.freq_masks):
        width = int(rng.integers(0, augment.freq_width + 1))
        start = int(rng.integers(0, mels - width + 1))
        mel[:, start : start + width] = mean
    for _ in range(augment.time_masks):
        width = int(rng.integers(0, int(augment.time_width * frames) + 1))
        start = int(rng.integers(0, frames - width + 1))
        mel[start : start + width] = mean


@functools.cache
def _centres(mels: int) -> NDArray[Any]:
    """Hertz of each band's middle."""
    bank = filterbank(mels).astype(np.float64)
    hertz = np.linspace(0.0, SAMPLE_RATE / 2, BINS)
    found = bank.sum(1) > 0
    middles: NDArray[Any] = np.interp(
        np.arange(mels), np.flatnonzero(found), (bank @ hertz)[found] / bank.sum(1)[found]
    )
    return middles


@functools.cache
def _widths(mels: int) -> NDArray[Any]:
    """What white noise of power 1 a bin comes to in each band."""
    return np.maximum(filterbank(mels).astype(np.float64).sum(1), 1e-6)
