"""What a file on disk says of its own length, against what came out of it. Decodes nothing, and calls nothing damaged.

A stream may end anywhere, for its recorder was switched off. A file that was copied in half is told by what its
container promises: bytes (WebM, MP4), samples (FLAC, MP3 with an information frame), a last page (Ogg).
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import BinaryIO

from streamer.codecs.id3 import skip_id3
from streamer.codecs.piece import Source

FRAMES_MORE = 4  # of MP3: what encoders put before the first sample and behind the last one
LAST_BYTES = 1 << 16  # hold the last page of an Ogg file: none is longer
SEGMENT, CLUSTER = 0x18538067, 0x1F43B675  # WebM's elements that may say no size
LEVELS = frozenset(  # those that stand where a file is walked through: head, segment's and cluster's children
    (
        *(0x1A45DFA3, SEGMENT, 0x114D9B74, 0x1549A966, 0x1654AE6B, 0x1C53BB6B, 0x1254C367, 0x1043A770, 0x1941A469),
        *(CLUSTER, 0xE7, 0xA3, 0xA0, 0xA7, 0xAB, 0xEC, 0xBF),
    )
)


def missing(file: BinaryIO, container: str, samples: int, rate: int) -> str | None:
    """What a file lacks of which `samples` at `rate` hertz were heard; None for a whole one, and where it says nothing.

    The words go behind "ends ".
    """
    file.seek(0)
    if container in _SAMPLES:
        lost = _SAMPLES[container](file) - samples
        return f"{lost / rate:.2f} s before its header says" if rate and lost > 0 else None
    return _ENDS[container](file) if container in _ENDS else None


def _flac(file: BinaryIO) -> int:
    source = Source(file)
    skip_id3(source)
    head = source.exactly(26)
    return int.from_bytes(head[21:26], "big") & (1 << 36) - 1 if head[:4] == b"fLaC" else 0


def _mp3(file: BinaryIO) -> int:
    source = Source(file)
    skip_id3(source)
    frame = source.exactly(64)
    at = max(frame.find(b"Xing", 4, 48), frame.find(b"Info", 4, 48))
    if at < 0 or not frame[at + 7] & 1:
        return 0
    length = 1152 if frame[1] & 0x08 else 576
    return (int.from_bytes(frame[at + 8 : at + 12], "big") - FRAMES_MORE) * length


def _ogg(file: BinaryIO) -> str | None:
    size = file.seek(0, io.SEEK_END)
    file.seek(max(0, size - LAST_BYTES))
    data = file.read()
    page = data[data.rfind(b"OggS\0") :]
    sizes = page[27 : 27 + page[26]] if len(page) > 26 else b""
    whole = len(page) > 26 and len(sizes) == page[26] and len(page) >= 27 + len(sizes) + sum(sizes)
    return None if whole and page[5] & 4 else "without its last page"


def _webm(file: BinaryIO) -> str | None:
    size = file.seek(0, io.SEEK_END)
    at = file.seek(0)
    while at < size:
        file.seek(at)
        head = file.read(12)
        name_bytes = 9 - head[0].bit_length()
        name = int.from_bytes(head[:name_bytes], "big")
        if name not in LEVELS or len(head) <= name_bytes:
            return None  # padding and what is newer than this
        size_bytes = 9 - head[name_bytes].bit_length()
        length = int.from_bytes(head[name_bytes : name_bytes + size_bytes], "big") & (1 << 7 * size_bytes) - 1
        inside = at + name_bytes + size_bytes
        unknown = length == (1 << 7 * size_bytes) - 1
        if not unknown and inside + length > size:
            return f"{inside + length - size} bytes before its header says"
        at = inside if name == SEGMENT or unknown else inside + length
    return None


def _mp4(file: BinaryIO) -> str | None:
    size = file.seek(0, io.SEEK_END)
    at = 0
    while at < size:
        file.seek(at)
        head = file.read(16)
        length = int.from_bytes(head[:4], "big")
        if length == 1:
            length = int.from_bytes(head[8:16], "big")
        if at + length > size:
            return f"{at + length - size} bytes before its header says"
        if length < 8:  # 0 reaches to the end
            return None
        at += length
    return None


_SAMPLES: dict[str, Callable[[BinaryIO], int]] = {"flac": _flac, "mp3": _mp3}
_ENDS: dict[str, Callable[[BinaryIO], str | None]] = {"ogg": _ogg, "webm": _webm, "mp4": _mp4}
