"""Whole streams without a socket: sessions and real engines over a real backend, driven to their end."""

from __future__ import annotations

import itertools
import queue
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from streamer.backends.base import Backend
from streamer.engine.capacity import Costs
from streamer.engine.lanes import EngineSettings, Failed, Lanes, Result
from streamer.protocols.events import (
    Audio,
    ClientEvent,
    Close,
    Closed,
    Endpointing,
    Final,
    Opening,
    Partial,
    ServerEvent,
)
from streamer.session import Action, Feed, Finish, Fork, Hangup, Say, Session, SessionSettings

UNCUT = Endpointing(enabled=False)
WAIT_S = 60.0
FREE = 1e-9  # seconds of a step, so that admission never refuses


@dataclass
class Talk:
    """One client: what it says, in order, and what it was told."""

    events: Sequence[ClientEvent]
    latency_ms: int
    endpointing: Endpointing = UNCUT
    said: list[ServerEvent] = field(default_factory=list)

    @property
    def finals(self) -> list[Final]:
        return [event for event in self.said if isinstance(event, Final)]

    @property
    def partials(self) -> list[Partial]:
        return [event for event in self.said if isinstance(event, Partial)]

    @property
    def text(self) -> str:
        return " ".join(final.text for final in self.finals if final.text)

    @property
    def words(self) -> list[tuple[str, float, float, float]]:
        return [(w.word, w.start, w.end, w.confidence) for final in self.finals for w in final.words]

    @property
    def audio_seconds(self) -> float:
        (closed,) = [event for event in self.said if isinstance(event, Closed)]
        return closed.audio_seconds


@contextmanager
def running(backend: Backend) -> Iterator[tuple[Lanes, queue.Queue[list[Result]]]]:
    """Engines over `backend`, two where it can, whose results go into a queue."""
    heard: queue.Queue[list[Result]] = queue.Queue()
    engine = Lanes(backend, EngineSettings(max_load=1e9, lanes=2), heard.put)
    engine.start(Costs({chunk: ((1, FREE),) for chunk in backend.config.chunks}))
    try:
        yield engine, heard
        engine.check()
    finally:
        assert engine.stop(), "an engine's thread did not end"


def converse(backend: Backend, talks: Sequence[Talk], *, tail_ms: int = 0, shutdown: bool = False) -> None:
    """Let all clients speak at once, one event each in turn, and wait until each has been told everything."""
    settings = SessionSettings(tail_ms=tail_ms)
    with running(backend) as (engine, heard):
        sessions = {}
        for index, talk in enumerate(talks):
            opening = Opening(latency_ms=talk.latency_ms, endpointing=talk.endpointing)
            session = Session(opening, backend.config, backend.tokenizer, settings, time.monotonic())
            engine.open(str(index), session.chunk, session.prompt)
            sessions[str(index)] = session
        for turn in range(max(len(talk.events) for talk in talks)):
            for index, talk in enumerate(talks):
                if turn < len(talk.events):
                    carry(engine, str(index), sessions[str(index)].receive(talk.events[turn], time.monotonic()), talk)
        if shutdown:
            for key, session in sessions.items():
                carry(engine, key, session.shutdown(time.monotonic()), talks[int(key)])
        while not all(session.done for session in sessions.values()):
            for result in heard.get(timeout=WAIT_S):
                session, outcome = sessions[result.stream_id], result.heard
                if isinstance(outcome, Failed):
                    actions = session.failed(outcome.code, outcome.message, time.monotonic())
                else:
                    actions = session.heard(outcome, time.monotonic())
                carry(engine, result.stream_id, actions, talks[int(result.stream_id)])


def carry(engine: Lanes, key: str, actions: Sequence[Action], talk: Talk) -> None:
    """What the server does with a session's actions."""
    for action in actions:
        match action:
            case Feed(pcm=pcm):
                engine.feed(key, pcm)
            case Fork(mark=mark, pcm=pcm):
                engine.fork(key, mark, pcm)
            case Finish(pcm=pcm):
                engine.finish(key, pcm)
            case Say(event=event):
                talk.said.append(event)
            case Hangup():
                engine.drop(key)


def wire(pcm: np.ndarray) -> bytes:
    """Float PCM that came from 16 bit, back to the bytes it was."""
    return np.round(pcm * 32768).astype("<i2").tobytes()


def speak(data: bytes, cuts: Sequence[int] = ()) -> list[ClientEvent]:
    """The bytes in pieces that end at `cuts`, then close."""
    ends = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    pieces = [data[start:end] for start, end in itertools.pairwise(ends)]
    return [*(Audio(pcm=piece) for piece in pieces), Close()]
