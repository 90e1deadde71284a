"""One client's socket: carries messages between it, its session and the engine. Decides nothing about speech."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from aiohttp import WSMsgType, web

from models.config import SAMPLE_RATE
from streamer.actions import Action, Feed, Finish, Fork, Hangup, Say
from streamer.config import Server
from streamer.engine.loop import Engine, Failed, Result
from streamer.errors import Refusal
from streamer.metrics import Metrics
from streamer.outbox import Letter, Outbox
from streamer.protocols.events import ClientEvent, Close, Error, Final, Finalize, Malformed, Partial
from streamer.protocols.native import Native
from streamer.session import Session

log = logging.getLogger(__name__)

LAST_WORDS_S = 1.0  # a socket that is given up has this long to take its close frame
RESUME_S = 0.5  # after back-pressure: time for the audio in the socket to come before a pause counts as one
HARD_LIMIT = 4  # messages up to so many times the limit are refused in words, longer ones with 1009 by the library


@dataclass(frozen=True, slots=True)
class House:
    """What all connections share."""

    engine: Engine
    metrics: Metrics
    limits: Server
    clock: Callable[[], float]


class Connection:
    """Runs from `ready` to the close frame. `hear`, `tick` and `shutdown` are called on the event loop."""

    def __init__(self, socket: web.WebSocketResponse, request: web.Request, session: Session, house: House) -> None:
        self.id = ""
        self._socket, self._request, self._session, self._house = socket, request, session, house
        self._native = Native()
        self._outbox = Outbox(house.limits.max_outgoing)
        self._asked: deque[float] = deque()  # when finalizes and the close came that have no final yet
        self._room = asyncio.Event()  # set when the socket may be read again
        self._room.set()
        self._resumed = -RESUME_S
        self._given_up = False
        self._broken = False
        self._leaving = False

    async def run(self, session_id: str) -> None:
        """Until the client has gone or has got everything. The engine's stream is open already, and ends with us."""
        self.id = session_id
        self._guard(lambda: self._session.start(session_id))
        self._reader = asyncio.create_task(self._read())
        tasks = [self._reader, asyncio.create_task(self._write())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if self._leaving:
                await asyncio.wait(tasks)
        finally:
            self._house.engine.drop(self.id)
            for task in tasks:
                task.cancel()
            for outcome in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(outcome, Exception) and not isinstance(outcome, (ConnectionError, TimeoutError)):
                    log.error("a connection failed", exc_info=outcome, extra={"session": self.id})
            if self._given_up and self._request.transport is not None:
                self._request.transport.abort()

    # What comes from elsewhere.

    def hear(self, result: Result) -> None:
        """The engine has something for this stream."""
        now = self._house.clock()
        if isinstance(result.heard, Failed):
            failed = result.heard
            self._guard(lambda: self._session.failed(failed.code, failed.message, now))
        else:
            heard = result.heard
            self._guard(lambda: self._session.heard(heard, now), result.arrived)
        if not self._room.is_set() and self._waiting_s() <= self._house.limits.max_waiting_s / 4:
            self._resumed = now
            self._room.set()

    def tick(self, now: float) -> None:
        """Time passed. While we do not read, silence is our own and no pause of the client's."""
        if self._session.ending or (self._room.is_set() and now - self._resumed >= RESUME_S):
            self._guard(lambda: self._session.tick(now))

    def shutdown(self) -> None:
        """Finish as if the client had closed."""
        self._guard(lambda: self._session.shutdown(self._house.clock()))

    def fail(self, message: str) -> None:
        """Nothing more can be heard: end with what was."""
        self._guard(lambda: self._session.failed("internal", message, self._house.clock()))

    # The socket.

    async def _read(self) -> None:
        async for message in self._socket:
            if message.type is WSMsgType.BINARY:
                self._receive(self._checked(bytes(message.data)))
            elif message.type is WSMsgType.TEXT:
                self._receive(self._checked(message.data))
            if self._waiting_s() > self._house.limits.max_waiting_s:
                self._room.clear()
                await self._room.wait()

    def _checked(self, data: bytes | str) -> ClientEvent:
        most = self._house.limits.max_message_bytes
        if len(data) > most:
            got, expected = f"{len(data)} bytes", f"at most {most} bytes; it was not heard"
            return Malformed(refusal=Refusal("message", got, expected, code="bad_message"))
        return self._native.receive(data)

    def _receive(self, event: ClientEvent) -> None:
        now = self._house.clock()
        if isinstance(event, (Finalize, Close)):
            self._asked.append(now)
        self._guard(lambda: self._session.receive(event, now))

    async def _write(self) -> None:
        while True:
            letter = await self._outbox.get()
            if isinstance(letter.event, Hangup):
                await self._close(letter.event)
                return
            try:
                async with asyncio.timeout(self._house.limits.send_timeout_s):
                    await self._socket.send_str(self._native.send(letter.event))
            except TimeoutError:
                log.warning("closed: reads too slowly", extra={"session": self.id})
                await self._give_up()
                return
            self._count(letter)

    async def _close(self, hangup: Hangup) -> None:
        if self._given_up:
            return await self._give_up()
        await self._stop_reading()
        await self._socket.close(code=hangup.code, message=hangup.reason.encode()[:120])
        log.info("closed %d %s", hangup.code, hangup.reason, extra={"session": self.id})

    async def _stop_reading(self) -> None:
        """aiohttp waits for the client's close frame only if nobody else reads. Without that wait the kernel answers
        audio that still comes with a reset, and the last finals are lost on their way."""
        self._leaving = True
        self._reader.cancel()
        await asyncio.wait([self._reader])

    async def _give_up(self) -> None:
        self._given_up = True
        await self._stop_reading()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_WORDS_S):
                await self._socket.close(code=1008, message=b"reads too slowly")

    def _waiting_s(self) -> float:
        return self._house.engine.waiting_seconds(self.id)

    # What the session wants.

    def _guard(self, decide: Callable[[], Sequence[Action]], arrived: float | None = None) -> None:
        """A bug that one stream meets ends that stream, with an error, and touches no other."""
        if self._broken:
            return
        try:
            self._do(decide(), arrived)
        except Exception:
            log.exception("a session failed", extra={"session": self.id})
            self._broken = True
            self._house.engine.drop(self.id)
            self._say(Letter(Error(code="internal", message="session: got a fault of the server, expected none")))
            self._outbox.put(Letter(Hangup(code=1011, reason="error")))

    def _do(self, actions: Sequence[Action], arrived: float | None) -> None:
        engine = self._house.engine
        for action in actions:
            match action:
                case Feed(pcm=pcm):
                    self._house.metrics.audio.inc(len(pcm) / SAMPLE_RATE)
                    engine.feed(self.id, pcm)
                case Fork(mark=mark, pcm=pcm):
                    engine.fork(self.id, mark, pcm)
                case Finish(pcm=pcm):
                    engine.finish(self.id, pcm)
                case Say(event=event):
                    self._say(Letter(event, arrived if isinstance(event, Partial) else None))
                case Hangup():
                    engine.drop(self.id)
                    self._outbox.put(Letter(action))

    def _say(self, letter: Letter) -> None:
        if isinstance(letter.event, Final) and letter.event.reason in ("finalize", "close") and self._asked:
            letter = Letter(letter.event, self._asked.popleft())
        if isinstance(letter.event, Error):
            self._house.metrics.errors.labels(letter.event.code).inc()
        if not self._outbox.put(letter) and not self._given_up:
            log.warning("closed: %d messages unread", len(self._outbox), extra={"session": self.id})
            self._given_up = True
            self._house.engine.drop(self.id)
            self._outbox.put(Letter(Hangup(code=1008, reason="reads too slowly")))

    def _count(self, letter: Letter) -> None:
        if letter.since is None:
            return
        histogram = self._house.metrics.partial if isinstance(letter.event, Partial) else self._house.metrics.final
        histogram.observe(self._house.clock() - letter.since)
