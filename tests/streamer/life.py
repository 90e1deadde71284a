"""A client's life in tests: a session, the dialect and a toy engine, and what the client saw. No socket, no clock."""

from __future__ import annotations

from collections.abc import Sequence

from streamer.actions import Action, Hangup, Say
from streamer.protocols.events import Audio, ClientEvent, Close, Endpointing, Error, Final, Opening, ServerEvent
from streamer.protocols.native import Native
from streamer.session import Session, SessionSettings
from tests.streamer.toy import Pieces, ToyEngine, pcm_of, toy_config

OFF = Endpointing(enabled=False, max_ms=300_000)
SETTINGS = SessionSettings(tail_ms=800)
OPENING = Opening(encoding="pcm_f32le", latency_ms=160, endpointing=OFF)


class Life:
    """A session, a toy engine and what the client saw. Every event passes the dialect, so the table holds too."""

    def __init__(
        self, opening: Opening = OPENING, session: SessionSettings = SETTINGS, delay: int = 0, eou: bool = False
    ) -> None:
        config = toy_config(eou=eou)
        self.now = 0.0
        self.session = Session(opening, config, Pieces(), session, self.now)
        self.engine = ToyEngine(self.session.chunk, delay)
        self.native = Native()
        self.seen: list[ServerEvent] = []
        self.hangup: Hangup | None = None
        self.actions: list[Action] = []
        self.do(self.session.start("id"))

    def do(self, actions: Sequence[Action]) -> None:
        for action in actions:
            assert self.hangup is None, "an action after the hangup"
            self.actions.append(action)
            match action:
                case Say(event=event):
                    self.native.send(event)
                    self.seen.append(event)
                case Hangup():
                    self.hangup = action
                case _:
                    self.engine.do(action)

    def receive(self, *events: ClientEvent, run: bool = True) -> Life:
        for event in events:
            if isinstance(event, Close):
                self.native.receive('{"type":"close"}')
            if isinstance(event, Audio) and self.session.keep(event.pcm, self.now):
                continue
            self.do(self.session.receive(event, self.now))
            if run:
                self.run()
        return self

    def run(self, steps: int = 1 << 30) -> Life:
        while steps and (heard := self.engine.step()) is not None:
            self.do(self.session.heard(heard, self.now))
            steps -= 1
        return self

    def wait(self, seconds: float) -> Life:
        self.now += seconds
        self.do(self.session.tick(self.now))
        return self.run()

    def finals(self) -> list[Final]:
        return [event for event in self.seen if isinstance(event, Final)]

    def texts(self) -> list[tuple[str, str]]:
        return [(final.reason, final.text) for final in self.finals()]

    def errors(self) -> list[str]:
        return [event.code for event in self.seen if isinstance(event, Error)]


def audio(voices: Sequence[int]) -> Audio:
    return Audio(pcm=pcm_of(voices).tobytes())


def silence(frames: int) -> Audio:
    return audio([0] * frames)


HELLO = [0, 1, 1, 1, 0, 2, 2, 0]  # "v1a v2c" in eight frames
