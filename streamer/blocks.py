"""One recording's bytes to blocks of 16 kHz samples, so that its length never matters. Knows nothing of folders.

Whole files of the kinds that the daemon decodes are decoded as it does it (`streamer.codecs`), so that the same bytes
give the same words; but for Ogg: libsndfile decodes Opus at the rate that was encoded, FFmpeg at 48 kHz alone, and
whoever reads a recording with libsndfile and streams its samples must get the words of the file. libsndfile also
reads the other kinds, parts of files, and all that it can where PyAV (the extra `codecs`) is missing; PyAV alone
reads the rest. All blocks together are, bit for bit, what one block as long as the recording would be (MP3 by
libsndfile to 1e-7), for mixing is elementwise and soxr's stream does not depend on its chunks.
"""

from __future__ import annotations

import importlib.util
import io
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from models.config import SAMPLE_RATE
from streamer.artefacts import how_to_add
from streamer.codecs import Damaged, NoCodecs, container_of, pieces
from streamer.codecs.piece import Broken, Piece, Source
from streamer.codecs.promised import missing
from streamer.codecs.wav import read_header
from streamer.encodings import first_wrong
from streamer.errors import printable

Samples = NDArray[np.float32]

FRAMES = 1 << 15  # read at once, always so many: in other portions MP3 comes out other by 1e-7
FEWEST = 256  # read at once where that fails
ROUNDED_S = 0.05  # a duration that near to the file's own is the file's, rounded
RATES = (1_000, 768_000)  # hertz; what a damaged header says beyond them would be resampled for hours
SLACK = 0.05  # an MP3 without an index guesses its length
HEAD_BYTES = 12  # that tell a container
logging.getLogger("libav").addHandler(logging.NullHandler())  # what FFmpeg mutters goes to no terminal: we say it


class Unreadable(Exception):
    """A file cannot be used, or not from here on; the text is one sentence that says which and why."""

    def __init__(self, sentence: str) -> None:
        super().__init__(printable(sentence))


class CutOff(Unreadable):
    """A file holds less than it says; what there is has been read."""


@dataclass(frozen=True, slots=True)
class Part:
    """Where in a file a recording lies, in seconds; a duration of 0 reaches to the end."""

    offset_s: float = 0.0
    duration_s: float = 0.0


WHOLE = Part()


def blocks(source: Path | io.BytesIO, name: str, part: Part = WHOLE, channel: int | None = None) -> Iterator[Samples]:
    """Float32 [n] at 16 kHz: one channel, or the mean of all.

    Raises Unreadable (once what lies before has been given out) for what is not audio, CutOff where there is less
    than the file says, or nothing at all.
    """
    resampler, rate, nothing = None, SAMPLE_RATE, True
    for samples, now in _raw(source, name, part):
        if not RATES[0] <= now <= RATES[1]:
            raise Unreadable(f"{name}: got {now} Hz, expected {RATES[0]} to {RATES[1]} Hz")
        if now != rate:  # most often the first one's; chained Ogg may change it later
            if resampler is not None:
                yield resampler.resample_chunk(_NOTHING, last=True)
            rate = now
            resampler = soxr.ResampleStream(rate, SAMPLE_RATE, 1, "float32", "HQ") if rate != SAMPLE_RATE else None
        wrong = first_wrong(samples.reshape(-1))
        good = samples if wrong is None else samples[: wrong // samples.shape[1]]
        if len(good):
            nothing = False
            heard = _heard(good, channel)
            yield heard if resampler is None else resampler.resample_chunk(heard)
        if wrong is not None:
            raise Unreadable(f"{name}: {_what_is_wrong(samples)}")
    if resampler is not None:
        yield resampler.resample_chunk(_NOTHING, last=True)
    if nothing:
        raise CutOff(f"{name}: holds no samples")
    missing_s = _missing_s(source) if not part.duration_s else 0.0
    if missing_s:
        raise CutOff(f"{name}: ends {missing_s:.2f} s before its header says (cut off?)")


_NOTHING = np.zeros(0, np.float32)


def whole(source: Path | io.BytesIO, name: str, part: Part = WHOLE) -> Samples:
    """All blocks in one. What is cut off is as long as it is."""
    read = [_NOTHING]
    with suppress(CutOff):
        read.extend(blocks(source, name, part))
    return np.concatenate(read)


def channels_of(source: Path | io.BytesIO, name: str) -> int:
    """How many channels the recording has."""
    for samples, _ in _raw(source, name, WHOLE):
        return int(samples.shape[1])
    raise CutOff(f"{name}: holds no samples")


def _heard(samples: Samples, channel: int | None) -> Samples:
    if channel is None and samples.shape[1] > 1:
        mean: Samples = samples.mean(axis=1, dtype=np.float32)
        return mean
    return np.ascontiguousarray(samples[:, min(channel or 0, samples.shape[1] - 1)])


def _what_is_wrong(samples: Samples) -> str:
    if not np.isfinite(samples).all():
        return "holds samples that are not numbers (NaN or infinite)"
    peak = float(np.abs(samples).max(initial=0.0))
    return f"got samples up to {peak:.3g}, expected floats within -1..1 (is it 16-bit audio?)"


# Where the samples come from: [n, channels] with their rate, in hertz.


def _raw(source: Path | io.BytesIO, name: str, part: Part) -> Iterator[tuple[Samples, int]]:
    known = _known(source, name) if part == WHOLE and importlib.util.find_spec("av") is not None else None
    if known not in (None, "wav", "ogg"):
        yield from _decoded(source, name, "")
        return
    _rewind(source)
    try:
        file = _Straight(os.fsencode(source) if isinstance(source, Path) and os.name == "posix" else source)
    except (soundfile.LibsndfileError, OSError, TypeError) as error:  # TypeError: *.raw, which says nothing of itself
        yield from _sliced(_decoded(source, name, _reason(error)), name, part)
        return
    with file:
        if file.frames == 0 and file.format.startswith("WAV"):  # whoever wrote it never came back to fill in its size
            yield from _sliced(_decoded(source, name, "no samples"), name, part)
        else:
            try:
                yield from _by_libsndfile(file, name, part)
                if known == "ogg":
                    _check_last_page(source, name)
            except soundfile.LibsndfileError as error:  # of a place that it could not go to
                raise Unreadable(f"{name}: damaged ({_reason(error) or 'it cannot be decoded'})") from None


def _check_last_page(source: Path | io.BytesIO, name: str) -> None:
    with _bytes_of(source) as file:
        if (lack := missing(file, "ogg", 0, 0)) is not None:
            raise CutOff(f"{name}: ends {lack} (cut off?)")


def _known(source: Path | io.BytesIO, name: str) -> str | None:
    """The container that `streamer.codecs` reads, None if it is none of those."""
    try:
        with _bytes_of(source) as file:
            return container_of(file.read(HEAD_BYTES))
    except OSError as error:
        raise Unreadable(f"{name}: cannot be read ({error.strerror or error})") from None


class _Straight(soundfile.SoundFile):  # type: ignore[misc]  # soundfile has no types
    """Goes straight on. After each read soundfile seeks to where it is, if it may, and MP3 is wrong behind any seek."""

    def seekable(self) -> bool:
        return False


def _by_libsndfile(file: soundfile.SoundFile, name: str, part: Part) -> Iterator[tuple[Samples, int]]:
    rate: int = file.samplerate
    start, end = _span(part, file.frames, rate, name)
    at, frames = 0, FRAMES
    if start and file.format != "MP3":  # libsndfile's MP3 is wrong for a quarter of a second behind it
        at = file.seek(start)
    while at < end:
        try:
            samples = file.read(frames, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            if frames > FEWEST:  # what lies before the damage can be read in smaller portions
                frames = FEWEST
                file.seek(at)
                continue
            reason = _reason(error) or "it cannot be decoded"
            raise Unreadable(f"{name}: damaged behind {at / rate:.2f} s ({reason})") from None
        if not len(samples):
            if end - at > SLACK * end:
                raise CutOff(f"{name}: ends at {at / rate:.2f} s, expected {end / rate:.2f} s (cut off?)")
            return
        yield samples[max(0, start - at) : end - at], rate
        at += len(samples)


def _span(part: Part, length: int, rate: int, name: str) -> tuple[int, int]:
    """First frame of a part, and the first one behind it."""
    if part.offset_s and part.offset_s * rate >= length:
        raise Unreadable(f"{name}: offset {part.offset_s:g} s lies behind its end at {length / rate:.2f} s")
    start = round(part.offset_s * rate)
    left_s = (length - start) / rate
    to_the_end = not part.duration_s or part.duration_s >= left_s
    if not part.offset_s:  # most manifests give the file's own duration, rounded
        to_the_end |= part.duration_s >= left_s - ROUNDED_S
    return start, length if to_the_end else start + round(part.duration_s * rate)


def _decoded(source: Path | io.BytesIO, name: str, reason: str) -> Iterator[tuple[Samples, int]]:
    """What our own decoders, or PyAV alone, make of a file that libsndfile gives up for this reason."""
    try:
        with _bytes_of(source) as file:
            known = container_of(file.read(HEAD_BYTES))
            file.seek(0)
            if known is None:
                yield from _by_pyav(file, name, f"not audio that libsndfile reads ({reason})")
                return
            count = rate = 0
            for samples, rate in _joined(pieces(file, known)):
                yield samples, rate
                count += len(samples)
            if (lack := missing(file, known, count, rate)) is not None:
                raise CutOff(f"{name}: ends {lack} (cut off?)")
    except OSError as error:
        raise Unreadable(f"{name}: cannot be read ({error.strerror or error})") from None
    except NoCodecs:
        raise Unreadable(f"{name}: audio that needs PyAV, which is not installed: {how_to_add('codecs')}") from None
    except Damaged as damaged:
        raise Unreadable(f"{name}: {damaged}") from None


def _joined(small: Iterator[Piece]) -> Iterator[tuple[Samples, int]]:
    """Pieces of some milliseconds in portions of FRAMES or a little more, for each costs a resampler's call."""
    held: list[Samples] = []
    rate = count = 0
    try:
        for piece in small:
            if held and (piece.sample_rate != rate or piece.samples.shape[1] != held[0].shape[1]):
                yield np.concatenate(held), rate
                held, count = [], 0
            held.append(piece.samples)
            rate, count = piece.sample_rate, count + len(piece.samples)
            if count >= FRAMES:
                yield np.concatenate(held), rate
                held, count = [], 0
    except Damaged:
        if held:
            yield np.concatenate(held), rate
        raise
    if held:
        yield np.concatenate(held), rate


def _by_pyav(file: BinaryIO, name: str, otherwise: str) -> Iterator[tuple[Samples, int]]:
    """Anything FFmpeg knows and a person may have on disk (AAC, WMA, AVI); it opens no file but this one."""
    if importlib.util.find_spec("av") is None:
        raise Unreadable(f"{name}: {otherwise}")
    import av

    try:
        opened = av.open(file, "r", container_options={"protocol_whitelist": "none"}, metadata_errors="ignore")
    except (av.error.FFmpegError, ValueError):
        raise Unreadable(f"{name}: {otherwise}") from None
    with opened:
        if not opened.streams.audio:
            raise Unreadable(f"{name}: {otherwise}")
        to_float = av.AudioResampler(format="fltp")
        at_s = 0.0
        try:
            for frame in opened.decode(opened.streams.audio[0]):
                for planes in to_float.resample(frame):
                    yield planes.to_ndarray().T.astype(np.float32), planes.sample_rate
                    at_s += planes.samples / planes.sample_rate
        except av.error.FFmpegError as error:
            raise Unreadable(f"{name}: damaged behind {at_s:.2f} s ({error.strerror})") from None


def _sliced(raw: Iterator[tuple[Samples, int]], name: str, part: Part) -> Iterator[tuple[Samples, int]]:
    """A part of a stream whose length nobody knows."""
    at_s = 0.0
    end_s = part.offset_s + part.duration_s if part.duration_s else float("inf")
    for samples, rate in raw:
        first, behind = (part.offset_s - at_s) * rate, min(len(samples), (end_s - at_s) * rate)
        at_s += len(samples) / rate
        if (wanted := samples[max(0, round(first)) : max(0, round(behind))]).size:
            yield wanted, rate
        if at_s >= end_s:
            return
    if part.offset_s and part.offset_s >= at_s:
        raise Unreadable(f"{name}: offset {part.offset_s:g} s lies behind its end at {at_s:.2f} s")


def _missing_s(source: Path | io.BytesIO) -> float:
    """What a WAV's header promises beyond the file's end, in seconds; 0 for what says nothing of it."""
    try:
        with _bytes_of(source) as file:
            place = Source(file)
            form, size, _ = read_header(place)
            missing = (size or 0) - (file.seek(0, io.SEEK_END) - place.at) if form.native else 0
            return max(0, missing // (form.width * form.channels)) / form.rate
    except (Broken, OSError):
        return 0.0


@contextmanager
def _bytes_of(source: Path | io.BytesIO) -> Iterator[BinaryIO]:
    _rewind(source)
    if isinstance(source, Path):
        with source.open("rb") as file:
            yield file
    else:
        yield source


def _rewind(source: Path | io.BytesIO) -> None:
    if not isinstance(source, Path):
        source.seek(0)


def _reason(error: Exception) -> str:
    reason = getattr(error, "error_string", "") or getattr(error, "strerror", "") or str(error)
    return reason.rstrip(".")
