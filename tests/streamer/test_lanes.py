"""Claims about engines side by side: streams are spread evenly, hear what they would alone, and all end with one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from streamer.backends.base import Row
from streamer.backends.fake import FakeBackend, Faults, spell
from streamer.engine.lanes import EngineSettings, Failed, Full, Lanes
from tests.streamer.test_engine import SILENCE, Ear, wait_until

TEXTS = {f"s{number}": f"{'abcdefgh'[number % 8]} says so" for number in range(12)}


@contextmanager
def lanes(backend: FakeBackend, count: int, settings: EngineSettings | None = None) -> Iterator[tuple[Lanes, Ear]]:
    ear = Ear()
    running = Lanes(backend, settings or EngineSettings(max_load=100, lanes=count), ear.deliver, ear.steps.append)
    running.start()
    try:
        yield running, ear
        if running.failure is None:
            running.check()
    finally:
        assert running.stop()


def places(running: Lanes) -> list[dict[int, int]]:
    return [{chunk: n for chunk, n in lane.counts.items() if n} for lane in running.lanes]


def test_streams_are_spread_evenly_by_latency_and_hear_their_own_words() -> None:
    with lanes(FakeBackend(64), 3) as (running, ear):
        for number, name in enumerate(TEXTS):
            running.open(name, (1, 7)[number % 2])
        assert places(running) == [{1: 2, 7: 2}] * 3
        for name, text in TEXTS.items():
            running.feed(name, spell(text))
        for name in TEXTS:
            running.finish(name, SILENCE)
        ear.finished(*TEXTS)
        wait_until(lambda: places(running) == [{}] * 3)
        assert {name: ear.text(name) for name in TEXTS} == TEXTS


def test_who_leaves_makes_room_where_he_was() -> None:
    with lanes(FakeBackend(32), 2) as (running, _):
        for name in ("a", "b", "c", "d"):
            running.open(name, 1)
        running.drop("a")
        running.drop("c")
        assert places(running) == [{}, {1: 2}]
        running.open("e", 1)
        assert places(running) == [{1: 1}, {1: 2}]
        running.feed("a", SILENCE)
        running.finish("a", SILENCE)
        assert running.waiting_seconds("a") == 0.0


def test_all_are_admitted_together() -> None:
    with lanes(FakeBackend(10), 2) as (running, _):
        for name in "abcdefgh":
            running.open(name, 1)
        with pytest.raises(Full, match=r"^8 streams are heard now"):
            running.open("i", 1)
        assert running.room(1) is not None
        assert Counter(sum(place.values()) for place in places(running)) == {4: 2}
        running.drop("a")
        assert running.room(1) is None


def test_one_that_dies_ends_the_streams_of_all() -> None:
    def dead(_launch: int, _rows: Sequence[Row]) -> None:
        if broken:
            raise RuntimeError("the device is gone, as ordered")

    broken: list[bool] = []
    with lanes(FakeBackend(16, Faults(dead)), 2) as (running, ear):
        running.open("a", 1)
        running.open("b", 1)
        broken.append(True)
        running.feed("a", spell("a"))
        ear.wait(lambda _: all(ear.of(name) and isinstance(ear.of(name)[-1], Failed) for name in "ab"))
        assert running.failure == "the engine died (RuntimeError)"
        assert running.room(1) == running.failure


def test_a_step_that_hangs_is_the_end_of_all() -> None:
    with lanes(FakeBackend(16), 2) as (running, ear):
        running.open("a", 1)
        running.open("b", 1)
        running.watch(10.0, 0.0)
        assert running.failure is None
        running.watch(-1.0, 0.1)
        ear.wait(lambda _: all(ear.of(name) and isinstance(ear.of(name)[-1], Failed) for name in "ab"))
        assert running.failure == "a step took longer than -1 s, expected an end"
