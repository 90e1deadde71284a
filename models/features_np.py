"""Log-mel features in NumPy, whole or chunk by chunk; owns filterbank and window. Knows nothing of torch or models."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models.config import FFT, HOP, SAMPLE_RATE, SUBSAMPLING, WINDOW

Array = NDArray[np.float32]

PREEMPHASIS = 0.97
LOG_GUARD = 2.0**-24
BINS = FFT // 2 + 1
HALF = WINDOW // 2  # a frame is centred on sample HOP * t and reads HALF samples on either side
TAIL = HALF + (HALF - HOP) + 1  # 241: what a chunk reads again of the samples before it, one of them for pre-emphasis
LAG = SUBSAMPLING * HOP - HALF  # 1080: a chunk's samples begin this much before its first encoder frame's
LEAD = SUBSAMPLING - 1  # mel places of a stream's first chunk that precede the audio
FRAMES_AT_ONCE = 32
BLOCK_FRAMES = 2048  # whole files are worked through in blocks of this many frames, to bound memory


def window() -> Array:
    """Symmetric Hann window, float32 [400]."""
    return (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / (WINDOW - 1))).astype(np.float32)


def _mel_to_hz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    """Slaney's scale: linear to 1 kHz (15 mel), then 27 steps for each factor of 6.4."""
    return np.where(mel < 15.0, mel * 200.0 / 3.0, 1000.0 * np.exp((np.maximum(mel, 15.0) - 15.0) * np.log(6.4) / 27.0))


def filterbank(mels: int) -> Array:
    """Triangular filters of equal area from 0 Hz to the Nyquist frequency, float32 [mels, 257]."""
    top = 15.0 + 27.0 * np.log(SAMPLE_RATE / 2 / 1000.0) / np.log(6.4)
    edges = _mel_to_hz(np.linspace(0.0, top, mels + 2))
    bins = np.linspace(0.0, SAMPLE_RATE / 2, BINS)
    width = np.diff(edges)
    rise = (bins[None, :] - edges[:-2, None]) / width[:-1, None]
    fall = (edges[2:, None] - bins[None, :]) / width[1:, None]
    triangles = np.maximum(0.0, np.minimum(rise, fall))
    return (triangles * (2.0 / (edges[2:] - edges[:-2]))[:, None]).astype(np.float32)


def per_feature(mel: Array) -> Array:
    """Each mel band of one utterance [frames, mels] to mean 0 and deviation 1 (N - 1), as offline models want it."""
    if len(mel) == 0:
        return mel
    spread = mel.std(axis=0, ddof=1) if len(mel) > 1 else np.zeros(mel.shape[1], np.float32)
    return ((mel - mel.mean(axis=0)) / (spread + np.float32(1e-5))).astype(np.float32)


def samples_needed(chunk_index: int, chunk: int) -> int:
    """Samples that chunk `chunk_index` takes when it is not the last one: the first takes 1080 fewer."""
    return SUBSAMPLING * HOP * chunk - (LAG if chunk_index == 0 else 0)


class StreamingFeatures:
    """Log-mel frames of 16 kHz PCM; holds constants only, the caller keeps each stream's tail of 241 samples."""

    def __init__(self, mels: int, fb: Array | None = None, window_: Array | None = None) -> None:
        self.mels = mels
        self.fb = filterbank(mels) if fb is None else np.asarray(fb, np.float32).reshape(mels, BINS)
        taper = window() if window_ is None else np.asarray(window_, np.float32)
        self._taper = np.ascontiguousarray(taper)
        self._fb_t = np.ascontiguousarray(self.fb.T)

    def log_mel(self, pcm: Array) -> Array:
        """Whole utterance: float32 [n] -> [n // 160, mels]."""
        frames = len(pcm) // HOP
        before = np.zeros(HALF + 1, np.float32)
        padded = np.concatenate([before, np.asarray(pcm, np.float32), np.zeros(HALF, np.float32)])
        emphasised = _emphasise(padded[None], HALF + 1 + len(pcm))
        out = np.empty((frames, self.mels), np.float32)
        for start in range(0, frames, BLOCK_FRAMES):
            count = min(BLOCK_FRAMES, frames - start)
            out[start : start + count] = self._mel(emphasised[:, start * HOP :], count)[0]
        return out

    def chunk_mel(
        self, tail: Array, tail_len: int, pcm: Array, first_sample: int, last: bool, C: int
    ) -> tuple[Array, int, Array]:
        """One chunk of one stream: (mel [8C, mels], valid, new tail [241]).

        `tail` holds the samples before `pcm`, the last `tail_len` of them real; `first_sample` counts pcm[0] from the
        stream's start (0 for the first chunk). `valid` counts the frames of the 8C places that precede the end.
        """
        tails = np.zeros((1, TAIL), np.float32)
        if tail_len:
            tails[0, -tail_len:] = tail[-tail_len:]
        mel, valid, new_tails = self.chunk_mel_rows(tails, [pcm], [first_sample], [last], C)
        return mel[0], int(valid[0]), new_tails[0]

    def chunk_mel_rows(
        self, tails: Array, pcm: Sequence[Array], first_samples: Sequence[int], last: Sequence[bool], C: int
    ) -> tuple[Array, NDArray[np.int64], Array]:
        """One chunk of B streams: tails [B, 241], zeros before a start -> (mel [B, 8C, mels], valid [B], new tails).

        A row's numbers do not depend on the other rows: every matrix product has the shape of one row.
        """
        places = SUBSAMPLING * C
        full = places * HOP
        buffer = np.zeros((len(pcm), TAIL + full), np.float32)
        buffer[:, :TAIL] = tails
        ends = np.empty(len(pcm), np.int64)
        valid = np.empty(len(pcm), np.int64)
        new_tails = np.empty((len(pcm), TAIL), np.float32)
        firsts = np.empty(len(pcm), np.int64)
        for row, samples in enumerate(pcm):
            lead = LAG if first_samples[row] == 0 else 0
            _check(len(samples), full - lead, bool(last[row]))
            ends[row] = TAIL + lead + len(samples)
            buffer[row, TAIL + lead : ends[row]] = samples
            firsts[row] = LEAD if lead else 0
            heard = first_samples[row] + len(samples)
            valid[row] = self._valid(heard, first_samples[row], places) if last[row] else places
            new_tails[row] = buffer[row, ends[row] - TAIL : ends[row]]
        mel = self._mel(_emphasise(buffer, ends), places)
        place = np.arange(places)[None, :]
        mel[(place < firsts[:, None]) | (place >= valid[:, None])] = 0.0
        return mel, valid, new_tails

    @staticmethod
    def _valid(heard: int, first_sample: int, places: int) -> int:
        """Places of the last chunk that precede the end, when `heard` samples make up the whole stream."""
        first_place = (first_sample + LAG) // HOP - LEAD if first_sample else -LEAD
        return min(places, max(0, heard // HOP - first_place))

    def _mel(self, emphasised: Array, frames: int) -> Array:
        """Emphasised samples [B, >= 160 (frames - 1) + 400] -> natural-log mel [B, frames, mels].

        A few frames at a time: what lies between stays in the processor's cache, and no product is so large that the
        library behind NumPy puts threads of its own to it, which would wait for processors that others use.
        """
        out = np.empty((len(emphasised), frames, self.mels), np.float32)
        windows = np.lib.stride_tricks.sliding_window_view(emphasised, WINDOW, axis=1)[:, ::HOP]
        rows = max(1, FRAMES_AT_ONCE // max(1, frames))
        for row in range(0, len(emphasised), rows):
            for start in range(0, frames, FRAMES_AT_ONCE):
                block = (slice(row, row + rows), slice(start, min(start + FRAMES_AT_ONCE, frames)))
                spectrum = np.fft.rfft(windows[block] * self._taper, FFT, axis=-1)
                parts = spectrum.astype(np.complex64, copy=False).view(np.float32)  # NumPy 1 transforms in double
                np.square(parts, out=parts)
                np.matmul(parts[..., 0::2] + parts[..., 1::2], self._fb_t, out=out[block])
        out += np.float32(LOG_GUARD)
        return np.log(out, out=out)


def _emphasise(samples: Array, ends: NDArray[np.int64] | int) -> Array:
    """y[t] = x[t] - 0.97 x[t-1] for t >= 1; zero from a row's end on, since padding comes after the emphasis."""
    out = samples[:, 1:] - np.float32(PREEMPHASIS) * samples[:, :-1]
    out[np.arange(1, samples.shape[1])[None, :] >= np.asarray(ends).reshape(-1, 1)] = 0.0
    return out


def _check(got: int, full: int, last: bool) -> None:
    if got > full or (got == full and last) or (got < full and not last):
        expected = f"fewer than {full}" if last else f"exactly {full}"
        raise ValueError(f"features.pcm: got {got} samples, expected {expected}")
