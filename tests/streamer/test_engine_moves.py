"""Claims about streams that are moved to other slots where a range has thinned out: nobody hears of it."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pytest

from models.config import FRAME_S, FRAME_SAMPLES
from streamer.actions import Heard
from streamer.backends.base import FIRST_SHORTER_BY, Row
from streamer.backends.fake import FakeBackend, Faults, spell
from streamer.engine.loop import Engine, EngineSettings
from streamer.engine.slots import LOOSE
from tests.streamer.test_engine import FREE, SILENCE, Ear, engine, wait_until

TEXTS = {f"s{number}": f"{'abcdefgh'[number % 8]} goes on talking" for number in range(0, 40, 5)}
CUT = 9000  # samples
HANG_S = 30.0
PARTS = 4  # of the time of a chunk, as the engine cuts it where steps cost nothing


class Clock:
    """Goes on when the test says so."""

    def __init__(self) -> None:
        self.now = (100 - 0.5 / PARTS) * FRAME_S

    def __call__(self) -> float:
        return self.now


@contextmanager
def gated(clock: Clock) -> Iterator[tuple[Engine, Ear, threading.Event]]:
    """An engine whose first step waits for the event."""
    gate, ear = threading.Event(), Ear()

    def on_launch(_launch: int, _rows: Sequence[Row]) -> None:
        gate.wait(HANG_S)

    running = Engine(FakeBackend(64, Faults(on_launch)), EngineSettings(), ear.deliver, clock=clock)
    running.start(FREE)
    try:
        yield running, ear, gate
        running.check()
    finally:
        gate.set()
        assert running.stop(), "the engine's thread did not end"


def thinned(running: Engine) -> None:
    """Forty streams, of which every fifth has said something and stays."""
    for number in range(40):
        running.open(f"s{number}", 1)
    for name, text in TEXTS.items():
        running.feed(name, spell(text)[:CUT])
    drop_others(running)


def drop_others(running: Engine) -> None:
    for name in (f"s{number}" for number in range(40)):
        if name not in TEXTS:
            running.drop(name)


def ranges(running: Engine) -> list[list[int]]:
    """The slots of each group, sorted."""
    groups = defaultdict(list)
    with running._lock:
        for stream in running._streams.values():
            groups[stream.lease.group].append(stream.lease.slot)
    return [sorted(slots) for slots in groups.values()]


def idle(slots: list[int]) -> int:
    return slots[-1] - slots[0] + 1 - len(slots)


def frames(ear: Ear, name: str) -> int:
    """Of the stream that have been heard."""
    return max((heard.frames for heard in ear.of(name) if isinstance(heard, Heard)), default=0)


def go_on(running: Engine, ear: Ear) -> None:
    """They speak on, piece by piece, ask for a final in between, and end."""
    for at in range(CUT, 30_000, 1500):
        for name, text in TEXTS.items():
            running.feed(name, spell(text)[at : at + 1500])
        if at == CUT + 6000:
            running.fork("s0", 1, SILENCE)
    for name, text in TEXTS.items():
        running.finish(name, np.concatenate([spell(text)[30_000:], SILENCE]))
    ear.finished(*TEXTS)


@pytest.mark.parametrize("parts", [1, PARTS])
def test_streams_that_are_left_move_together_and_say_what_they_would_have_said(parts: int) -> None:
    """Together are those whose chunks come in the same part of a chunk's time: all of them, or a quarter each."""
    clock = Clock()
    with gated(clock) as (running, ear, gate):
        for number in range(40):
            running.open(f"s{number}", 1)
        for part in range(parts):
            clock.now += FRAME_S / PARTS
            for number in range(part, 40, parts):
                name = f"s{number}"
                running.feed(name, spell(TEXTS[name])[:CUT] if name in TEXTS else spell("x"))
        drop_others(running)
        assert [len(slots) for slots in ranges(running)] == [len(TEXTS) // parts] * parts
        assert any(idle(slots) > LOOSE for slots in ranges(running)), "nothing to move"

        gate.set()
        for at in range(CUT, CUT + len(TEXTS) * FRAME_SAMPLES, FRAME_SAMPLES):  # a move before each step is enough
            running.feed_all((name, spell(text)[at : at + FRAME_SAMPLES]) for name, text in TEXTS.items())
            clock.now += 1.0  # rows are not held back for others any more
            heard = (at + FRAME_SAMPLES + FIRST_SHORTER_BY) // FRAME_SAMPLES
            wait_until(lambda heard=heard: all(frames(ear, name) >= heard for name in TEXTS), HANG_S)
        assert all(idle(slots) <= LOOSE for slots in ranges(running))
        running.check()

        for name, text in TEXTS.items():
            running.finish(name, np.concatenate([spell(text)[at + FRAME_SAMPLES :], SILENCE]))
        ear.finished(*TEXTS)
    assert {name: ear.text(name) for name in TEXTS} == TEXTS


@pytest.mark.parametrize("fails", [False, True])
def test_moves_and_finals_and_ends_come_together_and_a_move_that_fails_harms_nobody(fails: bool) -> None:
    def on_take(_slot: int) -> None:
        raise RuntimeError("fails as ordered")

    backend = FakeBackend(64, Faults(on_take=on_take)) if fails else FakeBackend(64)
    with engine(backend) as (running, ear):
        thinned(running)
        if fails:  # a finalize copies a state, too, and its failure is the stream's end: nobody asks for one
            for name, text in TEXTS.items():
                running.finish(name, np.concatenate([spell(text)[CUT:], SILENCE]))
            ear.finished(*TEXTS)
        else:
            go_on(running, ear)
        assert {name: ear.text(name) for name in TEXTS} == TEXTS
        assert running.failure is None
