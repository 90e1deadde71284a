"""Hours of load on a clock that is a number: who is late, and who never is."""

from __future__ import annotations

import dataclasses
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.config import FRAME_S, SAMPLE_RATE
from streamer.backends.base import samples_needed
from streamer.engine.costs import Costs
from streamer.engine.scheduler import Batch, Machine, hold_s, plan
from streamer.engine.slots import Lease
from streamer.engine.stream import BURST_S, Ready, Stream

BUDGET_S = 0.25


def step_s(chunk: int, rows: int) -> float:
    """A step as on a small CPU: a part for the weights, a part for every row's frames."""
    return 0.004 + 0.0006 * chunk * rows if rows else 0.0


LISTS = Machine(step_s, BUDGET_S, contiguous=False)
RANGES = Machine(step_s, BUDGET_S, contiguous=True, most_chunks=lambda chunk: 14 // chunk)


def row(slot: int, due: float = 0.0, chunk: int = 7, *, closing: bool = False) -> Ready:
    return Ready(slot, chunk, due, closing)


def behind(slot: int, chunks: int, *, ends: bool = False) -> Ready:
    """A stream of 80 ms of which several chunks wait."""
    return Ready(slot, 1, 0.0, ends, chunks, ends)


def slots(batch: Batch) -> list[int]:
    return [ready.slot for ready in batch.rows]


def test_nothing_waits_nothing_is_planned() -> None:
    assert plan(0.0, [], LISTS) == []


def test_rows_of_one_chunk_length_go_together() -> None:
    batches = plan(1.0, [row(0, chunk=1), row(1), row(2, chunk=1), row(3)], LISTS)
    assert sorted((batch.chunk, slots(batch)) for batch in batches) == [(1, [0, 2]), (7, [1, 3])]


def test_the_earliest_goes_first() -> None:
    assert [slots(b) for b in plan(9.0, [row(0, 3.0, 7), row(1, 1.0, 1), row(2, 2.0, 2)], LISTS)] == [[1], [2], [0]]


def test_what_somebody_waits_for_is_owed_a_budget_earlier_and_no_more() -> None:
    for due, order in ((8.2, [[1], [0]]), (8.3, [[0], [1]])):
        batches = plan(9.0, [row(0, 8.0, 1), row(1, due, 7, closing=True)], LISTS)
        assert [slots(batch) for batch in batches] == order, f"due {due}"
    crowd = [row(slot, 8.0, 14) for slot in range(64)]
    assert plan(9.0, [*crowd, row(64, 8.2, 14, closing=True)], LISTS)[0].rows[0].slot == 64


def test_a_stream_ahead_of_time_never_shares_a_batch_with_one_on_time() -> None:
    batches = plan(5.0, [row(0, 60.0, closing=True), row(1, 5.0), row(2, 6.0)], LISTS)
    assert [(sorted(slots(batch)), batch.ahead) for batch in batches] == [([1], False), ([0, 2], True)]


def test_steps_of_streams_ahead_are_short() -> None:
    for batch in plan(0.0, [row(slot, 10.0) for slot in range(64)], LISTS):
        assert step_s(7, len(batch.rows)) <= BUDGET_S / 4


def test_no_step_is_longer_than_the_budget() -> None:
    for machine in (LISTS, RANGES):
        for batch in plan(0.0, [row(slot, 0.0, 14) for slot in range(64)], machine):
            assert step_s(14, len(batch.rows)) <= BUDGET_S


def test_a_step_of_neighbours_is_short_beside_its_chunk_where_first_rows_are_cheap() -> None:
    for batch in plan(0.0, [row(slot, 0.0, 14) for slot in range(64)], RANGES):
        assert step_s(14, len(batch.rows)) <= max(14 * FRAME_S / 4, 8 * step_s(14, 1))
    dear = Machine(lambda _chunk, rows: 0.03 + 0.001 * rows, BUDGET_S, contiguous=True)
    assert [len(batch.rows) for batch in plan(0.0, [row(slot, 0.0, 1) for slot in range(64)], dear)] == [64]


def test_neighbours_wait_for_each_other_for_a_moment_and_nobody_else_does() -> None:
    just_now = [row(3, 4.999), row(7, 4.998)]
    assert hold_s(5.0, 4.995, just_now, RANGES) == pytest.approx(0.018)
    assert hold_s(5.0, 4.995, just_now, dataclasses.replace(RANGES, budget_s=0.08)) == pytest.approx(0.008)
    assert hold_s(5.0, 4.9, just_now, RANGES) == 0.0, "a row waits though nothing was stepped for long"
    assert hold_s(5.0, 4.995, [*just_now, row(5, 4.979)], RANGES) == 0.0, "a row has waited for long enough"
    assert hold_s(5.0, 4.995, [*just_now, row(5, 4.999, closing=True)], RANGES) == 0.0, "somebody waits for a final"
    assert hold_s(5.0, 4.995, [row(3, 9.0), row(4, 8.0)], RANGES) == 0.0, "an upload is held up"
    assert hold_s(5.0, 4.995, [], RANGES) == 0.0
    assert hold_s(5.0, 4.995, just_now, LISTS) == 0.0


def test_a_range_bridges_a_gap_that_costs_less_than_a_step_of_its_own() -> None:
    ready = [row(slot, chunk=1) for slot in (0, 1, 3, 20)]
    assert sorted(slots(batch) for batch in plan(1.0, ready, RANGES)) == [[0, 1, 3], [20]]


def test_streams_that_are_behind_are_stepped_by_as_many_chunks_as_all_of_them_have() -> None:
    (batch,) = plan(9.0, [behind(0, 3), behind(1, 2), behind(2, 3)], RANGES)
    assert (slots(batch), batch.chunks) == ([0, 1, 2], 2)
    (batch,) = plan(9.0, [behind(0, 40)], RANGES)
    assert batch.chunks == 14, "more than the backend takes"
    (batch,) = plan(9.0, [behind(0, 40)], LISTS)
    assert batch.chunks == 1, "a backend that takes one"


def test_neighbours_are_stepped_together_by_what_all_of_them_have() -> None:
    batches = plan(9.0, [behind(0, 1), behind(1, 9), behind(2, 1), behind(60, 9)], RANGES)
    assert sorted((slots(batch), batch.chunks) for batch in batches) == [([0, 1, 2], 1), ([60], 9)]


def test_streams_that_end_are_stepped_to_their_end_together() -> None:
    batches = plan(9.0, [behind(0, 9, ends=True), behind(1, 4, ends=True), behind(2, 30, ends=True)], RANGES)
    assert [(slots(batch), batch.chunks) for batch in batches] == [([0, 1, 2], 14)]
    (batch,) = plan(9.0, [behind(0, 9, ends=True), behind(1, 4, ends=True)], RANGES)
    assert batch.chunks == 9
    (batch,) = plan(9.0, [behind(0, 1, ends=True), behind(1, 1)], RANGES)
    assert batch.chunks == 1, "a last chunk goes with the others"


def test_many_chunks_at_once_are_no_more_than_a_step_may_take() -> None:
    dear = dataclasses.replace(RANGES, cost=lambda frames, rows: 0.01 * frames * rows)
    (batch,) = plan(9.0, [behind(0, 14)], dear)
    assert batch.chunks == 8, "a step of 80 ms and one row may take eight times as long as its first chunk"


@given(
    st.lists(
        st.tuples(st.floats(0, 10), st.sampled_from([1, 2, 7, 14]), st.booleans(), st.integers(1, 20), st.booleans()),
        max_size=40,
    ),
    st.booleans(),
)
def test_every_row_is_planned_once(waiting: list[tuple[float, int, bool, int, bool]], contiguous: bool) -> None:
    rows = [
        Ready(slot, chunk, due, closing, chunks, ends)
        for slot, (due, chunk, closing, chunks, ends) in enumerate(waiting)
    ]
    batches = plan(5.0, rows, RANGES if contiguous else LISTS)
    assert all(r.ends or r.chunks >= batch.chunks for batch in batches for r in batch.rows), "a chunk nobody has"
    assert sorted(slot for batch in batches for slot in slots(batch)) == list(range(len(rows)))
    assert all(ready.chunk == batch.chunk for batch in batches for ready in batch.rows)
    assert all((ready.due > 5.0) == batch.ahead for batch in batches for ready in batch.rows)


def told(slot: int, stream: Stream) -> Ready:
    return Ready(slot, stream.chunk, stream.owe(), stream.closing, stream.ready_chunks, stream.ends)


# A simulated server: streams that speak in real time, streams that send a file at once, one engine.


class Simulation:
    """Real Stream records and the real plan; only the engine's time is arithmetic."""

    def __init__(self, machine: Machine) -> None:
        self.machine, self.now, self.busy_s = machine, 0.0, 0.0
        self.streams: dict[int, Stream] = {}
        self.late: dict[int, list[float]] = {}
        self.finalizing: dict[int, tuple[int, float]] = {}  # slots in which forks run all the time: chunk, due
        self.events: list[tuple[float, int, int]] = []  # time, slot, samples

    def add(self, slot: int, chunk: int) -> None:
        self.streams[slot] = Stream(str(slot), chunk, None, Lease(slot, 1, chunk))
        self.late[slot] = []

    def talk(self, slot: int, start_s: float, seconds: float, piece_s: float = 0.1) -> None:
        pieces = int(seconds / piece_s)
        self.events += [(start_s + piece_s * (i + 1), slot, round(piece_s * SAMPLE_RATE)) for i in range(pieces)]

    def upload(self, slot: int, start_s: float, seconds: float) -> None:
        self.events.append((start_s, slot, round(seconds * SAMPLE_RATE)))

    def finalize_all_the_time(self, slot: int, chunk: int) -> None:
        """A client asks again as soon as it was answered: there is always a step to take that somebody waits for."""
        self.finalizing[slot] = chunk, 0.0

    def run(self) -> None:
        """Until everything has been heard."""
        events = sorted(self.events, reverse=True)
        while True:
            while events and events[-1][0] <= self.now:
                time, slot, samples = events.pop()
                self.streams[slot].feed(np.zeros(samples, np.float32), time)
            ready = [told(slot, stream) for slot, stream in self.streams.items() if stream.ready]
            forks = [Ready(slot, chunk, due, True) for slot, (chunk, due) in self.finalizing.items()]
            if ready or (forks and events):
                self.step(plan(self.now, [*ready, *forks], self.machine)[0])
            elif events:
                self.now = events[-1][0]
            else:
                return

    def step(self, batch: Batch) -> None:
        span = batch.rows[-1].slot - batch.rows[0].slot + 1 if self.machine.contiguous else len(batch.rows)
        cost = self.machine.cost(batch.chunk * batch.chunks, span)
        for ready in batch.rows:
            if ready.slot in self.finalizing:
                self.finalizing[ready.slot] = ready.chunk, self.now + cost
                continue
            stream = self.streams[ready.slot]
            stream.owe()
            arrived = stream.arrived_at
            stream.take(batch.chunks)
            self.late[ready.slot].append(self.now + cost - arrived)
        self.now += cost
        self.busy_s += cost


def admitted(chunk: int, max_load: float = 0.85) -> int:
    """Streams of one latency that admission lets in."""
    costs = Costs({chunk: tuple((rows, step_s(chunk, rows)) for rows in (1, 2, 4, 8, 16, 32, 64, 128))})
    return costs.fits(chunk, max_load)


@pytest.mark.parametrize("chunk", [1, 7])
@pytest.mark.parametrize("machine", [LISTS, RANGES], ids=["lists", "ranges"])
def test_a_full_house_in_real_time_stays_within_its_budget(chunk: int, machine: Machine) -> None:
    rng = random.Random(chunk)
    house = Simulation(machine)
    for slot in range(count := min(admitted(chunk, 0.85), 64)):
        house.add(slot, chunk)
        house.talk(slot, rng.uniform(0, 2.0), 60.0)
    house.run()
    worst = max(max(late) for late in house.late.values())
    assert worst <= BUDGET_S + step_s(chunk, count), f"{count} streams of chunk {chunk}: {worst:.3f} s late"


def test_an_hour_of_uploads_never_delays_those_who_speak_now() -> None:
    quiet, busy = Simulation(LISTS), Simulation(LISTS)
    for house in (quiet, busy):
        for slot in range(6):
            house.add(slot, 7)
            house.talk(slot, 0.13 * slot, 120.0)
    for slot in range(6, 12):
        busy.add(slot, 7)
        busy.upload(slot, 1.0 + slot, 600.0)
    quiet.run()
    busy.run()
    for slot in range(6):
        longest_step = BUDGET_S / 4
        assert max(busy.late[slot]) <= max(quiet.late[slot]) + longest_step, f"slot {slot}"
    chunks = (600 * SAMPLE_RATE + 1080) // (7 * 1280)
    assert [len(busy.late[slot]) for slot in range(6, 12)] == [chunks] * 6, "an upload was not heard to its end"


@pytest.mark.parametrize("machine", [LISTS, RANGES], ids=["lists", "ranges"])
def test_clients_that_finalize_all_the_time_delay_the_others_by_a_budget_at_most(machine: Machine) -> None:
    house = Simulation(machine)
    for slot in range(6):
        house.add(slot, 7)
        house.talk(slot, 0.13 * slot, 30.0)
    for slot in range(8, 16):
        house.finalize_all_the_time(slot, chunk=(1, 7)[slot % 2])
    house.run()
    worst = max(max(house.late[slot]) for slot in range(6))
    assert worst <= BUDGET_S + 2 * step_s(7, 16), f"{worst:.3f} s late"


def test_an_upload_alone_uses_all_the_time_there_is() -> None:
    house = Simulation(LISTS)
    house.add(0, 7)
    house.upload(0, 0.0, 600.0)
    house.run()
    chunks = (600 * SAMPLE_RATE + 1080) // (7 * 1280)
    assert house.now == pytest.approx(chunks * step_s(7, 1)), "the engine idled although audio waited"


@pytest.mark.parametrize("piece_s", [0.02, 0.1, 0.9])
def test_a_client_whose_clock_is_fast_stays_on_time(piece_s: float) -> None:
    stream = Stream("fast", 1, None, Lease(0, 1, 1))
    for piece in range(int(1200 / piece_s)):  # twenty minutes, each piece a thousandth early
        now = piece * piece_s * 0.999
        stream.feed(np.zeros(round(piece_s * SAMPLE_RATE), np.float32), now)
        while stream.ready:
            assert stream.owe() <= now + 1e-6, f"ahead after {now:.0f} s"
            stream.take()


def test_a_file_sent_at_once_is_due_as_fast_as_it_would_have_been_spoken() -> None:
    stream = Stream("file", 7, None, Lease(0, 1, 7))
    stream.feed(np.zeros(60 * SAMPLE_RATE, np.float32), 0.0)
    dues = []
    while stream.ready:
        dues.append(stream.owe())
        stream.take()
    assert dues[0] == 0.0
    assert dues[-1] == pytest.approx(0.9 * (len(dues) - 1) * 7 * FRAME_S - BURST_S, rel=0.01)


def test_the_silence_of_a_finalize_is_owed_at_once() -> None:
    stream = Stream("end", 1, None, Lease(0, 1, 1))
    stream.feed(np.zeros(SAMPLE_RATE, np.float32), 100.0)
    while stream.ready:
        stream.take()
    stream.finish(np.zeros(SAMPLE_RATE, np.float32), 101.0)
    while True:
        assert stream.owe() <= 101.0
        stream.take()
        if stream.last:
            break


@given(st.lists(st.integers(0, 20_000), min_size=1, max_size=30), st.sampled_from([1, 2, 7, 14]))
def test_chunks_are_the_stream_cut_at_the_fixed_places_whatever_the_pieces(pieces: list[int], chunk: int) -> None:
    whole = np.arange(sum(pieces), dtype=np.float32)
    stream = Stream("cut", chunk, None, Lease(0, 1, chunk))
    chunks: list[np.ndarray] = []
    at = 0
    for size in pieces:
        stream.feed(whole[at : at + size], float(at))
        at += size
        while stream.ready:
            before, most = stream.chunks, stream.ready_chunks
            assert most >= 1
            at_once = 1 + at % most
            pcm = stream.take(at_once)
            assert not stream.last
            assert len(pcm) == samples_needed(before, chunk, at_once)
            chunks.append(pcm)
    stream.finish(np.zeros(0, np.float32), float(at))
    pcm = stream.take()
    assert stream.last
    assert np.array_equal(np.concatenate([*chunks, pcm]), whole)
