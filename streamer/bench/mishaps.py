"""What goes wrong on a stream's way, drawn from a seed: jitter, a stall, a broken line; and where finals are asked for.

Knows nothing of sockets. Places in a stream are counts of messages: 3 is behind the third.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from models.config import FRAME_S

BEFORE_S = 0.4  # a word's sound begins before the frame that it is heard in: so much before, a pause is over


@dataclass(frozen=True, slots=True, kw_only=True)
class Mishaps:
    """What may happen to streams; none by default."""

    jitter_ms: float = 0.0
    """A message leaves up to so much late; messages keep their order."""
    stalls: float = 0.0
    """Share of streams that send nothing for `stall_s` once; what was spoken meanwhile comes all at once then."""
    stall_s: float = 3.0
    disconnects: float = 0.0
    """Share of streams whose line breaks without a close; another stream follows."""
    finalize_s: float = 0.0
    """A finalize at the first pause after so many seconds, again and again, and one at the end; 0: none."""

    @property
    def cut(self) -> bool:
        """Whether streams are cut into segments by what happens to them."""
        return bool(self.finalize_s or self.stalls)


@dataclass(frozen=True, slots=True)
class Fate:
    """What happens to one stream: after how many messages."""

    finalizes: frozenset[int]
    stall: int | None
    drop: int | None


def fate(mishaps: Mishaps, luck: random.Random, messages: int, message_s: float, quiet: Sequence[int]) -> Fate:
    """Drawn for a stream of so many messages; `quiet` are the places where it may be cut."""
    stalls, drops, where_stalled, where_dropped = (luck.random() for _ in range(4))
    drop = stall = None
    if drops < mishaps.disconnects and messages > 1:
        drop = 1 + int(where_dropped * (messages - 1))
    if stalls < mishaps.stalls and quiet:
        stall = quiet[int(where_stalled * len(quiet))]
    return Fate(_finalizes(mishaps.finalize_s, messages, message_s, quiet), stall, drop)


def _finalizes(every_s: float, messages: int, message_s: float, quiet: Sequence[int]) -> frozenset[int]:
    if not every_s:
        return frozenset()
    places, last = {messages}, 0
    for place in quiet:
        if (place - last) * message_s >= every_s:
            places.add(place)
            last = place
    return frozenset(places)


def quiet_places(
    words: Sequence[tuple[float, float]], duration_s: float, chunk_s: float, message_s: float
) -> tuple[int, ...]:
    """The middle of each pause between words (start, end): at least a chunk behind one, some time before the next."""
    begins = [0.0, *(end + chunk_s + FRAME_S for _, end in words)]
    ends = [*(start - BEFORE_S for start, _ in words), duration_s]
    middles = [(begin + end) / 2 for begin, end in zip(begins, ends, strict=True) if end - begin >= message_s]
    return tuple(sorted({round(middle / message_s) for middle in middles if middle >= message_s}))
