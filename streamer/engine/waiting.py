"""The streams whose next chunk is whole, kept so that the next batch is found without a look at all of them.

Both kinds give what `scheduler.plan` would give first. `Lists` does it in the time that the batch's own rows take;
`Ranges`, for backends that step neighbours, asks `plan` itself. Knows no threads; time comes in as a value.
"""

from __future__ import annotations

import math
from heapq import heapify, heappop, heappush
from itertools import count

from streamer.engine.scheduler import AHEAD_SHARE, Machine, hold_s, plan
from streamer.engine.stream import Ready, Stream

Place = tuple[float, int, Stream]  # when its chunk is owed, its number in the queue, the stream
MOST_STALE = 64  # places of streams that have left; more, and more than those that are held, are swept out


class Lists:
    """For machines on which any rows go together."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._numbers = count(1)
        self._heaps: dict[int, tuple[list[Place], list[Place]]] = {}  # chunk -> those that talk, those awaited
        self._held = 0
        self._stale = 0
        self._most: dict[tuple[int, bool], int] = {}  # chunk and whether ahead -> rows that a step holds, as known

    def __len__(self) -> int:
        return self._held

    def put(self, stream: Stream) -> None:
        """The stream can be stepped, or what it is owed has changed."""
        if stream.queued:
            self.drop(stream)
        self._held += 1
        stream.queued = next(self._numbers)
        heaps = self._heaps.get(stream.chunk)
        if heaps is None:
            heaps = self._heaps[stream.chunk] = ([], [])
        heappush(heaps[stream.awaited], (stream.owe(), stream.queued, stream))

    def drop(self, stream: Stream) -> None:
        """The stream waits no more; one that does not wait is left alone."""
        if stream.queued:
            stream.queued = 0
            self._held -= 1
            self._stale += 1
            if self._stale > max(MOST_STALE, self._held):
                self._sweep()

    def hold_s(self, now: float) -> float:
        """Rows in any slots share steps as they come: nothing is gained by waiting."""
        del now
        return 0.0

    def next(self, now: float) -> tuple[list[Stream], int]:
        """The streams of the most urgent batch, the most urgent first, and the chunks of each: one. They wait no more;
        empty if none waits."""
        budget_s = self._machine.budget_s
        best: tuple[bool, float, int] | None = None
        for chunk, heaps in self._heaps.items():
            for closing, heap in enumerate(heaps):
                if self._clean(heap):
                    due = heap[0][0]
                    own = (due > now, due - budget_s * closing, chunk)
                    best = own if best is None or own < best else best
        return ([] if best is None else self._batch(best[2], best[0], now)), 1

    def _batch(self, chunk: int, ahead: bool, now: float) -> list[Stream]:
        """Rows of one chunk length, by urgency, as many as a step holds. If any is owed, those ahead do not count."""
        talking, closing = self._heaps[chunk]
        budget_s = self._machine.budget_s
        rows: list[Stream] = []
        while True:
            heap = talking
            if closing and self._clean(closing) and (ahead or closing[0][0] <= now):
                owed = bool(talking) and self._clean(talking) and (ahead or talking[0][0] <= now)
                if not owed or closing[0][0] - budget_s < talking[0][0]:
                    heap = closing
            if not heap or (heap[0][0] > now and not ahead) or not self._fits(chunk, ahead, len(rows) + 1):
                return rows
            _, number, stream = heappop(heap)
            if stream.queued == number:
                stream.queued = 0
                self._held -= 1
                rows.append(stream)
            else:
                self._stale -= 1

    def _fits(self, chunk: int, ahead: bool, rows: int) -> bool:
        most = self._most.get((chunk, ahead), 1)
        if rows <= most:
            return True
        limit_s = self._machine.budget_s * (AHEAD_SHARE if ahead else 1.0)
        if self._machine.cost(chunk, rows) > limit_s:
            return False
        self._most[chunk, ahead] = rows
        return True

    def _clean(self, heap: list[Place]) -> bool:
        """Take away what leads it but has left; whether anything is in it."""
        while heap and heap[0][2].queued != heap[0][1]:
            heappop(heap)
            self._stale -= 1
        return bool(heap)

    def _sweep(self) -> None:
        for heaps in self._heaps.values():
            for heap in heaps:
                heap[:] = [place for place in heap if place[2].queued == place[1]]
                heapify(heap)
        self._stale = 0


class Ranges:
    """For machines that step neighbouring slots; there are as few streams as a CPU hears."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._streams: dict[int, Stream] = {}  # by slot
        self._began = -math.inf  # when the last batch was taken

    def __len__(self) -> int:
        return len(self._streams)

    def put(self, stream: Stream) -> None:
        """The stream can be stepped, or what it is owed has changed."""
        stream.queued = 1
        stream.owe()
        self._streams[stream.lease.slot] = stream

    def drop(self, stream: Stream) -> None:
        """The stream waits no more; one that does not wait is left alone."""
        if stream.queued:
            stream.queued = 0
            del self._streams[stream.lease.slot]

    def next(self, now: float) -> tuple[list[Stream], int]:
        """The streams of the most urgent batch, in the order of their slots, and the chunks of each; they wait no more.
        Empty if none waits."""
        if not self._streams:
            return [], 1
        self._began = now
        batch = plan(now, self._ready(), self._machine)[0]
        rows = [self._streams[row.slot] for row in batch.rows]
        for stream in rows:
            self.drop(stream)
        return rows, batch.chunks

    def hold_s(self, now: float) -> float:
        """How long the next batch had better wait for more rows."""
        return hold_s(now, self._began, self._ready(), self._machine)

    def _ready(self) -> list[Ready]:
        streams = self._streams.items()
        return [Ready(slot, s.chunk, s.due_at, s.awaited, s.ready_chunks, s.ends) for slot, s in streams]


Waiting = Lists | Ranges
