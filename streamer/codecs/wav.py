"""WAV as it comes, of any sample format, also with the sizes of a stream whose end nobody knew. Needs no library.

Knows nothing of what is heard. Samples of 16 bits are divided by 32768, all others likewise.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from streamer.codecs.piece import Broken, Source

if TYPE_CHECKING:
    from streamer.codecs.piece import Samples

PCM, FLOAT, ALAW, MULAW, EXTENSIBLE = 1, 3, 6, 7, 0xFFFE
STREAMED = 0x7FFF_0000  # a size from here on (0xFFFFFFFF, 0x7FFFFFFF) says: until the end; so does 0
BLOCKS = 4096  # of all channels, in one piece
MOST_HEADER_BYTES = 1 << 16  # of a fmt chunk; other chunks are passed over
WHAT = "a WAV file: RIFF, fmt, then data"


@dataclass(frozen=True, slots=True)
class Format:
    """What a `fmt ` chunk says."""

    tag: int
    channels: int
    rate: int
    width: int  # bytes of one sample of one channel

    @property
    def native(self) -> bool:
        """Read here; the others (ADPCM, GSM) need a codec."""
        return (self.tag, self.width) in _TO_FLOAT


def read_header(source: Source) -> tuple[Format, int | None, bytes]:
    """The format, the bytes of audio (None: until the end), and the header as it was; `source` is at the first sample.

    Raises Broken for what is no WAV.
    """
    head = source.exactly(12)
    if len(head) < 12 or head[:4] not in (b"RIFF", b"RF64") or head[8:] != b"WAVE":
        raise Broken(f"the bytes {head!r}", WHAT, 0)
    found: Format | None = None
    size64: int | None = None
    while len(chunk := source.exactly(8)) == 8:
        name, size = chunk[:4], int.from_bytes(chunk[4:], "little")
        if name == b"data":
            if found is None:
                raise Broken("samples before their format", WHAT, source.at)
            head += chunk
            if size == 0xFFFF_FFFF and size64:
                return found, size64, head
            return found, None if not size or size >= STREAMED else size, head
        if name not in (b"fmt ", b"ds64"):
            source.skip(size + size % 2)
            continue
        if size > MOST_HEADER_BYTES:
            raise Broken(f"a header of {size} bytes", WHAT, source.at)
        body = source.exactly(size + size % 2)
        head += chunk + body
        if name == b"fmt ":
            found = _format(body, source.at)
        elif len(body) >= 16:
            size64 = int.from_bytes(body[8:16], "little")
    raise Broken("the end of the file", WHAT, source.at)


def read_samples(source: Source, form: Format, size: int | None) -> Iterator[Samples]:
    """(n, channels) as they come; a block that is cut off at the end is no sample."""
    block = form.width * form.channels
    left = size if size is not None else 1 << 62
    held = b""
    while left and (data := source.read(min(left, BLOCKS * block))):
        left -= len(data)
        held += data
        whole = len(held) // block * block
        if whole:
            yield _TO_FLOAT[form.tag, form.width](held[:whole]).reshape(-1, form.channels)
            held = held[whole:]


def _format(body: bytes, at: int) -> Format:
    if len(body) < 16:
        raise Broken(f"a format of {len(body)} bytes", WHAT, at)
    tag, channels, rate, _, block, bits = struct.unpack_from("<HHIIHH", body)
    if tag == EXTENSIBLE and len(body) >= 26:
        tag = int.from_bytes(body[24:26], "little")
    width = block // channels if channels and block % channels == 0 else (bits + 7) // 8
    return Format(tag, channels, rate, width)


def _unsigned8(data: bytes) -> Samples:
    return (np.frombuffer(data, np.uint8).astype(np.float32) - np.float32(128)) / np.float32(128)


def _int16(data: bytes) -> Samples:
    return np.frombuffer(data, "<i2").astype(np.float32) / np.float32(1 << 15)


def _int24(data: bytes) -> Samples:
    wide = np.zeros((len(data) // 3, 4), np.uint8)
    wide[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
    return _int32(wide.tobytes())


def _int32(data: bytes) -> Samples:
    return (np.frombuffer(data, "<i4") / float(1 << 31)).astype(np.float32)


def _float32(data: bytes) -> Samples:
    return np.frombuffer(data, "<f4").astype(np.float32)


def _float64(data: bytes) -> Samples:
    with np.errstate(over="ignore"):  # what does not fit is infinite, and found by whoever checks the samples
        return np.frombuffer(data, "<f8").astype(np.float32)


def _alaw(data: bytes) -> Samples:
    from streamer.encodings import ALAW as TABLE

    return TABLE[np.frombuffer(data, np.uint8)]


def _mulaw(data: bytes) -> Samples:
    from streamer.encodings import MULAW as TABLE

    return TABLE[np.frombuffer(data, np.uint8)]


_TO_FLOAT = {
    (PCM, 1): _unsigned8,
    (PCM, 2): _int16,
    (PCM, 3): _int24,
    (PCM, 4): _int32,
    (FLOAT, 4): _float32,
    (FLOAT, 8): _float64,
    (ALAW, 1): _alaw,
    (MULAW, 1): _mulaw,
}
