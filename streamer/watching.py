"""One viewer's socket: carries a room's messages to it. Decides nothing, and what a viewer says is not wanted."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from aiohttp import WSMsgType, web

from streamer.actions import Hangup
from streamer.config import Server
from streamer.connection import BREATH, CLOSE_S, LAST_WORDS_S, hang_up
from streamer.errors import Refusal
from streamer.outbox import Letter, Ping
from streamer.protocols.events import Error
from streamer.protocols.native import write
from streamer.pulse import Beat, Pulse
from streamer.rooms import Viewer

log = logging.getLogger(__name__)

LONGEST_BYTES = 4096  # of a message of a viewer's: it is refused in words, a longer one with 1009 by the library


class Watching:
    """Runs from the greeting to the close frame. `tick` and `shutdown` are called on the event loop."""

    def __init__(
        self,
        socket: web.WebSocketResponse,
        request: web.Request,
        viewer: Viewer,
        limits: Server,
        clock: Callable[[], float],
    ) -> None:
        self._socket, self._request, self._viewer = socket, request, viewer
        self._limits, self._clock = limits, clock
        self._pulse = Pulse(limits.heartbeat_s, clock())
        self._reader: asyncio.Task[None] | None = None
        self._greeted = False

    async def run(self) -> None:
        """Until the viewer has gone or is told to go."""
        self._reader = asyncio.create_task(self._read())
        tasks = [self._reader, asyncio.create_task(self._write())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if not self._gone:  # the reader has refused a message: that is said, and the writer hangs up
                await asyncio.wait(tasks[1:])
        finally:
            for task in tasks:
                task.cancel()
            for outcome in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(outcome, Exception) and not isinstance(outcome, ConnectionError):
                    log.error("a viewer's connection failed", exc_info=outcome)
            self._let_go()

    _gone = False

    def _let_go(self) -> None:
        """What the viewer has not taken until now it never will."""
        if (transport := self._request.transport) is not None:
            asyncio.get_running_loop().call_later(0 if self._viewer.given_up else CLOSE_S, transport.abort)

    def tick(self, now: float) -> None:
        """Time passed. A ping waits behind the greeting, which may be long."""
        if not self._greeted or (self._reader is not None and self._reader.done()):
            self._pulse.felt(now)
        match self._pulse.check(now):
            case Beat.PING:
                self._viewer.outbox.put(Letter(Ping()))
            case Beat.GONE if self._request.transport is not None:
                self._request.transport.abort()

    def shutdown(self) -> None:
        """The server goes: what is in the outbox is still said."""
        self._viewer.outbox.put(Letter(Hangup(code=1001, reason="shutdown")))

    async def _read(self) -> None:
        """Until the viewer hangs up, or says what it may not."""
        count = 0
        with contextlib.suppress(ConnectionError):
            async for message in self._socket:
                self._pulse.felt(self._clock())
                if message.type is WSMsgType.PING:
                    await self._socket.pong(message.data)
                elif message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
                    return self._refuse()
                count += 1
                if count % BREATH == 0:
                    await asyncio.sleep(0)
        self._gone = True

    def _refuse(self) -> None:
        wrong = Refusal("message", "one of a viewer", "none: a room is watched, not spoken to", code="bad_state")
        error = Error(code=wrong.code, message=str(wrong))
        self._viewer.tell(Letter(error, text=write(error)))
        self._viewer.outbox.put(Letter(Hangup(code=1008, reason=wrong.code)))

    async def _write(self) -> None:
        for message in self._viewer.greeting:
            if not await self._send(message):
                return await self._give_up()
        self._greeted, self._viewer.greeting = True, ()
        while True:
            letter = await self._viewer.outbox.get()
            if isinstance(letter.event, Hangup):
                return await self._close(letter.event)
            if not await self._send(letter.text):
                return await self._give_up()

    async def _send(self, message: str | None) -> bool:
        """A message, or a ping where there is none; False if the viewer did not take it in time."""
        try:
            async with asyncio.timeout(self._limits.send_timeout_s):
                if message is None:
                    await self._socket.ping()
                else:
                    await self._socket.send_str(message)
        except TimeoutError:
            self._viewer.given_up = True
            return False
        return True

    async def _close(self, hangup: Hangup) -> None:
        if self._viewer.given_up:
            return await self._give_up()
        await self._stop_reading()
        longest_s = self._limits.send_timeout_s + CLOSE_S
        self._viewer.given_up = not await hang_up(self._socket, hangup.code, hangup.reason, longest_s)

    async def _give_up(self) -> None:
        log.info("closed a viewer that reads too slowly")
        await self._stop_reading()
        await hang_up(self._socket, 1008, "reads too slowly", LAST_WORDS_S)

    async def _stop_reading(self) -> None:
        """aiohttp waits for the viewer's close frame only if nobody else reads."""
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.wait([self._reader])
