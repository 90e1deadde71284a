"""Minutes of load on a clock that is a number: more streams than fit ask to come in, those that are in stay on time.

Real Stream records, the real plan and the real admission; only the steps' time is arithmetic.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest

from models.config import FRAME_S, SAMPLE_RATE
from streamer.backends.fake import FakeBackend
from streamer.engine import scheduler, seating
from streamer.engine.capacity import Admission
from streamer.engine.costs import Costs
from streamer.engine.results import EngineSettings, Step
from streamer.engine.scheduler import Machine, hold_s, plan
from streamer.engine.seating import Seating, group
from streamer.engine.slots import Lease, Slots
from streamer.engine.stream import Ready, Stream

SETTINGS = EngineSettings(budget_s=0.25, max_load=0.85)
SLOTS = 256
PIECE_S = 0.02
SILENCE = np.zeros(round(PIECE_S * SAMPLE_RATE), np.float32)


def seconds(chunk: int, rows: int) -> float:
    """A step as on a small CPU: a part for the weights, a part for every row's frames."""
    return 0.008 + (0.0012 + 0.0008 * chunk) * rows if rows else 0.0


def light(chunk: int, rows: int) -> float:
    """A step as the default model's: ten rows cost what the first one does."""
    return seconds(chunk, 1) / 3 + 0.0004 * chunk * rows if rows else 0.0


Cost = Callable[[int, int], float]


def table(times: float = 1.0, cost: Cost = seconds) -> Costs:
    """What was measured: the truth, or so many times it."""
    sizes = (1, 2, 4, 8, 16, 32)
    return Costs({chunk: tuple((rows, times * cost(chunk, rows)) for rows in sizes) for chunk in (1, 7)})


@dataclass
class House:
    """A daemon at the load of clients that come, speak in real time, and go."""

    costs: Costs
    contiguous: bool = True
    cost: Cost = seconds
    now: float = 0.0
    tidy: bool = True
    busy_s: float = 0.0
    late: list[tuple[float, float]] = field(default_factory=list)  # when a chunk was done, how late
    refused: list[str] = field(default_factory=list)
    heard: list[tuple[float, int]] = field(default_factory=list)  # how many streams there were, and when

    def __post_init__(self) -> None:
        self.rng = random.Random(1)
        self.admission = Admission(self.costs, SETTINGS, SLOTS - 16)
        most = (lambda chunk: 14 // chunk) if self.contiguous else (lambda _chunk: 1)
        self.machine = Machine(self.costs.seconds, SETTINGS.budget_s, self.contiguous, most)
        self.slots = Slots(SLOTS, 16, near=self.contiguous)
        self.seating = Seating(self.slots, self.machine, FakeBackend())
        self.streams: dict[int, Stream] = {}  # by slot
        self.events: list[tuple[float, int, Stream | None, int, float]] = []  # time, number, who, chunk, end
        self.number, self.began = 0, -1.0

    def push(self, time: float, stream: Stream | None, chunk: int, end: float) -> None:
        """At this time the stream's next piece comes, or a new client, who stays until `end`."""
        self.number += 1
        heapq.heappush(self.events, (time, self.number, stream, chunk, end))

    def clients(self, each_s: float, chunk: int, until: float, stay_s: float) -> None:
        """One comes every `each_s` or so and stays for about `stay_s`."""
        time = 0.0
        while (time := time + self.rng.uniform(0.0, 2 * each_s)) < until:
            self.push(time, None, chunk, time + self.rng.uniform(0.5, 1.5) * stay_s)

    def happen(self) -> None:
        """All that has happened by now."""
        while self.events and self.events[0][0] <= self.now:
            time, _, stream, chunk, end = heapq.heappop(self.events)
            if stream is None:
                self.come(time, chunk, end)
            elif time >= end:
                del self.streams[stream.lease.slot]
                self.slots.release(stream.lease)
            else:
                stream.feed(SILENCE, time)
                if stream.fresh and stream.ready:
                    self.seat(stream)
                self.push(time + PIECE_S, stream, chunk, end)

    def come(self, time: float, chunk: int, end: float) -> None:
        counts = {c: sum(s.chunk == c for s in self.streams.values()) for c in (1, 7)}
        if (reason := self.admission.refusal(self.now, counts, chunk)) is not None:
            self.refused.append(reason)
            return
        lease: Lease | None = self.slots.lease(group(chunk))
        assert lease is not None
        stream = self.streams[lease.slot] = Stream(f"{time}", chunk, None, lease)
        self.push(time + PIECE_S, stream, chunk, end)
        self.heard.append((time, len(self.streams)))

    def seat(self, stream: Stream) -> None:
        """As the engine does, when the first chunk is whole."""
        del self.streams[stream.lease.slot]
        self.seating.seat(stream)
        self.streams[stream.lease.slot] = stream
        stream.fresh = False

    def run(self, until: float, times: float = 1.0) -> None:
        """Steps take `times` what they truly cost."""
        while self.now < until and self.events:
            self.happen()
            ready = [
                Ready(slot, s.chunk, s.owe(), s.closing, s.ready_chunks, s.ends)
                for slot, s in self.streams.items()
                if s.ready
            ]
            if not ready:
                self.now = max(self.now, self.events[0][0] if self.events else until)
            elif (hold := hold_s(self.now, self.began, ready, self.machine)) > 0:
                self.now = min(self.now + hold, max(self.now + 1e-6, self.events[0][0]))
            elif (found := self.slots.stray()) is not None:
                self.move(*found)
            else:
                batch = plan(self.now, ready, self.machine)[0]
                self.step(batch.rows, times, batch.chunks)

    def move(self, lease: Lease, slot: int) -> None:
        """As the engine does; it takes a moment."""
        if not self.tidy:
            return
        self.now += 0.002
        stream = self.streams[slot] = self.streams.pop(lease.slot)
        stream.lease = self.slots.move(lease, slot)

    def step(self, rows: tuple[Ready, ...], times: float, chunks: int) -> None:
        chunk, width = rows[0].chunk, len(rows)
        frames = chunk * chunks
        if self.contiguous:
            width = rows[-1].slot - rows[0].slot + 1
        self.began, took = self.now, times * self.cost(frames, width)
        self.now, self.busy_s = self.now + took, self.busy_s + took
        arrived = []
        for row in rows:
            arrived.append(self.streams[row.slot].arrived_at)
            self.streams[row.slot].take(chunks)
        late = tuple(self.now - came for came in arrived)
        self.late += [(self.now, each) for each in late]
        step = Step(chunk, took, (0.0,) * len(rows), late, False, self.machine.cost(frames, width), late)
        self.admission.stepped(self.now, step)

    def share(self, of: float, since: float) -> float:
        """The lateness that this share of the chunks stays below."""
        late = sorted(each for time, each in self.late if time > since)
        return late[int(of * len(late))]

    def most(self, since: float) -> int:
        return max(count for time, count in self.heard if time > since)


@pytest.mark.parametrize("contiguous", [True, False])
@pytest.mark.parametrize("chunk", [1, 7])
def test_at_one_and_a_half_times_capacity_the_surplus_is_refused_and_the_others_stay_on_time(
    chunk: int, contiguous: bool
) -> None:
    house = House(table(), contiguous)
    fit = house.admission.fits(chunk)
    house.clients(20.0 / (1.5 * fit), chunk, 90.0, 20.0)
    house.run(90.0)
    offered = len(house.refused) + len(house.heard)
    assert house.most(20.0) == fit, "capacity was not used, or passed over"
    assert 0.2 <= len(house.refused) / offered <= 0.55
    assert all(reason.endswith(f"of {80 * chunk} ms {fit} fit; try again later") for reason in house.refused)
    assert house.share(0.95, 20.0) <= max(chunk * FRAME_S, SETTINGS.budget_s)
    assert house.share(0.999, 20.0) <= chunk * FRAME_S + SETTINGS.budget_s


@pytest.mark.parametrize("contiguous", [True, False])
def test_streams_of_two_latencies_share_a_full_machine(contiguous: bool) -> None:
    """A step of neighbours is dear for rows far apart, which no table says: then their lateness keeps others out."""
    house = House(table(), contiguous)
    house.clients(1.2, 1, 90.0, 15.0)
    house.clients(0.4, 7, 90.0, 15.0)
    house.run(90.0)
    assert len(house.refused) > 20
    assert house.share(0.95, 20.0) <= (1.25 if contiguous else 0.5) * SETTINGS.budget_s


def test_where_steps_take_longer_than_measured_fewer_come_in_and_they_are_on_time() -> None:
    house = House(table(1 / 1.5))
    told = house.admission.fits(1)
    house.clients(20.0 / (1.5 * told), 1, 120.0, 20.0)
    house.run(120.0)
    honest = table().fits(1, SETTINGS.max_load)
    assert told > 1.2 * honest
    assert house.most(60.0) <= 1.15 * honest
    assert house.share(0.95, 60.0) <= SETTINGS.budget_s


def test_a_table_from_a_busy_minute_does_not_keep_streams_out_for_long() -> None:
    house = House(table(3.0))
    told, honest = house.admission.fits(1), table().fits(1, SETTINGS.max_load)
    assert told < honest / 2
    house.clients(20.0 / (1.5 * honest), 1, 180.0, 20.0)
    house.run(180.0)
    assert house.most(100.0) >= 0.8 * honest
    assert house.share(0.95, 100.0) <= SETTINGS.budget_s


@pytest.mark.parametrize("tidy", [True, False])
def test_a_range_that_thins_out_is_closed_up_so_that_who_comes_next_is_on_time(tidy: bool) -> None:
    house = House(table(cost=light), cost=light, tidy=tidy)
    for number in range(130):
        house.push(house.rng.uniform(0, 2), None, 1, math.inf if number % 4 == 0 else 4.0)
    for _ in range(80):
        house.push(house.rng.uniform(6, 8), None, 7, math.inf)
    house.run(16.0)
    assert house.refused == []
    ranges: dict[int, list[int]] = {}
    for slot, stream in house.streams.items():
        if stream.chunk == 1:
            ranges.setdefault(stream.lease.group, []).append(slot)
    assert (sum(max(slots) - min(slots) + 1 for slots in ranges.values()) <= 45) == tidy
    assert (house.share(0.95, 10.0) < 0.15) == tidy


def test_neighbours_that_gather_leave_more_of_the_machine_and_are_hardly_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gathered, at_once = (House(table(cost=light), cost=light) for _ in range(2))
    gather_most_s = scheduler.GATHER_S
    for house, gather_s in ((gathered, scheduler.GATHER_S), (at_once, 0.0)):
        monkeypatch.setattr(scheduler, "GATHER_S", gather_s)
        house.clients(1.0, 1, 60.0, 20.0)  # twenty streams or so
        house.run(60.0)
    assert gathered.busy_s < 0.8 * at_once.busy_s
    assert gathered.share(0.95, 5.0) <= at_once.share(0.95, 5.0) + gather_most_s


def test_streams_whose_chunks_come_together_lie_together_and_wait_less(monkeypatch: pytest.MonkeyPatch) -> None:
    late = {}
    for phases in (1, seating.MOST_PHASES):
        monkeypatch.setattr(seating, "MOST_PHASES", phases)
        house = House(table(cost=light), cost=light)
        for _ in range(104):  # four fifths of what fits
            house.push(house.rng.uniform(0, 3), None, 1, math.inf)
        house.run(20.0)
        assert house.refused == []
        late[phases] = house.share(0.5, 8.0), house.share(0.95, 8.0)
    assert late[seating.MOST_PHASES][0] < 0.8 * late[1][0]
    assert late[seating.MOST_PHASES][1] < 0.8 * late[1][1]


@pytest.mark.parametrize(
    ("table", "took", "every_s", "change"),
    [
        (0.02, 0.02, 1.0, 1.0),  # few streams, whose steps nobody disturbs
        (0.02, 0.01, 1.0, 1.8),  # the same, with a table from a busy minute, which still counts for a sixth
        (0.02, 0.028, 0.035, 1.0),  # as many as were let in, and their steps take what was expected
        (0.02, 0.02, 0.025, 1.4),  # the same on a machine that has processors to spare
        (0.02, 0.04, 0.05, 0.8),  # and on one that others use
    ],
)
def test_what_fits_before_a_load_was_seen_is_what_fits_under_it(
    table: float, took: float, every_s: float, change: float
) -> None:
    settings = EngineSettings(budget_s=0.25, threads=1, processors=2, max_load=0.8)
    shared = Admission(Costs({7: ((1, 0.02), (100, 2.0))}), settings, 1000)
    before = shared.fits(7)
    assert before == pytest.approx(0.8 / (1.4 * 0.02 / 0.56), abs=1)
    for number in range(round(60 / took)):
        shared.stepped(number * every_s, Step(7, took, (0.0,), (0.0,), False, table))
    assert shared.fits(7) == pytest.approx(change * before, rel=0.06, abs=1)
