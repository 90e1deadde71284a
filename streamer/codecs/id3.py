"""ID3v2: the tag that may lie before MP3 and FLAC. Knows its length, and nothing of what it says."""

from __future__ import annotations

from streamer.codecs.piece import Source

HEADER_BYTES = 10


def skip_id3(source: Source) -> None:
    """Pass over tags at the source's place; a picture in one would be searched for sound."""
    while True:
        head = source.exactly(HEADER_BYTES)
        if len(head) < HEADER_BYTES or head[:3] != b"ID3" or any(byte & 0x80 for byte in head[6:10]):
            source.unread(head)
            return
        size = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]
        source.skip(size + (HEADER_BYTES if head[5] & 0x10 else 0))
