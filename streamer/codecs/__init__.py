"""Compressed audio and WAV, decoded as the bytes come: pieces of samples at the rate they were recorded at.

Knows nothing of streams, sessions or processes. What strangers send belongs into a process of its own
(`streamer.decoder`): the decoders are C. PyAV (the extra `codecs`) is imported where it is needed; WAV goes without.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from streamer.audio import container
from streamer.codecs.piece import Broken, Damaged, NoCodecs, Piece, Readable, Source, plain
from streamer.codecs.wav import read_header, read_samples
from streamer.encodings import first_wrong

if TYPE_CHECKING:
    from streamer.codecs.piece import Samples

__all__ = [
    "CONTAINERS",
    "MOST_CHANNELS",
    "RATES",
    "Damaged",
    "NoCodecs",
    "Piece",
    "Readable",
    "Source",
    "check_installed",
    "container_of",
    "pieces",
]

CONTAINERS = ("webm", "ogg", "flac", "mp3", "mp4", "wav")
RATES = (8_000, 192_000)  # hertz
MOST_CHANNELS = 8
HEAD_BYTES = 12  # that tell a container


def check_installed(container: str) -> None:
    """Raise NoCodecs where this container cannot be decoded."""
    assert container in CONTAINERS, f"container: got {container!r}, expected one of {', '.join(CONTAINERS)}"
    if container != "wav" and importlib.util.find_spec("av") is None:
        raise NoCodecs(container)


def container_of(head: bytes) -> str | None:
    """The container that a file begins with (12 bytes are enough), None if it is none of ours.

    Of a file one MP3 sync is proof enough; among bare samples it would not be.
    """
    if (known := container(head)) is not None:
        return known
    sync = len(head) > 1 and head[0] == 0xFF and head[1] & 0xE6 == 0xE2
    return "mp3" if head[:3] == b"ID3" or sync else None


def pieces(file: Readable, container: str | None = None) -> Iterator[Piece]:
    """The samples of a file or stream, each as soon as its bytes are there; the container is told by its head if None.

    `file.read(n)` may give fewer bytes than asked and b"" at the end. An MP4 with its index behind the samples needs
    a file at its first byte that can seek. Rate and channels stay as they are recorded;
    a change of them between pieces is allowed. What is cut off behind its header is no damage. Video is passed over.

    Raises Damaged for bytes that are no audio (the samples before them have been given out), NoCodecs without PyAV.
    """
    source = Source(file)
    seconds = 0.0
    try:
        for samples, rate in _read(source, container):
            _check(samples, rate, source.at)
            wrong = first_wrong(samples.reshape(-1))
            good = samples if wrong is None else samples[: wrong // samples.shape[1]]
            if good.size:
                yield Piece(good, rate)
                seconds += len(good) / rate
            if wrong is not None:
                value = plain(f"a sample of {samples.reshape(-1)[wrong]:g}")
                raise Broken(value, "samples, finite and within -1..1", source.at)
    except Broken as broken:
        raise Damaged(broken.got, broken.expected, broken.at_byte, seconds) from None


def _read(source: Source, container: str | None) -> Iterator[tuple[Samples, int]]:
    if container is None:
        head = source.exactly(HEAD_BYTES)
        source.unread(head)
        container = container_of(head)
        if container is None:
            raise Broken(f"the bytes {head!r}" if head else "nothing", f"one of {', '.join(CONTAINERS)}", 0)
    check_installed(container)
    match container:
        case "wav":
            return _wav(source)
        case "mp3":
            from streamer.codecs.mp3 import read_mp3

            return read_mp3(source)
        case "flac":
            from streamer.codecs.flac import read_flac

            return read_flac(source)
        case _:
            from streamer.codecs.demuxed import read_demuxed

            return read_demuxed(source, container)


def _wav(source: Source) -> Iterator[tuple[Samples, int]]:
    form, size, head = read_header(source)
    _check(np.zeros((0, form.channels), np.float32), form.rate, source.at)
    if form.native:
        for samples in read_samples(source, form, size):
            yield samples, form.rate
        return
    if importlib.util.find_spec("av") is None:
        expected = "PCM, floats, mu-law or A-law (streamer-asr[codecs] has more)"
        raise Broken(f"WAV format {form.tag} of {8 * form.width} bits", expected, source.at)
    from streamer.codecs.demuxed import read_demuxed

    source.unread(head)
    yield from read_demuxed(source, "wav")


def _check(samples: Samples, rate: int, at_byte: int) -> None:
    """Raise Broken for what no recording has."""
    if not RATES[0] <= rate <= RATES[1]:
        raise Broken(f"{rate} Hz", f"{RATES[0]} to {RATES[1]} Hz", at_byte)
    if not 1 <= samples.shape[1] <= MOST_CHANNELS:
        raise Broken(f"{samples.shape[1]} channels", f"1 to {MOST_CHANNELS} channels", at_byte)
