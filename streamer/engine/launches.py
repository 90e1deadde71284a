"""Launches under way on the backend, the oldest first, and what each step was like. Knows no threads, ends no stream.

Where the backend allows two, the second is put together while the device is busy with the first. It waits for a share
of the first one's time, so that rows that come meanwhile go with it: launched at once it would be a step of a few rows,
and the steps would be long and short by turns.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from streamer.backends.base import Backend, Row, Ticket, samples_needed
from streamer.engine.capacity import Clock
from streamer.engine.results import Step
from streamer.engine.stream import Pcm, Stream

log = logging.getLogger(__name__)

HOLD = 0.5  # share of the expected time of a step after which the next one is launched


@dataclass(frozen=True, slots=True, eq=False)
class Launch:
    """One batch on its way."""

    streams: list[Stream]
    ticket: Ticket
    started: float  # seconds of the engine's clock
    expected_s: float


@dataclass(frozen=True, slots=True, eq=False)
class Landed:
    """One batch that is done: an outcome a stream, or the fault that all of them met."""

    streams: list[Stream]
    outcomes: Sequence[object]
    fault: Exception | None


class Launches:
    """`launch`, then `collect` as often, in the same order."""

    def __init__(
        self,
        backend: Backend,
        cost: Callable[[int, int], float],
        observe: Callable[[Step], None],
        clock: Clock,
    ) -> None:
        self._backend, self._cost, self._observe, self._clock = backend, cost, observe, clock
        self._under_way: deque[Launch] = deque()
        self._ended = 0.0  # when the last one was collected

    def __len__(self) -> int:
        return len(self._under_way)

    @property
    def full(self) -> bool:
        """Whether one has to be collected before the next launch."""
        return len(self._under_way) >= self._backend.depth

    def hold_s(self, now: float) -> float:
        """How long the next launch had better wait; 0 when it should be made now."""
        if not self._under_way:
            return 0.0
        newest = self._under_way[-1]
        return max(0.0, max(newest.started, self._ended) + HOLD * newest.expected_s - now)

    def touch(self, slots: Sequence[int]) -> bool:
        """Whether any of these slots is in a launch under way, of an owner that has left it."""
        flying = {stream.lease.slot for launch in self._under_way for stream in launch.streams}
        return not flying.isdisjoint(slots)

    def launch(self, batch: Sequence[tuple[Stream, Pcm]], chunks: int = 1) -> Landed | None:
        """Begin a step of so many chunks a stream. What it came to if it failed already, None if it is under way."""
        streams = [stream for stream, _ in batch]
        chunk, started = streams[0].chunk, self._clock()
        try:
            for stream in streams:
                if stream.fresh:
                    self._backend.open(stream.lease.slot, stream.prompt)
                    stream.fresh = False
            rows = [Row(stream.lease.slot, pcm, stream.last) for stream, pcm in batch]
            ticket = self._backend.launch(chunk, rows, chunks)
        except Exception as fault:
            return self._failed(streams, started, fault)
        self._under_way.append(Launch(streams, ticket, started, self._cost(chunk * chunks, self._width(rows))))
        return None

    def probe(self, slot: int, chunk: int) -> None:
        """Step silence in a slot that nobody has, with nothing under way; the exception if that fails."""
        self._backend.open(slot)
        silence = np.zeros(samples_needed(0, chunk), np.float32)
        (outcome,) = self._backend.collect(self._backend.launch(chunk, [Row(slot, silence)]))
        if isinstance(outcome, Exception):
            raise outcome

    def collect(self) -> Landed:
        """The end of the oldest step."""
        launch = self._under_way.popleft()
        streams = launch.streams
        try:
            outcomes = self._backend.collect(launch.ticket)
            assert len(outcomes) == len(streams), f"step: got {len(outcomes)} results, expected {len(streams)}"
        except Exception as fault:
            return self._failed(streams, launch.started, fault)
        self._note(streams, launch.started, launch.expected_s)
        return Landed(streams, outcomes, None)

    def _width(self, rows: Sequence[Row]) -> int:
        """Rows that the backend computes."""
        slots = [row.slot for row in rows]
        return max(slots) - min(slots) + 1 if self._backend.contiguous else len(slots)

    def _failed(self, streams: list[Stream], started: float, fault: Exception) -> Landed:
        log.error("a step of %d rows failed", len(streams), exc_info=fault)
        self._note(streams, started, None)
        return Landed(streams, [fault] * len(streams), fault)

    def _note(self, streams: Sequence[Stream], started: float, expected_s: float | None) -> None:
        """A step's own time begins when the device had done the one before it. No expected time: it failed."""
        ended = self._clock()
        waits = tuple([started - stream.arrived_at for stream in streams])
        late = tuple([ended - stream.due_at if ended > stream.due_at else 0.0 for stream in streams])
        live = tuple([s for s, stream in zip(late, streams, strict=True) if s and not stream.closing])
        took, failed = ended - max(started, self._ended), expected_s is None
        self._observe(Step(streams[0].chunk, took, waits, late, failed, expected_s or 0.0, live))
        self._ended = ended
