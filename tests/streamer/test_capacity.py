"""Claims about admission: what the table says, what steps and lateness say since, and what a capacity.json may hold."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.backends.base import Row
from streamer.backends.fake import FakeBackend
from streamer.config import load
from streamer.engine import machine
from streamer.engine.capacity import LATE_ROWS, MOST_PACE, Admission, Watch, most_streams
from streamer.engine.costs import Clock, Costs, longest_step, measure
from streamer.engine.kept import FORMAT, Kept
from streamer.engine.machine import free_bytes
from streamer.engine.results import EngineSettings, Step
from streamer.engine.scheduler import Machine, plan
from streamer.engine.stream import Ready
from streamer.errors import Refusal
from streamer.offer import engine_settings, slots

COSTS = Costs({1: ((1, 0.004), (9, 0.008)), 7: ((1, 0.02), (8, 0.09))})
SETTINGS = EngineSettings(budget_s=0.25, max_load=0.85)


# The table.


def test_a_stream_that_would_not_fit_is_refused_in_words() -> None:
    costs = Costs({7: ((1, 0.1), (8, 0.4))})
    assert Admission(costs, SETTINGS, 1000).refusal(0.0, {}, 7) is None
    words = Admission(costs, EngineSettings(max_load=0.7), 1000).refusal(0.0, {7: 8}, 7)
    more = "8 streams are heard now and one more would take 80% of the time, expected at most 70%"
    assert words == f"{more}; of 560 ms 7 fit; try again later"


def test_costs_lie_on_lines_between_and_beyond_what_was_measured() -> None:
    costs = Costs({1: ((1, 0.1), (3, 0.2))})
    assert [costs.seconds(1, rows) for rows in (0, 1, 2, 3, 6)] == pytest.approx([0.0, 0.1, 0.15, 0.2, 0.4])
    with pytest.raises(ValueError, match="growing rows"):
        Costs({1: ((2, 0.1),)})


def test_the_rows_that_a_step_holds_are_the_most_that_end_in_time() -> None:
    for limit_s in (0.001, 0.004, 0.0061, 0.008, 0.03):
        rows = COSTS.most_rows(1, limit_s)
        assert rows == 1 or COSTS.seconds(1, rows) <= limit_s
        assert COSTS.seconds(1, rows + 1) > limit_s


def test_a_round_is_in_even_steps_as_many_as_the_longest_step_makes_of_it() -> None:
    most = COSTS.most_rows(1, longest_step(1, 0.004))
    assert COSTS.round(1, most) == COSTS.seconds(1, most)
    rows, more = divmod(2 * most + 3, 3)
    even = more * COSTS.seconds(1, rows + 1) + (3 - more) * COSTS.seconds(1, rows)
    assert COSTS.round(1, 2 * most + 3) == pytest.approx(even)


@given(st.sampled_from([1, 7]), st.floats(0.05, 3.0))
def test_as_many_fit_as_are_let_in_one_by_one(chunk: int, max_load: float) -> None:
    admission, count = Admission(COSTS, EngineSettings(max_load=max_load), 1 << 20), 0
    while admission.refusal(0.0, {chunk: count}, chunk) is None:
        count += 1
    assert COSTS.fits(chunk, max_load) == admission.fits(chunk) == count


def test_engines_side_by_side_hold_as_much_as_each_of_them() -> None:
    one, three = (Admission(COSTS, SETTINGS, 1000, lanes) for lanes in (1, 3))
    assert three.fits(7) == 3 * one.fits(7)
    assert three.refusal(0.0, {7: 3 * one.fits(7) - 1}, 7) is None
    assert three.refusal(0.0, {7: 3 * one.fits(7)}, 7) is not None


def test_what_sockets_take_counts_where_steps_take_the_same_processors() -> None:
    shared = Admission(COSTS, dataclasses.replace(SETTINGS, threads=1, processors=1), 1000)
    before, load = shared.fits(1), shared.load({1: 20})
    assert before < Admission(COSTS, SETTINGS, 1000).fits(1)
    for _ in range(before // 2):
        shared.came(1)
    for second in range(30):
        shared.served(float(second), 0.02 * second * shared.streams[1])  # three times what is assumed at first
    assert shared.load({1: 20}) - load == pytest.approx(20 * (0.02 - 0.006), rel=0.3)
    assert shared.fits(1) < before
    for second in range(30, 90):
        shared.served(float(second), 0.6 * shared.streams[1])  # nothing more
    assert shared.fits(1) > before
    assert "of the time" in (shared.refusal(90.0, {1: shared.fits(1)}, 1) or "")


# What was seen since.


def step(expected_s: float, took_s: float, late_s: float = 0.01, rows: int = 4) -> Step:
    return Step(1, took_s, (0.0,) * rows, (late_s,) * rows, False, expected_s, (late_s,) * rows)


def test_a_table_from_a_busy_minute_gives_way_to_what_steps_take() -> None:
    poisoned = Costs({1: ((1, 0.016), (9, 0.032))})
    admission, honest = Admission(poisoned, SETTINGS, 1000), Admission(COSTS, SETTINGS, 1000)
    assert admission.fits(1) < honest.fits(1) / 3
    for number in range(4000):
        admission.stepped(0.08 * number, step(0.016, 0.004))
    assert admission.fits(1) >= 0.6 * honest.fits(1)


def test_a_machine_that_others_use_now_takes_fewer_and_recovers() -> None:
    admission = Admission(COSTS, SETTINGS, 1000)
    before = admission.fits(1)
    for number in range(1000):
        admission.stepped(0.08 * number, step(0.008, 0.024))
    assert admission.fits(1) < before / 2
    for number in range(1000, 6000):
        admission.stepped(0.08 * number, step(0.008, 0.008))
    assert admission.fits(1) >= 0.95 * before


def test_a_few_steps_do_not_overrule_the_table() -> None:
    watch = Watch()
    for _ in range(20):
        watch.stepped(0.004, 0.012)
    assert watch.pace < 1.1
    for _ in range(100_000):
        watch.stepped(0.001, 1.0)
    assert watch.pace == MOST_PACE


def test_a_failed_step_says_nothing_of_costs() -> None:
    admission = Admission(COSTS, SETTINGS, 1000)
    for _ in range(100):
        admission.stepped(0.0, Step(1, 30.0, (0.0,), (9.0,), True))
    assert admission.fits(1) == COSTS.fits(1, 0.85)


def test_while_chunks_are_late_nobody_else_comes_in_and_later_they_do() -> None:
    admission = Admission(COSTS, SETTINGS, 1000)
    now = 0.0
    for _ in range(100):
        now += 0.08
        admission.stepped(now, step(0.008, 0.008, late_s=0.3))
    late = "100% of their chunks are late by more than 250 ms and a chunk's time"
    words = f"4 streams are heard now, {late}, expected at most 5%; try again later"
    assert admission.refusal(now, {1: 4}, 1) == words
    assert admission.refusal(now + 60.0, {1: 4}, 1) is None, "who is late for a while is full for ever"
    assert admission.refusal(now, {1: 0}, 1) is None, "nobody is there any more who could be late"
    few = Admission(COSTS, SETTINGS, 1000)
    few.stepped(0.0, step(0.008, 0.008, late_s=9.0, rows=int(LATE_ROWS) - 1))
    assert few.refusal(0.1, {1: 1}, 1) is None


def test_a_refusal_says_what_fits() -> None:
    admission = Admission(COSTS, SETTINGS, 1000)
    count = admission.fits(1)
    words = admission.refusal(0.0, {1: count}, 1)
    assert words is not None
    assert words.startswith(f"{count} streams are heard now and one more would take ")
    assert words.endswith(f"of the time, expected at most 85%; of 80 ms {count} fit; try again later")
    full = Admission(COSTS, SETTINGS, 3).refusal(0.0, {1: 2, 7: 1}, 1)
    assert full == "3 streams are heard now, expected fewer: all slots are taken; try again later"


def test_streams_are_as_many_as_slots_or_as_memory_holds() -> None:
    backend = FakeBackend(100)  # whose states are five numbers of 8 bytes
    assert most_streams(backend, 94, None) == 94
    assert most_streams(backend, 94, 400) == 10
    assert most_streams(backend, 94, 10) == 1
    assert most_streams(backend, 94, 1 << 40) == 94


@pytest.mark.parametrize(("limit", "count"), [("max 100000", 3), ("150000 100000", 2), ("50000 100000", 1), ("", 3)])
def test_a_limit_of_processor_time_counts_as_fewer_processors(
    limit: str, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpu.max").write_text(limit)
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: {0, 1, 2}, raising=False)
    assert machine.processors() == count


# The measurement.


class Disturbed(FakeBackend):
    """Steps of two rows are measured while something else has the machine."""

    now = 0.0

    def launch(self, chunk: int, rows: Sequence[Row]) -> object:
        self.now += {1: 0.01, 2: 1.0, 4: 0.02}[len(rows)]
        return super().launch(chunk, rows)


def test_a_disturbed_measurement_does_not_keep_streams_apart() -> None:
    backend = Disturbed(4)
    costs = measure(backend, (1,), lambda: backend.now, 10.0)
    assert costs.points[1] == ((1, pytest.approx(0.01)), (2, pytest.approx(0.02)), (4, pytest.approx(0.02)))
    rows = [Ready(slot, 1, 0.0, False) for slot in range(4)]
    assert [len(batch.rows) for batch in plan(1.0, rows, Machine(costs.seconds, 1.0, True))] == [4]


class Interrupted(FakeBackend):
    """A row takes a millisecond, and ten while the machine is at something else: the first time round at some sizes."""

    now = 0.0

    def launch(self, chunk: int, rows: Sequence[Row]) -> object:
        self.now += 0.001 * len(rows) * (10 if 20 < self.launches < 40 else 1)
        return super().launch(chunk, rows)


def test_what_the_machine_did_at_one_moment_is_not_in_the_table() -> None:
    backend = Interrupted(16)
    costs = measure(backend, (7, 14), lambda: backend.now, 10.0)
    for chunk in (7, 14):
        assert costs.points[chunk] == tuple((rows, pytest.approx(0.001 * rows)) for rows in (1, 2, 4, 8, 16))


class Odd(FakeBackend):
    """What chunks cost says nothing about how long they are, for as long as it is measured."""

    now = 0.0

    def launch(self, chunk: int, rows: Sequence[Row]) -> object:
        self.now += {1: 0.09, 2: 0.03, 7: 0.5, 14: 0.03}[chunk]
        return super().launch(chunk, rows)


def test_a_longer_chunk_never_costs_more_than_as_many_shorter_ones() -> None:
    backend = Odd(1)
    costs = measure(backend, (2, 7), lambda: backend.now, 10.0)
    assert costs.points == {2: ((1, pytest.approx(0.03)),), 7: ((1, pytest.approx(0.12)),)}


def test_a_shorter_chunk_never_costs_more_than_a_longer_one() -> None:
    backend = Odd(4)
    costs = measure(backend, (1, 14), lambda: backend.now, 10.0)
    assert costs.points[1] == ((1, pytest.approx(0.03)),)
    assert costs.points[14][0] == (1, pytest.approx(0.03))


class Linear(FakeBackend):
    """A millisecond, and another one a row; `busy` counts less where others have the processors."""

    now, busy, share = 0.0, 0.0, 1.0

    def launch(self, chunk: int, rows: Sequence[Row]) -> object:
        self.now += 0.001 * (1 + len(rows))
        self.busy += 0.001 * (1 + len(rows)) * self.share
        return super().launch(chunk, rows)


def test_rows_are_not_tried_where_a_line_goes_on() -> None:
    backend = Linear(1024)
    costs = measure(backend, (14,), lambda: backend.now, 10.0)
    assert [rows for rows, _ in costs.points[14]] == [1, 2, 4, 8, 16]
    assert costs.seconds(14, 256) == pytest.approx(0.001 + 0.256, rel=0.07)


def test_steps_longer_than_any_that_is_planned_are_not_measured() -> None:
    backend = FakeBackend(8)
    ticks = iter(range(100_000))
    costs = Kept("").costs(backend, (1,), lambda: next(ticks) * 0.3, 0.25)
    assert [rows for rows, _ in costs.points[1]] == [1]
    assert backend.launches == 2


# The file.


def kept(file: Path, backend: FakeBackend, again: bool = False, clock: Clock | None = None) -> Costs:
    ticks = iter(range(100_000))
    return Kept(str(file), 2, again).costs(backend, (1, 7), clock or (lambda: next(ticks) * 0.001), 1.0)


def test_what_was_measured_is_kept_and_a_broken_file_is_measured_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "capacity.json"
    first = kept(file, FakeBackend(4))
    backend = FakeBackend(4)
    assert kept(file, backend, clock=lambda: 0.0) == first
    assert (backend.launches, caplog.records) == (0, [])
    good = file.read_text()
    (name,) = json.loads(good)["tables"]
    tables = [json.dumps({"format": FORMAT, "tables": {name: value}}) for value in NONSENSE]
    for text in [good.replace("[", "{", 1), *tables, '{"format": 1, "tables": {}}', "[]", "{broken", "\0"]:
        file.write_text(text)
        backend = FakeBackend(4)
        caplog.clear()
        assert kept(file, backend).points.keys() == {1, 7}, text
        assert backend.launches > 0, text
        assert [record.message.startswith(f"engine.capacity_file={file}: got ") for record in caplog.records] == [True]
        assert kept(file, FakeBackend(4), clock=lambda: 0.0).points.keys() == {1, 7}, "it was not mended"


GOOD = {"1": [[1, 0.1]], "7": [[1, 0.1]]}
NONSENSE: list[object] = [
    None,
    3,
    {"slots": 4, "costs": None},
    {"slots": 4, "costs": {"1": [[1, 0.1]]}},
    {"slots": 4, "costs": {"1": 5, "7": 6}},
    {"slots": 4, "costs": {"one": [], "7": []}},
    {"slots": 4, "costs": GOOD | {"1": [[1, "x"]]}},
    {"slots": 4, "costs": GOOD | {"1": [[1, math.nan]]}},
    {"slots": 4, "costs": GOOD | {"1": [[math.inf, 1]]}},
    {"slots": 4, "costs": GOOD | {"1": [[1, 0.1, 3]]}},
    {"slots": 4, "costs": GOOD | {"1": []}},
    {"slots": "many", "costs": GOOD},
    {"costs": GOOD},
]


def test_tables_of_other_models_and_machines_stay_as_they_are(tmp_path: Path) -> None:
    file = tmp_path / "capacity.json"
    foreign = {"measured": "2026-01-01", "slots": 1, "costs": {"9": [[1, 7.0]]}}
    file.write_text(json.dumps({"format": FORMAT, "tables": {"another": foreign}}))
    kept(file, FakeBackend(4))
    other_threads = Kept(str(file), 7).costs(backend := FakeBackend(4), (1, 7), lambda: 0.0, 1.0)
    assert (other_threads.points.keys(), backend.launches > 0) == ({1, 7}, True)
    tables = json.loads(file.read_text())["tables"]
    assert (tables["another"], len(tables)) == (foreign, 3)


def test_a_table_of_fewer_slots_is_measured_again_unless_its_steps_were_long_enough(tmp_path: Path) -> None:
    file = tmp_path / "capacity.json"
    kept(file, FakeBackend(4))
    kept(file, wider := FakeBackend(16))
    assert wider.launches > 0
    kept(file, narrower := FakeBackend(8))
    assert narrower.launches == 0


def test_it_is_measured_again_when_asked(tmp_path: Path) -> None:
    file = tmp_path / "capacity.json"
    kept(file, FakeBackend(4))
    backend = FakeBackend(4)
    assert kept(file, backend, again=True, clock=lambda: 0.0).seconds(1, 1) == 0.0
    assert backend.launches > 0
    assert kept(file, FakeBackend(4)).seconds(1, 1) == 0.0


def test_what_was_measured_on_a_busy_machine_is_used_but_not_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "capacity.json"
    for share, there in ((0.5, False), (1.9, True)):  # two threads work for 1.9 seconds in a second
        backend = Linear(8)
        backend.share = share
        costs = Kept(str(file)).costs(backend, (1,), lambda own=backend: own.now, 1.0, lambda own=backend: own.busy)
        assert (costs.seconds(1, 8), file.exists()) == (pytest.approx(0.009), there)
    (record,) = caplog.records
    assert record.message == (
        "other work took the processors while steps were measured (2.0 s for a second of ours); the table is not kept"
    )


def test_a_file_that_cannot_be_written_costs_a_warning_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for file in (tmp_path / "no" / "folder" / "x.json", tmp_path):
        caplog.clear()
        assert kept(file, FakeBackend(4)).points.keys() == {1, 7}
        assert {record.levelname for record in caplog.records} == {"WARNING"}
        assert "expected a file that can be written" in caplog.messages[-1]
        assert "engine.capacity_file=" in caplog.messages[-1]
    assert list(tmp_path.iterdir()) == []


# The options.


def test_slots_are_automatic_where_a_state_takes_memory_only_when_it_is_used() -> None:
    for options, expected in (([], 1024), (["model.backend=pytorch"], 32), (["engine.slots=7"], 7)):
        config = load(env={}, overrides=options)
        assert slots(config) == expected
        bounded = engine_settings(config).memory_bytes is not None
        assert bounded == (expected == 1024 and free_bytes() is not None)


def test_one_slot_is_refused_for_a_finalize_needs_another() -> None:
    with pytest.raises(
        Refusal, match=r"engine\.slots=1: expected 2 or more, since one is kept back for finalize; or 0"
    ):
        load(env={}, overrides=["engine.slots=1"])
