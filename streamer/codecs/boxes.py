"""MP4's outer boxes, handed on whole: PyAV's demuxer misreads fragments whose headers come byte by byte.

Only the samples (`mdat`) flow as they come. Knows nothing of what is in a box.
"""

from __future__ import annotations

from streamer.codecs.piece import Broken, Source

MOST_BYTES = 1 << 24  # of a box that is held: the index of a whole film has less
OUTER = frozenset(
    b"ftyp styp moov moof mdat mfra sidx ssix free skip wide uuid meta emsg prft pdin udta".split()  # ISO/IEC 14496-12
)
WHAT = "MP4, fragmented or with its index (moov) before the samples"


class Boxes:
    """Reads like a file; raises Broken where no box of the outermost level begins."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._held = b""
        self._flowing = 0  # bytes of samples that may pass as they come
        self._index = False

    def read(self, size: int) -> bytes:
        """At most `size` bytes and at least one, b"" at the end."""
        if not self._held and not self._flowing:
            self._held = self._box()
        if self._held:
            data, self._held = self._held[:size], self._held[size:]
            return data
        data = self._source.read(min(size, self._flowing))
        self._flowing -= len(data)
        return data

    def _box(self) -> bytes:
        """A box, or the head of one with samples; the head of a fragment's samples comes with its index."""
        box, kind = self._one()
        if kind != b"moof":
            return box
        following, kind = self._one()
        if kind == b"moof":
            raise Broken("a fragment's index without samples", WHAT, self._source.at)
        return box + following

    def _one(self) -> tuple[bytes, bytes]:
        """The bytes of the next box and its kind, b"" at the end."""
        at = self._source.at
        head = self._source.exactly(8)
        if len(head) < 8:
            return head, b""
        size, kind = int.from_bytes(head[:4], "big"), head[4:]
        if size == 1:
            head += self._source.exactly(8)
            size = int.from_bytes(head[8:], "big")
        rest = size - len(head) if size else 1 << 62  # 0: until the end
        if kind not in OUTER or rest < 0:
            raise Broken(f"a box {kind!r} of {size} bytes", WHAT, at)
        if kind == b"mdat":
            if not self._index:
                raise Broken("samples before their index", WHAT, at)
            self._flowing = rest
            return head, kind
        if rest > MOST_BYTES:
            raise Broken(f"a box {kind!r} of {size} bytes", f"at most {MOST_BYTES} bytes", at)
        self._index |= kind == b"moov"
        return head + self._source.exactly(rest), kind
