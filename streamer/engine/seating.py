"""Where streams lie among the slots of a machine that steps neighbours: with those whose chunks come when theirs do.

A step computes a range of slots, ready or not, so rows that are ready together had better lie together. When a stream's
chunks come is known with the first of them; until then its slot holds nothing, and any other is as good. Knows no
threads; time comes in as a value.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from models.config import FRAME_S
from streamer.backends.base import Backend
from streamer.engine.costs import phases
from streamer.engine.scheduler import Machine
from streamer.engine.slots import Slots
from streamer.engine.stream import Stream

log = logging.getLogger(__name__)

MOST_PHASES = 8


def group(chunk: int, phase: int = 0) -> int:
    """Streams of one group lie together: as long chunks, in the same part of a chunk's time."""
    return chunk * MOST_PHASES + phase


class Seating:
    """Slots by phase, and ranges that thin out closed up. Does nothing where rows may lie anywhere."""

    def __init__(self, slots: Slots, machine: Machine, backend: Backend) -> None:
        self._slots, self._machine, self._backend = slots, machine, backend
        self._phases: dict[int, int] = {}  # by chunk

    def phases(self, chunk: int) -> int:
        """Into how many parts a chunk's time is cut."""
        if chunk not in self._phases:
            self._phases[chunk] = min(MOST_PHASES, phases(chunk, self._machine.cost(chunk, 1)))
        return self._phases[chunk]

    def seat(self, stream: Stream) -> None:
        """The first chunk of a stream is whole, and no step has begun with it: a slot among its like."""
        if not self._machine.contiguous or not stream.fresh or stream.queued:
            return
        period_s = stream.chunk * FRAME_S
        wanted = group(stream.chunk, int(stream.owe() % period_s / period_s * self.phases(stream.chunk)))
        if wanted != stream.lease.group:
            stream.lease = self._slots.regroup(stream.lease, wanted)

    def vacate(self) -> None:
        """What streams that have left took goes back to the backend. No step is under way."""
        for slot in self._slots.left():
            self._backend.vacate(slot)

    def tidy(self, streams: Iterable[Stream]) -> tuple[Stream, int] | None:
        """A stream at the edge of a range that has thinned out, and a slot among the others to which its state has been
        copied; None where there is none. No step is under way."""
        if (found := self._slots.stray()) is None:
            return None
        stream = next((s for s in streams if s.lease is found[0] and s.fork is None), None)
        if stream is None:
            return None  # a copy has it, or its parent, and will be gone soon
        try:
            if not stream.fresh:
                self._backend.fork(stream.lease.slot, found[1])
        except Exception:
            log.exception("a stream could not be moved and stays where it is", extra={"session": stream.key})
            return None
        return stream, found[1]
