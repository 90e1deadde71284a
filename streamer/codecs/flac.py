"""FLAC as it comes: finds the frames, which carry no length. Knows nothing of what is heard.

A frame ends where a header with the right checksum and the next number begins (RFC 9639 section 9). PyAV's parser
wants ten headers to be sure and so lags a second behind.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from av.packet import Packet

from streamer.codecs.id3 import skip_id3
from streamer.codecs.piece import Broken, Source
from streamer.codecs.sound import Sound, opened

if TYPE_CHECKING:
    from streamer.codecs.piece import Samples

READ_BYTES = 1 << 14
STREAMINFO_BYTES = 34
LONGEST_HEADER = 16  # bytes of a frame
SHORTEST_FRAME = 6
LOST = 64  # frames that damage may swallow before the next header counts as no successor
WHAT = "a FLAC stream: fLaC, STREAMINFO, then frames"
_BLOCK_SIZES = {1: 192, **{n: 576 << n - 2 for n in range(2, 6)}, **{n: 256 << n - 8 for n in range(8, 16)}}
_BITS = {1: 8, 2: 12, 4: 16, 5: 20, 6: 24, 7: 32}


@dataclass(frozen=True, slots=True)
class Frame:
    """What a frame's header says."""

    variable: bool  # `number` counts samples, else frames
    number: int
    block: int  # samples of one channel
    most_bytes: int  # that a frame of this block can have

    def followed_by(self, other: Frame) -> bool:
        """True if `other` is the next frame, or one soon after it."""
        step = self.block if self.variable else 1
        return self.variable == other.variable and step <= other.number - self.number <= step * LOST


def read_flac(source: Source) -> Iterator[tuple[Samples, int]]:
    """(samples, rate) frame by frame; raises Broken."""
    skip_id3(source)
    context = opened("flac")
    context.extradata = _stream_info(source)
    sound = Sound(context, source)
    for data, at in _frames(source):
        yield from sound.decode(Packet(data), at)
    yield from sound.end()


def _stream_info(source: Source) -> bytes:
    """The first metadata block; passes over the others."""
    mark = source.exactly(4)
    if mark != b"fLaC":
        raise Broken(f"the bytes {mark!r}", WHAT, source.at)
    info = b""
    last = False
    while not last:
        head = source.exactly(4)
        if len(head) < 4:
            raise Broken("the end of the file", WHAT, source.at)
        last, kind, size = bool(head[0] & 0x80), head[0] & 0x7F, int.from_bytes(head[1:], "big")
        if not info:
            if kind != 0 or size != STREAMINFO_BYTES:
                raise Broken(f"a first block of kind {kind} and {size} bytes", WHAT, source.at)
            info = source.exactly(size)
        else:
            source.skip(size)
    return info


def _frames(source: Source) -> Iterator[tuple[bytes, int]]:
    """Each frame's bytes and where it begins."""
    held = bytearray()
    start = source.at
    current: Frame | None = None
    searched = 0
    while data := source.read(READ_BYTES):
        held += data
        while True:
            if current is None:
                if len(held) < LONGEST_HEADER:
                    break
                current = frame_header(bytes(held[:LONGEST_HEADER]))
                if current is None:
                    raise Broken("no frame header", "a FLAC frame", start)
                searched = SHORTEST_FRAME
            found = held.find(bytes(held[:2]), searched)
            if found < 0 or found + LONGEST_HEADER > len(held):
                searched = max(searched, len(held) - 1) if found < 0 else found
                break
            following = frame_header(bytes(held[found : found + LONGEST_HEADER]))
            if following is None or not current.followed_by(following):
                searched = found + 1
                continue
            yield bytes(held[:found]), start
            del held[:found]
            start += found
            current, searched = following, SHORTEST_FRAME
        if current is not None and len(held) > current.most_bytes + READ_BYTES:
            raise Broken(f"no end of a frame within {current.most_bytes} bytes", "the header of the next", start)
    if held:
        yield bytes(held), start


def frame_header(data: bytes) -> Frame | None:
    """The header that begins these bytes, None if there is none."""
    if len(data) < 5 or data[0] != 0xFF or data[1] & 0xFE != 0xF8:
        return None
    size_code, rate_code, channels, bits_code = data[2] >> 4, data[2] & 0xF, data[3] >> 4, data[3] >> 1 & 7
    if size_code == 0 or rate_code == 15 or channels > 10 or bits_code == 3 or data[3] & 1:
        return None
    number, at = _coded_number(data)
    size_bytes = {6: 1, 7: 2}.get(size_code, 0)
    rate_bytes = {12: 1, 13: 2, 14: 2}.get(rate_code, 0)
    end = at + size_bytes + rate_bytes
    if number is None or end >= len(data) or _crc8(data[:end]) != data[end]:
        return None
    block = int.from_bytes(data[at : at + size_bytes], "big") + 1 if size_bytes else _BLOCK_SIZES[size_code]
    width = (_BITS.get(bits_code, 32) + 8) // 8  # a difference of two channels has a bit more
    return Frame(bool(data[1] & 1), number, block, (block + 64) * width * (channels + 1 if channels < 8 else 2) + 64)


def _coded_number(data: bytes) -> tuple[int | None, int]:
    """The number behind four bytes, coded like UTF-8 but longer, and where it ends."""
    first = data[4]
    if first < 0x80:
        return first, 5
    length = 8 - (first ^ 0xFF).bit_length()  # ones before the first zero
    if length in (1, 8) or len(data) < 4 + length:
        return None, 5
    number = first & 0x7F >> length
    for byte in data[5 : 4 + length]:
        if byte & 0xC0 != 0x80:
            return None, 5
        number = number << 6 | byte & 0x3F
    return number, 4 + length


def _crc8(data: bytes) -> int:
    crc = 0
    for byte in data:
        crc = _CRC8[crc ^ byte]
    return crc


def _crc8_table() -> list[int]:
    """x^8 + x^2 + x + 1."""
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = (byte << 1 ^ (0x07 if byte & 0x80 else 0)) & 0xFF
        table.append(byte)
    return table


_CRC8 = _crc8_table()
