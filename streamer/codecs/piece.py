"""What goes into a decoder and what comes out of it: bytes read as they come, pieces of samples, damage.

Knows no container and no codec.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from streamer.errors import shown

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Samples = npt.NDArray[np.float32]


class Readable(Protocol):
    """Anything with `read`: a file, a pipe."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes and at least one, b"" at the end. May wait for them."""


@runtime_checkable
class SeekableFile(Readable, Protocol):
    """A file on disk, for one."""

    def seekable(self) -> bool:
        """Whether `seek` works."""

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Go there; returns the new place."""

    def tell(self) -> int:
        """The place of the next byte read."""


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """Some of a stream's samples. The next piece may have another rate and other channels (chained Ogg does that)."""

    samples: Samples  # (n, channels) in -1..1
    sample_rate: int
    """Hertz"""


class Damaged(Exception):
    """Bytes that cannot be decoded: one sentence that says where, what was got and what was expected."""

    def __init__(self, got: str, expected: str, at_byte: int, at_s: float) -> None:
        self.got, self.expected, self.at_byte, self.at_s = got, expected, at_byte, at_s
        super().__init__(f"audio: got {got} near byte {at_byte} ({at_s:.2f} s), expected {expected}")


class NoCodecs(Exception):
    """Compressed audio cannot be decoded here: an extra is not installed."""

    def __init__(self, container: str) -> None:
        super().__init__(f"{container} audio: got no PyAV, expected streamer-asr[codecs] to be installed")


class Broken(Exception):
    """What a format's reader says of damage; it knows the byte, but not how many seconds came before."""

    def __init__(self, got: str, expected: str, at_byte: int) -> None:
        super().__init__(got)
        self.got, self.expected, self.at_byte = got, expected, at_byte


class Source:
    """The bytes of one stream, read as they come and counted."""

    def __init__(self, file: Readable) -> None:
        self._file = file
        self._held = b""
        self.at = 0
        """Bytes given out."""

    def seekable(self) -> SeekableFile | None:
        """The file itself, at its first byte, if one can go back and forth in it."""
        file = self._file
        if not isinstance(file, SeekableFile) or not file.seekable() or file.tell() != self.at + len(self._held):
            return None
        file.seek(0)
        return file

    def read(self, size: int = 1 << 16) -> bytes:
        """At most `size` bytes and at least one, b"" at the end."""
        data = self._held[:size] if self._held else self._file.read(size)
        self._held = self._held[len(data) :]
        self.at += len(data)
        return data

    def exactly(self, size: int) -> bytes:
        """`size` bytes, fewer only at the end."""
        parts = []
        while size and (data := self.read(min(size, 1 << 16))):
            parts.append(data)
            size -= len(data)
        return b"".join(parts)

    def skip(self, size: int) -> None:
        """Pass over `size` bytes, or over all that come."""
        while size and (data := self.read(min(size, 1 << 16))):
            size -= len(data)

    def unread(self, data: bytes) -> None:
        """Put back what was read last."""
        self._held = data + self._held
        self.at -= len(data)


def plain(text: str) -> str:
    """Words of a library as an error repeats them: what a stranger's bytes put into them is quoted and cut short."""
    return shown(text.strip()).strip("'\"")
