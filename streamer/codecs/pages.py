"""Ogg's pages, handed on whole and checked, and where one recording ends and the next begins (a chained file).

PyAV's demuxer passes over pages that are damaged, and refuses a next recording with another rate. Knows no codec.
"""

from __future__ import annotations

import zlib

from streamer.codecs.piece import Broken, Source

HEADER_BYTES = 27  # RFC 3533 section 6: 22 bytes, checksum, number of segments
BEGINS = 2  # a recording's first page says so; those of several streams lie before all others
WHAT = "an Ogg page"
_MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


class Pages:
    """Reads like a file that ends with each recording; raises Broken where no good page begins."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._held = b""
        self._next = b""  # the page that begins the next recording
        self._inside = False  # behind the first pages
        self.began = 0
        """Where the recording began."""

    def another(self) -> bool:
        """True if a recording follows: `read` goes on with it."""
        self._next = self._next or self._page()
        self.began = self._source.at - len(self._next)
        self._held, self._next, self._inside = self._next, b"", False
        return bool(self._held)

    def read(self, size: int) -> bytes:
        """At most `size` bytes and at least one, b"" at the end of a recording."""
        if not self._held and not self._next:
            page = self._page()
            begins = bool(page) and bool(page[5] & BEGINS)
            if begins and self._inside:
                self._next = page
            else:
                self._held, self._inside = page, not begins
        data, self._held = self._held[:size], self._held[size:]
        return data

    def _page(self) -> bytes:
        """One page; b"" at the end, also where it is cut off there."""
        at = self._source.at
        head = self._source.exactly(HEADER_BYTES)
        if head[:4] != b"OggS"[: len(head)] or head[4:5] not in (b"", b"\0"):
            raise Broken(f"the bytes {head[:5]!r}", WHAT, at)
        if len(head) < HEADER_BYTES:
            return b""
        sizes = self._source.exactly(head[26])
        body = self._source.exactly(sum(sizes))
        if len(sizes) < head[26] or len(body) < sum(sizes):
            return b""
        if checksum(head[:22] + bytes(4) + head[26:] + sizes + body) != int.from_bytes(head[22:26], "little"):
            raise Broken("an Ogg page that fails its checksum", WHAT, at)
        return head + sizes + body


def checksum(page: bytes) -> int:
    """Of a page with four zeros where it stands: CRC-32, but the high bit first, from 0, not inverted at the end."""
    crc = zlib.crc32(page.translate(_MIRRORED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int.from_bytes(crc.to_bytes(4, "little").translate(_MIRRORED), "big")
