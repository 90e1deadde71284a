"""Two launches under way: order, faults, hangs, and slots that change hands. The toy refuses what a device would."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence
from contextlib import suppress

import numpy as np
import pytest

from streamer.actions import Heard
from streamer.backends.base import Row
from streamer.backends.fake import FakeBackend, Faults, spell
from streamer.engine.capacity import Costs
from streamer.engine.launches import HOLD
from streamer.engine.loop import Engine, EngineSettings, Failed, Full
from tests.streamer.test_engine import SILENCE, Ear, engine, wait_until


def pipelined(slots: int, faults: Faults | None = None, depth: int = 2) -> FakeBackend:
    return FakeBackend(slots, faults, contiguous=False, depth=depth)


def gated(*numbers: int) -> tuple[Faults, threading.Event]:
    """Collecting these launches waits for the event, as a device would."""
    gate = threading.Event()
    return Faults(on_collect=lambda number: gate.wait(30.0) and None if number in numbers else None), gate


def first_alone(running: Engine, backend: FakeBackend, told: threading.Event, streams: dict[str, np.ndarray]) -> None:
    """The first stream is launched, and the launch lasts until the others have been fed, too."""
    for turn, (name, pcm) in enumerate(streams.items()):
        running.open(name, (1, 7)[turn])
        running.feed(name, pcm)
        wait_until(lambda: backend.launches == 1)
    told.set()


def test_the_next_batch_is_launched_before_the_last_one_is_collected() -> None:
    faults, gate = gated(0)
    told = threading.Event()
    backend = pipelined(4, Faults(lambda number, _rows: number or told.wait(10.0), faults.on_collect))
    with engine(backend) as (running, ear):
        first_alone(running, backend, told, {"a": spell("abc"), "b": spell("bcdefghij")})
        wait_until(lambda: backend.launches == 2)
        assert ear.results == [], "nothing was collected yet"
        gate.set()
        ear.wait(lambda _: len(ear.results) == 4)


def test_a_stream_is_never_in_two_launches_and_its_results_come_in_order() -> None:
    backend = pipelined(4)  # which refuses a slot in two launches, and another order of collecting
    with engine(backend) as (running, ear):
        for name, chunk in (("a", 1), ("b", 2), ("c", 7)):
            running.open(name, chunk)
            running.feed(name, spell("in their order"))
            running.finish(name, SILENCE)
        ear.finished("a", "b", "c")
    for name in "abc":
        frames = [heard.frames for heard in ear.of(name) if isinstance(heard, Heard)]
        assert frames == sorted(frames)
        assert ear.text(name) == "in their order"


def test_a_fault_in_a_collect_ends_that_batchs_streams_only() -> None:
    def on_collect(number: int) -> None:
        if number == 0:
            wait_until(lambda: backend.launches == 2)
            raise RuntimeError("the first results are lost, as ordered")

    told = threading.Event()
    backend = pipelined(4, Faults(lambda number, _rows: number or told.wait(10.0), on_collect))
    with engine(backend) as (running, ear):
        first_alone(running, backend, told, {"lost": spell("ab"), "kept": spell("kept words")})
        running.finish("kept", SILENCE)
        ear.finished("lost", "kept")
        assert running.failure is None
    assert isinstance(ear.of("lost")[-1], Failed)
    assert ear.text("kept") == "kept words"


def test_a_launch_that_fails_while_another_is_under_way_ends_its_own_streams_only() -> None:
    faults, gate = gated(0)
    told = threading.Event()

    def on_launch(number: int, rows: Sequence[Row]) -> None:
        if number == 0:
            told.wait(10.0)
        if number == 1:
            gate.set()
            raise RuntimeError(f"launch {number} of {len(rows)} rows fails as ordered")

    backend = pipelined(4, Faults(on_launch, faults.on_collect))
    with engine(backend) as (running, ear):
        first_alone(running, backend, told, {"first": spell("fine")[:200], "second": spell("abcdefgh")})
        ear.finished("second")
        running.feed("first", spell("fine")[200:])
        running.finish("first", SILENCE)
        ear.finished("first")
        assert running.failure is None
    assert isinstance(ear.of("second")[-1], Failed)
    assert ear.text("first") == "fine"


def test_a_hang_while_collecting_is_seen_and_all_streams_fail() -> None:
    faults, gate = gated(0)
    backend = pipelined(4, faults)
    with engine(backend) as (running, ear):
        running.open("a", 1)
        running.feed("a", spell("ab"))
        wait_until(lambda: running.stuck_seconds() > 0.05)
        running.die("a step took too long")
        ear.finished("a")
        gate.set()
    assert [type(heard) for heard in ear.of("a")] == [Failed]


def test_a_slot_that_changes_hands_under_way_is_opened_after_its_launch_is_collected() -> None:
    faults, gate = gated(0)
    backend = pipelined(2, faults)  # one slot for streams: the second one gets the first one's
    with engine(backend) as (running, ear):
        running.open("first", 1)
        running.feed("first", spell("a"))
        wait_until(lambda: backend.launches == 1)
        running.drop("first")
        running.open("second", 1)
        running.feed("second", spell("bc"))
        running.finish("second", SILENCE)
        gate.set()
        ear.finished("second")
    assert ear.of("first") == []
    assert ear.text("second") == "bc"


def test_streams_that_are_left_when_it_stops_have_no_launch_under_way() -> None:
    backend = pipelined(4)
    with engine(backend) as (running, ear):
        running.open("a", 1)
        running.feed("a", spell("words"))
        ear.wait(len)
    assert not backend._under_way


def test_rows_that_come_soon_go_with_the_next_launch() -> None:
    """Launched at once, the second step would be of the one row that was there first."""
    faults, gate = gated(0)
    fed, sizes = threading.Event(), []

    def on_launch(number: int, rows: Sequence[Row]) -> None:
        sizes.append(len(rows))
        if number == 0:
            fed.wait(10.0)
        else:
            gate.set()

    backend, ear = pipelined(8, Faults(on_launch, faults.on_collect)), Ear()
    running = Engine(backend, EngineSettings(max_load=100, budget_s=60), ear.deliver)
    running.start(Costs({chunk: ((1, 1.0),) for chunk in (1, 2, 7, 14)}))
    for name in "abcd":
        running.open(name, 1)
    for name in "ab":
        running.feed(name, spell("x"))
        wait_until(lambda: len(sizes) == 1)
    fed.set()
    time.sleep(HOLD / 10)
    for name in "cd":
        running.feed(name, spell("x"))
    ear.wait(lambda _: len(ear.results) == 4, 10.0)
    assert running.stop()
    assert sizes == [1, 3]


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_whatever_streams_do_meanwhile_each_hears_its_own_words(depth: int) -> None:
    rng = random.Random(depth)
    backend = pipelined(12, depth=depth)
    texts = {f"s{i}": " ".join(rng.choice(["some", "words", "go", "here"]) for _ in range(3)) for i in range(60)}
    left = {name: spell(text) for name, text in texts.items()}
    said: dict[str, int] = {}
    dropped: set[str] = set()
    with engine(backend) as (running, ear):
        coming, here = list(texts), []
        while coming or here:
            if coming and len(here) < 8:
                with suppress(Full):
                    running.open(coming[-1], rng.choice([1, 2, 7]))
                    here.append(coming.pop())
            if not here:  # those that have said all are being heard yet
                time.sleep(0.001)
                continue
            name = rng.choice(here)
            piece, left[name] = left[name][: (size := rng.randrange(1, 6000))], left[name][size:]
            running.feed(name, piece)
            if rng.random() < 0.2:
                said[name] = said.get(name, 0) + 1
                running.fork(name, said[name], SILENCE)
            if rng.random() < 0.03:
                running.drop(name)
                dropped.add(name)
                here.remove(name)
            elif not len(left[name]):
                running.finish(name, SILENCE)
                here.remove(name)
            running.check()
        ear.finished(*(set(texts) - dropped))
        assert running.failure is None
    for name in set(texts) - dropped:
        assert ear.text(name) == texts[name], name
        marks = [heard.mark for heard in ear.of(name) if isinstance(heard, Heard) and heard.mark is not None]
        assert marks == list(range(1, said.get(name, 0) + 1)), name
