"""Claims about streams that are moved to other slots where a range has thinned out: nobody hears of it."""

from __future__ import annotations

import numpy as np
import pytest

from streamer.backends.fake import FakeBackend, Faults, spell
from streamer.engine.loop import Engine
from tests.streamer.test_engine import SILENCE, Ear, engine, wait_until

TEXTS = {f"s{number}": f"{'abcdefgh'[number % 8]} goes on talking" for number in range(0, 40, 5)}
CUT = 9000  # samples


def thinned(running: Engine) -> None:
    """Forty streams, of which every fifth has said something and stays."""
    for number in range(40):
        running.open(f"s{number}", 1)
    for name, text in TEXTS.items():
        running.feed(name, spell(text)[:CUT])
    for name in (f"s{number}" for number in range(40)):
        if name not in TEXTS:
            running.drop(name)


def span(running: Engine) -> int:
    with running._lock:
        slots = [stream.lease.slot for stream in running._streams.values()]
    return max(slots) - min(slots) + 1


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


def test_streams_that_are_left_move_together_and_say_what_they_would_have_said() -> None:
    with engine(FakeBackend(64)) as (running, ear):
        thinned(running)
        wait_until(lambda: sum(len(ear.of(name)) for name in TEXTS) >= 6 * len(TEXTS))
        for at in range(20):  # a step each, at the least
            running.feed("s20", np.zeros(1280, np.float32))
            wait_until(lambda at=at: len(ear.of("s20")) > at)
        wait_until(lambda: span(running) <= len(TEXTS) + 4)
        running.check()
        for name, text in TEXTS.items():
            if name != "s20":
                running.finish(name, np.concatenate([spell(text)[CUT:], SILENCE]))
        ear.finished(*(name for name in TEXTS if name != "s20"))
    assert {name: ear.text(name) for name in TEXTS if name != "s20"} == {n: t for n, t in TEXTS.items() if n != "s20"}


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
