"""Recordings as other rooms, microphones and lines would have made them: tempo, room, noise, line, codec, level.

Knows nothing of features, manifests or files. Audio is 16 kHz mono float32 in -1..1; all chance comes from the
generator, so that a seed gives the same recording for ever.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from models.config import SAMPLE_RATE

Samples = NDArray[np.float32]
LINE_RATE = 8000  # hertz, of a telephone
SHORTEST = 2000  # samples; what tempo makes shorter keeps its own
VOICE_HZ = (300.0, 3400.0)  # what a telephone line lets through
LINE_CODECS = (("WAV", "ULAW"), ("WAV", "ULAW"), ("WAV", "GSM610"), ("AU", "G721_32"))  # file type, coding
SILENCE = 1e-10  # mean square that is added, so that silence has a level


@dataclass(frozen=True, slots=True)
class Acoustics:
    """How often each change is made, and within which bounds it is drawn."""

    speed: tuple[float, float] = (0.86, 1.14)  # tempo and pitch together, as a tape's
    room_share: float = 0.25
    room_s: tuple[float, float] = (0.12, 0.6)  # until the room's answer has fallen by 60 dB
    noise_share: float = 0.6  # half of it recorded noise, a quarter voices, the rest coloured noise
    snr_db: tuple[float, float] = (2.0, 25.0)
    voices_snr_db: float = 6.0  # voices behind the speaker are at least so much softer
    telephone_share: float = 0.15  # 8 kHz, mostly coded as telephones do: mu-law, GSM, ADPCM
    codec_share: float = 0.1  # Opus, as calls over the internet are
    opus_level: tuple[float, float] = (0.93, 1.0)  # libsndfile's: about 24 to 9 kbit/s at 16 kHz
    gain_db: tuple[float, float] = (-14.0, 4.0)


def heard_elsewhere(
    audio: Samples, rng: np.random.Generator, others: Sequence[Samples], noises: Sequence[Samples], told: Acoustics
) -> Samples:
    """The recording changed as `told`; `others` are voices to be heard behind it, `noises` recorded noise."""
    changed = _tempo(audio, rng.uniform(*told.speed))
    if rng.random() < told.room_share:
        changed = _room(changed, rng, told)
    if rng.random() < told.noise_share:
        changed = _noise(changed, rng, others, noises, told)
    if rng.random() < told.telephone_share:
        changed = _telephone(changed, rng)
    if rng.random() < told.codec_share:
        level = float(rng.uniform(*told.opus_level))
        changed = _coded(changed, SAMPLE_RATE, "OGG", "OPUS", compression_level=level)
    gain = 10 ** (rng.uniform(*told.gain_db) / 20)
    return np.clip(changed * gain, -1, 1).astype(np.float32)


def _tempo(audio: Samples, speed: float) -> Samples:
    changed: Samples = soxr.resample(audio, SAMPLE_RATE * speed, SAMPLE_RATE, quality="MQ").astype(np.float32)
    return changed if len(changed) >= SHORTEST else audio


def _room(audio: Samples, rng: np.random.Generator, told: Acoustics) -> Samples:
    """The direct sound, and noise that decays exponentially after a few milliseconds."""
    size = int(rng.uniform(*told.room_s) * SAMPLE_RATE)
    decay = np.exp(-6.9 * np.arange(size) / size)  # 60 dB are a factor of e^6.9
    answer = rng.standard_normal(size) * decay / np.sqrt(np.sum(decay**2)) * 10 ** (rng.uniform(-10, 2) / 20)
    answer[: int(rng.uniform(0.001, 0.006) * SAMPLE_RATE)] = 0
    answer[0] = 1
    padded = 1 << (len(audio) + size - 2).bit_length()
    spectrum = np.fft.rfft(audio, padded) * np.fft.rfft(answer, padded)
    heard: Samples = np.fft.irfft(spectrum, padded)[: len(audio)].astype(np.float32)
    return heard


def _noise(
    audio: Samples, rng: np.random.Generator, others: Sequence[Samples], noises: Sequence[Samples], told: Acoustics
) -> Samples:
    kind, snr_db = rng.random(), rng.uniform(*told.snr_db)
    if kind < 0.55 and noises:
        noise = noises[int(rng.integers(len(noises)))]
    elif kind < 0.8 and others:
        noise = np.zeros(len(audio), np.float32)
        for _ in range(rng.integers(1, 6)):
            other = np.resize(others[int(rng.integers(len(others)))], len(audio))
            noise += np.roll(other, rng.integers(len(audio)))
        snr_db = max(snr_db, told.voices_snr_db)
    else:
        noise = _coloured(len(audio), rng)
    noise = np.resize(np.roll(noise, -rng.integers(len(noise))), len(audio))
    level = np.mean(audio**2) + SILENCE
    wanted = level / (np.mean(noise**2) + SILENCE) * 10 ** (-snr_db / 10)
    noisy: Samples = audio + noise * np.float32(np.sqrt(wanted))
    return noisy


def _coloured(size: int, rng: np.random.Generator) -> Samples:
    """From white noise to darker than pink."""
    hertz = np.fft.rfftfreq(size, 1 / SAMPLE_RATE) + 30
    spectrum = np.fft.rfft(rng.standard_normal(size)) * hertz ** -rng.uniform(0, 1.2)
    noise: Samples = np.fft.irfft(spectrum, size).astype(np.float32)
    return noise


def _telephone(audio: Samples, rng: np.random.Generator) -> Samples:
    line = soxr.resample(audio, SAMPLE_RATE, LINE_RATE, quality="MQ")
    if rng.random() < 0.5:
        spectrum = np.fft.rfft(line)
        hertz = np.fft.rfftfreq(len(line), 1 / LINE_RATE)
        spectrum[(hertz < VOICE_HZ[0]) | (hertz > VOICE_HZ[1])] = 0
        line = np.fft.irfft(spectrum, len(line))
    if rng.random() < 0.8:
        line = _coded(line.astype(np.float32), LINE_RATE, *LINE_CODECS[int(rng.integers(len(LINE_CODECS)))])
    heard: Samples = soxr.resample(line.astype(np.float32), LINE_RATE, SAMPLE_RATE, quality="MQ")
    return heard


def _coded(audio: Samples, rate: int, kind: str, coding: str, **how: float) -> Samples:
    """What is left of samples that a codec has packed and unpacked; no sample moves."""
    file = io.BytesIO()
    soundfile.write(file, np.clip(audio, -1, 1), rate, format=kind, subtype=coding, **how)
    file.seek(0)
    heard: Samples = soundfile.read(file, len(audio), dtype="float32")[0]
    return heard
