"""The engine of another process, for a front: the Engine's methods over a socket. Knows no clients and no words.

What is asked within WINDOW_S goes out as one frame; what was heard comes in as it was sent, once a step. All of it runs
on the front's event loop. When the other process ends, so do all streams, with the usual error.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.config import SAMPLE_RATE, ModelConfig
from streamer.engine.capacity import Clock
from streamer.engine.results import Failed, Full, Result
from streamer.engine.ring import Ring
from streamer.engine.stream import EMPTY, Pcm
from streamer.engine.wire import (
    NO_PROMPT,
    Ask,
    Frames,
    Kind,
    Verb,
    WireError,
    ask,
    read_heard,
    read_note,
    write_note,
    write_work,
)

log = logging.getLogger(__name__)

WINDOW_S = 0.004  # what is asked within this goes out together: an ask in a small frame costs the engine twice as much
MOST_WAITING_BYTES = 1 << 18  # or as soon as it is so much
GONE = "the engine's process has ended"

Note = dict[str, Any]


@dataclass(slots=True)
class _Voice:
    """What we know of one of our streams."""

    number: int
    fed: int = 0  # samples
    heard: int = 0  # samples that a step has taken, as far as we were told


class Remote(asyncio.BufferedProtocol):
    """`connect` first. `deliver` gets results on the event loop, `noted` what the engine's process says besides.

    `config`, `tokenizer` and `capacity` are set by whoever is told of them, before there are streams.
    """

    config: ModelConfig
    capacity: dict[int, int]  # latency in milliseconds -> streams that fit, as it was when the front began
    tokenizer: Any  # models.tokenizer.Tokenizer

    def __init__(self, deliver: Callable[[list[Result]], None], noted: Callable[[Note], None], clock: Clock) -> None:
        self.deliver, self.noted = deliver, noted
        self.failure: str | None = None
        self._closed = False
        self._clock = clock
        self._frames = Frames()
        self._numbers = itertools.count(1)
        self._voices: dict[str, _Voice] = {}
        self._names: dict[int, str] = {}
        self._questions: dict[int, asyncio.Future[str | None]] = {}
        self._asks: list[Ask] = []
        self._sounds: list[Pcm] = []
        self._waiting_bytes = 0
        self._since = 0.0  # when the oldest ask that waits came
        self._flushing: asyncio.TimerHandle | None = None

    async def connect(self, own: socket.socket, ring: Ring | None = None) -> None:
        """Speak over this socket from now on, samples through the ring."""
        self._ring = ring
        self._loop = asyncio.get_running_loop()
        own.setblocking(False)
        transport, _ = await self._loop.create_unix_connection(lambda: self, sock=own)
        self._transport = transport

    # What the daemon asks.

    def start(self) -> None:
        """It runs already."""

    async def admit(self, stream_id: str, chunk: int, prompt: int | None = None) -> None:
        """A slot for a new stream; raises Full with the reason where there is none."""
        number, mark = next(self._numbers), NO_PROMPT if prompt is None else prompt
        if (reason := await self._question(Verb.OPEN, number, chunk, mark)) is not None:
            raise Full(reason)
        self._voices[stream_id] = _Voice(number)
        self._names[number] = stream_id

    async def vacancy(self, chunk: int) -> str | None:
        """Why a stream of `chunk` would be refused now; None if it would not."""
        return await self._question(Verb.ROOM, next(self._numbers), chunk, 0)

    def fits(self) -> dict[int, int]:
        """How many streams are kept on time, by their latency in milliseconds."""
        return self.capacity

    def feed(self, stream_id: str, pcm: Pcm) -> None:
        """More of the stream's audio, 16 kHz. Streams that have ended are left alone, here and below."""
        if (voice := self._voices.get(stream_id)) is not None and len(pcm):
            voice.fed += len(pcm)
            self._ask(ask(Verb.FEED, voice.number, len(pcm)), pcm)

    def fork(self, stream_id: str, mark: int, pcm: Pcm) -> None:
        """A copy hears all that was fed, then `pcm`; its tokens come as one Heard with this mark."""
        if (voice := self._voices.get(stream_id)) is not None:
            self._ask(ask(Verb.FORK, voice.number, len(pcm), mark), pcm)

    def finish(self, stream_id: str, pcm: Pcm) -> None:
        """`pcm` is the stream's end; a Heard with `finished` follows."""
        if (voice := self._voices.get(stream_id)) is not None:
            voice.fed += len(pcm)
            self._ask(ask(Verb.FINISH, voice.number, len(pcm)), pcm)

    def drop(self, stream_id: str) -> None:
        """Forget the stream at once."""
        if (voice := self._forget(stream_id)) is not None:
            self._ask(ask(Verb.DROP, voice.number))

    def waiting_seconds(self, stream_id: str) -> float:
        """Audio of the stream of which nothing has been heard yet; 0 for a stream that has ended."""
        voice = self._voices.get(stream_id)
        return (voice.fed - voice.heard) / SAMPLE_RATE if voice else 0.0

    def watch(self, longest_s: float, serving_s: float | None = None) -> None:
        """The engine's process looks after its own steps, and its admission knows of no front's work."""

    def die(self, reason: str) -> None:
        """All streams fail, and no new one comes in."""
        if self.failure is not None:
            return
        self.failure = reason
        lost = list(self._voices)
        for stream_id in lost:
            self._forget(stream_id)
        for question in self._questions.values():
            if not question.done():
                question.set_result(reason)
        self.deliver([Result(stream_id, Failed("internal", reason)) for stream_id in lost])

    def note(self, kind: str, **fields: Any) -> None:
        """Say something rare to the engine's process."""
        self._transport.write(write_note(kind, **fields))

    def stop(self) -> bool:
        """Nothing of ours runs that could have to be waited for."""
        return True

    def close(self) -> None:
        """Say what was not said yet, and hang up."""
        self._flush()
        self._closed = True
        self._transport.close()

    # What goes out.

    async def _question(self, verb: Verb, number: int, chunk: int, mark: int) -> str | None:
        if self.failure is not None:
            return self.failure
        answer: asyncio.Future[str | None] = self._loop.create_future()
        self._questions[number] = answer
        self._ask(ask(verb, number, chunk, mark), EMPTY)
        self._flush()  # somebody waits
        try:
            reason = await answer
        except asyncio.CancelledError:
            if verb is Verb.OPEN:
                self._ask(ask(Verb.DROP, number), EMPTY)
            raise
        finally:
            del self._questions[number]
        return self.failure or reason

    def _ask(self, row: Ask, pcm: Pcm = EMPTY) -> None:
        if not self._asks:
            self._since = self._clock()
            self._flushing = self._loop.call_later(WINDOW_S, self._flush)
        self._asks.append(row)
        if len(pcm):
            self._sounds.append(np.asarray(pcm, np.float32))
            self._waiting_bytes += 4 * len(pcm)
            if self._waiting_bytes > MOST_WAITING_BYTES:
                self._flush()

    def _flush(self) -> None:
        if self._flushing is not None:
            self._flushing.cancel()
            self._flushing = None
        if self._asks and self.failure is None:
            self._transport.write(write_work(self._since, self._asks, self._sounds, self._ring))
        self._asks, self._sounds, self._waiting_bytes = [], [], 0

    def _forget(self, stream_id: str) -> _Voice | None:
        voice = self._voices.pop(stream_id, None)
        if voice is not None:
            del self._names[voice.number]
        return voice

    # What comes in.

    def get_buffer(self, sizehint: int) -> memoryview:
        del sizehint
        return self._frames.space()

    def buffer_updated(self, nbytes: int) -> None:
        try:
            for kind, body in self._frames.read(nbytes):
                if kind is Kind.HEARD:
                    self._heard(body)
                elif kind is Kind.NOTE:
                    self._noted(read_note(body))
                else:
                    raise WireError("frame", kind.name, "what an engine says")
        except WireError as wrong:
            self._transport.abort()
            self.die(f"the engine's process: {wrong}")

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        if not self._closed:
            self.die(GONE)

    def _heard(self, body: memoryview) -> None:
        results = []
        for number, heard, arrived in read_heard(body):
            if (stream_id := self._names.get(number)) is None:
                continue  # it was dropped meanwhile
            if heard.mark is None:
                self._voices[stream_id].heard = heard.samples
            if heard.finished:
                self._forget(stream_id)
            results.append(Result(stream_id, heard, arrived))
        self.deliver(results)

    def _noted(self, note: Note) -> None:
        match note:
            case {"kind": "answer", "number": int(number), "reason": str() | None as reason}:
                if (question := self._questions.get(number)) is not None and not question.done():
                    question.set_result(reason)
            case {"kind": "failed", "stream": int(number), "code": str(code), "message": str(message)}:
                if (stream_id := self._names.get(number)) is not None:
                    self._forget(stream_id)
                    self.deliver([Result(stream_id, Failed(code, message))])
            case {"kind": "dead", "reason": str(reason)}:
                self.die(reason)
            case _:
                with contextlib.suppress(asyncio.InvalidStateError):
                    self.noted(note)
