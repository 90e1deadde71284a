"""The engine's thread on the toy backend: order, forks, faults, and slots that change hands."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pytest

from streamer.actions import Heard
from streamer.backends.base import Row, Ticket
from streamer.backends.fake import FakeBackend, Faults, dead_from, failing, spell
from streamer.engine.capacity import Costs
from streamer.engine.loop import Engine, EngineSettings, Failed, Full, Result, Step

FREE = Costs({chunk: ((1, 0.0),) for chunk in (1, 2, 7, 14)})
NOTHING = np.zeros(0, np.float32)
SILENCE = np.zeros(4000, np.float32)


class Ear:
    """Takes what the engine delivers; `wait` until it has heard enough."""

    def __init__(self) -> None:
        self.results: list[Result] = []
        self.steps: list[Step] = []
        self._more = threading.Condition()

    def deliver(self, results: list[Result]) -> None:
        with self._more:
            self.results += results
            self._more.notify_all()

    def wait(self, enough: Callable[[list[Result]], object], timeout_s: float = 5.0) -> None:
        with self._more:
            assert self._more.wait_for(lambda: enough(self.results), timeout_s), f"heard only {self.results}"

    def of(self, stream_id: str) -> list[Heard | Failed]:
        return [result.heard for result in self.results if result.stream_id == stream_id]

    def finished(self, *streams: str) -> None:
        self.wait(lambda _: all(any(isinstance(h, Failed) or h.finished for h in self.of(s)) for s in streams))

    def text(self, stream_id: str, mark: int | None = None) -> str:
        heard = [h for h in self.of(stream_id) if isinstance(h, Heard) and h.mark == mark]
        return FakeBackend(1).tokenizer.decode([token.id for h in heard for token in h.tokens]).strip()


@contextmanager
def engine(backend: FakeBackend, settings: EngineSettings | None = None) -> Iterator[tuple[Engine, Ear]]:
    ear = Ear()
    running = Engine(backend, settings or EngineSettings(), ear.deliver, ear.steps.append)
    running.start(FREE)
    try:
        yield running, ear
        if running.failure is None:
            running.check()
    finally:
        assert running.stop(), "the engine's thread did not end"


def slow_launches(seconds: float) -> tuple[FakeBackend, threading.Event]:
    """A backend whose first launch waits for the event."""
    gate = threading.Event()
    return FakeBackend(4, Faults(lambda launch, _rows: gate.wait(seconds) and None if launch == 0 else None)), gate


@pytest.mark.parametrize("chunk", [1, 2, 7, 14])
@pytest.mark.parametrize("contiguous", [True, False])
def test_streams_side_by_side_hear_what_each_was_told(chunk: int, contiguous: bool) -> None:
    texts = {"a": "hello world", "b": "other words come here", "c": "x"}
    with engine(FakeBackend(8, contiguous=contiguous)) as (running, ear):
        for name in texts:
            running.open(name, chunk)
        for at in range(0, 40_000, 777):
            for name, text in texts.items():
                running.feed(name, spell(text)[at : at + 777])
        for name in texts:
            running.finish(name, SILENCE)
        ear.finished(*texts)
    assert {name: ear.text(name) for name in texts} == texts


def test_counts_are_of_the_whole_stream() -> None:
    with engine(FakeBackend(2)) as (running, ear):
        running.open("a", 7)
        running.feed("a", spell("abcdefghij"))
        ear.wait(lambda _: len(ear.of("a")) == 1)
        running.finish("a", NOTHING)
        ear.finished("a")
    last = ear.of("a")[-1]
    assert isinstance(last, Heard)
    samples = len(spell("abcdefghij"))
    frames = FakeBackend(1).config.encoder_frames(samples // 160)
    assert (last.samples, last.frames, last.finished) == (samples, frames, True)
    assert [h.frames for h in ear.of("a")[:-1] if isinstance(h, Heard)] == [7]


def test_slots_of_streams_that_have_left_are_vacated() -> None:
    emptied: list[int] = []

    class Emptied(FakeBackend):
        def vacate(self, slot: int) -> None:
            emptied.append(slot)
            super().vacate(slot)

    with engine(Emptied(8)) as (running, ear):
        for name in ("a", "b", "c"):
            running.open(name, 1)
            running.feed(name, spell("ab"))
        ear.wait(lambda _: all(ear.of(name) for name in ("a", "b", "c")))
        slots = {stream.key: stream.lease.slot for stream in running._streams.values()}
        running.finish("a", SILENCE)
        running.drop("b")
        ear.finished("a")
        wait_until(lambda: {slots["a"], slots["b"]} <= set(emptied))
        assert slots["c"] not in emptied


def test_a_fork_hears_what_is_pending_and_the_stream_goes_on_untouched() -> None:
    whole = spell("before the fork and after it")
    cut = 9_000
    with engine(FakeBackend(4)) as (running, ear):
        running.open("a", 7)
        running.feed("a", whole[:cut])
        running.fork("a", 5, SILENCE)
        running.feed("a", whole[cut:])
        running.finish("a", SILENCE)
        ear.finished("a")
    assert ear.text("a") == "before the fork and after it"
    heard = [h for h in ear.of("a") if isinstance(h, Heard)]
    marks = [h.mark for h in heard]
    assert marks.count(5) == 1
    at = marks.index(5)
    assert sum(h.samples for h in heard[:at][-1:]) <= cut < heard[at + 1].samples, "the fork came out of its order"
    before = FakeBackend(1).tokenizer.decode([t.id for h in heard[: at + 1] for t in h.tokens])
    assert before.split()[0] == "before"
    assert heard[at].samples == cut + len(SILENCE)
    assert not heard[at].finished


def test_many_forks_in_a_row_each_come_once_and_in_order() -> None:
    whole = spell("many many forks in a row")
    with engine(FakeBackend(3)) as (running, ear):
        for name in ("a", "b"):
            running.open(name, 1)
        for mark, at in enumerate(range(0, len(whole), 2500)):
            for name in ("a", "b"):
                running.feed(name, whole[at : at + 2500])
                running.fork(name, mark, SILENCE)
        for name in ("a", "b"):
            running.finish(name, SILENCE)
        ear.finished("a", "b")
    for name in ("a", "b"):
        marks = [h.mark for h in ear.of(name) if isinstance(h, Heard) and h.mark is not None]
        assert marks == list(range(len(range(0, len(whole), 2500))))
        assert ear.text(name) == "many many forks in a row"


def test_a_fork_before_any_audio_is_answered() -> None:
    with engine(FakeBackend(2)) as (running, ear):
        running.open("a", 7)
        running.fork("a", 1, NOTHING)
        ear.wait(len)
        assert ear.of("a") == [Heard(tokens=(), frames=0, samples=0, mark=1)]


def test_full_is_said_in_words_and_a_free_slot_is_taken_again() -> None:
    with engine(FakeBackend(3)) as (running, ear):
        running.open("a", 7)
        running.open("b", 7)
        with pytest.raises(Full, match="2 streams are heard now"):
            running.open("c", 7)
        assert running.room(7) is not None
        running.finish("a", SILENCE)
        ear.finished("a")
        running.open("c", 7)


def test_more_load_than_time_is_refused() -> None:
    ear = Ear()
    running = Engine(FakeBackend(8), EngineSettings(max_load=0.5), ear.deliver)
    running.start(Costs({1: ((1, 0.03),), 7: ((1, 0.03),), 2: ((1, 0.0),), 14: ((1, 0.0),)}))
    running.open("a", 1)
    with pytest.raises(Full, match="one more would take 75% of the time, expected at most 50%"):
        running.open("b", 1)
    running.open("c", 7)
    assert running.stop()


def test_a_late_result_never_reaches_the_slots_next_owner() -> None:
    backend, gate = slow_launches(5.0)
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


def test_streams_come_and_go_at_any_time_and_no_slot_is_lost() -> None:
    backend = FakeBackend(4)
    with engine(backend) as (running, ear):
        for turn in range(60):
            name = f"s{turn}"
            running.open(name, (1, 7)[turn % 2])
            running.feed(name, spell("abcdefg hij"))
            running.fork(name, 1, SILENCE)
            if turn % 3:
                running.drop(name)
            else:
                running.finish(name, SILENCE)
                ear.finished(name)
                assert ear.text(name) == "abcdefg hij"
            running.check()


def test_a_bad_row_ends_its_stream_only() -> None:
    with engine(FakeBackend(4)) as (running, ear):
        for name in ("bad", "good"):
            running.open(name, 1)
        running.feed("bad", np.full(4000, np.nan, np.float32))
        running.feed("good", spell("fine words"))
        running.finish("good", SILENCE)
        ear.finished("bad", "good")
        assert running.failure is None
    assert ear.text("good") == "fine words"
    (failed,) = [h for h in ear.of("bad") if isinstance(h, Failed)]
    assert failed.code == "internal"


def test_a_step_that_raises_ends_its_streams_and_the_next_step_runs() -> None:
    with engine(FakeBackend(4, failing(0))) as (running, ear):
        running.open("early", 1)
        running.feed("early", spell("ab"))
        ear.finished("early")
        assert isinstance(ear.of("early")[-1], Failed)
        running.open("late", 1)
        running.feed("late", spell("cd"))
        running.finish("late", SILENCE)
        ear.finished("late")
        assert running.failure is None
    assert ear.text("late") == "cd"
    assert [step.failed for step in ear.steps][:2] == [True, False]


def test_a_copy_that_cannot_be_made_ends_its_stream_only() -> None:
    def on_take(slot: int) -> None:
        raise MemoryError(f"slot {slot}: no room for a copy, as ordered")

    with engine(FakeBackend(4, Faults(on_take=on_take))) as (running, ear):
        for name in ("forked", "other"):
            running.open(name, 1)
            running.feed(name, spell("word"))
        running.fork("forked", 1, SILENCE)
        running.finish("other", SILENCE)
        ear.finished("forked", "other")
    assert isinstance(ear.of("forked")[-1], Failed)
    assert ear.text("other") == "word"


def test_an_engine_that_cannot_step_silence_is_dead_and_says_so_to_all() -> None:
    with engine(FakeBackend(4, dead_from(0))) as (running, ear):
        running.open("idle", 7)
        running.open("talks", 1)
        running.feed("talks", spell("ab"))
        ear.finished("idle", "talks")
        assert isinstance(ear.of("idle")[0], Failed)
        assert running.failure is not None
        with pytest.raises(Full, match="the engine died"):
            running.open("new", 1)


def test_a_thread_that_dies_takes_no_stream_into_silence() -> None:
    class Crash(BaseException):
        """Not an Exception: nothing in the engine may swallow it."""

    def on_launch(_launch: int, _rows: Sequence[Row]) -> None:
        raise Crash

    with engine(FakeBackend(4, Faults(on_launch))) as (running, ear):
        running.open("a", 1)
        running.feed("a", spell("ab"))
        ear.finished("a")
        wait_until(lambda: running.failure is not None)


def test_a_backend_that_loses_rows_is_found_out() -> None:
    class Lossy(FakeBackend):
        def collect(self, ticket: Ticket) -> list:
            return super().collect(ticket)[1:] if self.launches == 1 else super().collect(ticket)

    with engine(Lossy(4)) as (running, ear):
        running.open("a", 1)
        running.feed("a", spell("ab"))
        ear.finished("a")
        assert isinstance(ear.of("a")[-1], Failed)


def test_a_hanging_step_can_be_seen_and_ended_from_outside() -> None:
    backend, gate = slow_launches(10.0)
    with engine(backend) as (running, ear):
        running.open("a", 1)
        running.feed("a", spell("ab"))
        wait_until(lambda: running.stuck_seconds() > 0.05)
        running.die("a step took too long")
        ear.finished("a")
        gate.set()
    assert running.failure == "a step took too long"
    assert [type(h) for h in ear.of("a")] == [Failed], "the late step spoke after the end"


def test_waiting_audio_is_counted_until_it_is_stepped() -> None:
    backend, gate = slow_launches(5.0)
    with engine(backend) as (running, ear):
        running.open("a", 7)
        running.feed("a", np.zeros(1000, np.float32))
        assert running.waiting_seconds("a") == pytest.approx(1000 / 16000)
        running.feed("a", np.zeros(31_000, np.float32))
        wait_until(lambda: backend.launches == 1)
        assert running.waiting_seconds("a") == pytest.approx((32_000 - 7_880 - 8_960) / 16_000), "two chunks at once"
        gate.set()
        ear.wait(lambda _: len(ear.of("a")) == 2)
        assert running.waiting_seconds("a") == pytest.approx((32_000 - 7_880 - 2 * 8_960) / 16_000)
    assert running.waiting_seconds("nobody") == 0.0


def test_steps_tell_how_long_their_rows_waited() -> None:
    backend, gate = slow_launches(5.0)
    with engine(backend) as (running, ear):
        for name in ("a", "b"):
            running.open(name, 1)
        running.feed("a", spell("a"))
        wait_until(lambda: backend.launches == 1)
        running.feed("b", spell("b"))
        time.sleep(0.05)
        gate.set()
        ear.wait(lambda _: len(ear.results) == 2)
    first, second = ear.steps
    assert first.seconds >= 0.05
    assert second.waits_s[0] >= 0.05
    assert second.late_s[0] >= second.waits_s[0]


def test_what_is_said_to_a_stream_that_ended_is_left_alone() -> None:
    with engine(FakeBackend(2)) as (running, _):
        running.feed("ghost", SILENCE)
        running.fork("ghost", 1, SILENCE)
        running.finish("ghost", SILENCE)
        running.drop("ghost")


def wait_until(true: Callable[[], bool], timeout_s: float = 5.0) -> None:
    until = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.002)
