"""Claims about the queue of streams that can be stepped: it gives what `plan` gives first, without a look at all."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamer.engine.scheduler import Machine, plan
from streamer.engine.slots import Lease
from streamer.engine.stream import Ready, Stream
from streamer.engine.waiting import MOST_STALE, Lists, Ranges, Waiting

BUDGET_S = 0.25
CHUNKS = (1, 7)
MACHINE = Machine(lambda _chunk, rows: 0.03 * rows, BUDGET_S, contiguous=False)  # a step holds 8 rows, or 2 ahead


def urgency(row: Ready) -> float:
    return row.due - (BUDGET_S if row.closing else 0.0)


class House:
    """Streams and the queue, kept together as the engine keeps them; `expected` asks `plan` about all streams."""

    def __init__(self, queue: Waiting, machine: Machine) -> None:
        self.queue, self.machine, self.now = queue, machine, 0.0
        self.streams: dict[int, Stream] = {}

    def place(self, slot: int) -> None:
        if self.streams[slot].ready:
            self.queue.put(self.streams[slot])

    def act(self, verb: str, slot: int, number: int) -> None:
        """One thing that happens; time goes on with it."""
        self.now += 0.0131 + 0.00007 * number
        stream = self.streams.get(slot)
        if stream is None:
            self.streams[slot] = Stream(str(slot), CHUNKS[slot % 2], None, Lease(slot, 1, slot))
        elif verb == "drop":
            self.queue.drop(self.streams.pop(slot))
        elif verb == "feed" and not stream.closing:
            stream.feed(np.zeros(number * 40, np.float32), self.now)
            if not stream.queued:
                self.place(slot)
        elif verb == "finish" and not stream.closing:
            stream.finish(np.zeros(number, np.float32), self.now)
            self.place(slot)

    def step(self) -> None:
        """The next batch is the one that plan would step first."""
        rows = [
            Ready(slot, s.chunk, s.owe(), s.awaited, s.ready_chunks, s.ends)
            for slot, s in self.streams.items()
            if s.ready
        ]
        batches = plan(self.now, rows, self.machine)
        streams, chunks = self.queue.next(self.now)
        got = [Ready(s.lease.slot, s.chunk, s.due_at, s.awaited) for s in streams]
        assert chunks == (batches[0].chunks if batches else 1)
        assert len({row.chunk for row in got}) <= 1
        expected = batches[0].rows if batches else ()
        assert sorted(map(urgency, got)) == sorted(map(urgency, expected))  # which of equals comes first is free
        assert sorted((row.due > self.now) for row in got) == sorted((row.due > self.now) for row in expected)
        for row in got:
            stream = self.streams[row.slot]
            stream.take(chunks)
            if stream.last:
                del self.streams[row.slot]
            else:
                self.place(row.slot)

    def check(self) -> None:
        """Those that can be stepped wait, and nobody else."""
        assert [bool(s.queued) for s in self.streams.values()] == [s.ready for s in self.streams.values()]
        assert len(self.queue) == sum(s.ready for s in self.streams.values())


STORIES = st.lists(
    st.tuples(st.sampled_from(["feed", "feed", "feed", "finish", "drop", "step", "step"]), st.integers(0, 12))
    .flatmap(lambda told: st.tuples(st.just(told[0]), st.just(told[1]), st.integers(0, 1500))),
    max_size=150,
)  # fmt: skip


@pytest.mark.parametrize("kind", [Lists, Ranges])
@settings(max_examples=60, deadline=None)
@given(story=STORIES)
def test_the_queue_gives_what_plan_gives_first(kind: type[Lists | Ranges], story: list[tuple[str, int, int]]) -> None:
    machine = (
        MACHINE
        if kind is Lists
        else Machine(MACHINE.cost, BUDGET_S, contiguous=True, most_chunks=lambda chunk: 14 // chunk)
    )
    house = House(kind(machine), machine)
    for verb, slot, number in story:
        if verb == "step":
            house.step()
        else:
            house.act(verb, slot, number)
        house.check()
    while len(house.queue):
        house.step()
    house.check()


@pytest.mark.parametrize("kind", [Lists, Ranges])
def test_a_chunk_that_stands_before_a_finalize_goes_before_those_owed_earlier(kind: type[Lists | Ranges]) -> None:
    queue = kind(Machine(lambda _chunk, rows: 0.2 * rows, BUDGET_S, contiguous=kind is Ranges))
    streams = [Stream(str(slot), 1, None, Lease(2 * slot, 1, 1)) for slot in range(3)]
    for stream in streams:
        stream.feed(np.zeros(1280, np.float32), 0.01 * stream.lease.slot)
        queue.put(stream)
    streams[2].order_fork(1, np.zeros(0, np.float32), 0.05)
    queue.put(streams[2])
    assert [queue.next(0.1)[0] for _ in streams] == [[streams[2]], [streams[0]], [streams[1]]]


def test_streams_that_left_are_swept_out_though_nobody_comes_to_their_places() -> None:
    queue = Lists(MACHINE)
    for number in range(10 * MOST_STALE):
        stream = Stream(str(number), 1, None, Lease(0, number, 1))
        stream.feed(np.zeros(100_000, np.float32), 0.0)
        queue.put(stream)
        queue.drop(stream)
    assert sum(len(heap) for heaps in queue._heaps.values() for heap in heaps) <= MOST_STALE
    assert len(queue) == 0
    assert queue.next(1e9) == ([], 1)


def test_a_batch_of_a_few_looks_at_a_few_however_many_wait() -> None:
    queue, looked = Lists(Machine(lambda _chunk, rows: 0.1 * rows, BUDGET_S, contiguous=False)), 0

    class Watched(Stream):
        """Notes who asks when it is owed or whether it still waits."""

        def __getattribute__(self, name: str) -> object:
            nonlocal looked
            looked += name in ("queued", "due_at", "ready")
            return super().__getattribute__(name)

    for slot in range(2000):
        stream = Watched(str(slot), 1, None, Lease(slot, 1, 1))
        stream.feed(np.zeros(200, np.float32), 0.001 * slot)
        queue.put(stream)
    looked = 0
    assert [stream.lease.slot for stream in queue.next(10.0)[0]] == [0, 1]
    assert looked < 20
