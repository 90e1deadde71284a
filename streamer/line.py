"""The daemon's end of one WebSocket: sends in time or gives up, pings, closes so that the last words arrive.

Knows nothing of what is said on it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine

from aiohttp import web

from streamer.actions import Hangup
from streamer.config import Server
from streamer.outbox import Letter, Outbox, Ping
from streamer.pulse import Beat, Pulse
from streamer.sockets import WRITE_BUFFER_BYTES

log = logging.getLogger(__name__)

CLOSE_S = 5.0  # the other side has this long to answer our close frame
MOST_CHARACTER_BYTES = 4  # of a character in UTF-8
LAST_WORDS_S = 1.0  # a socket that is given up has this long to take its close frame


async def hang_up(socket: web.WebSocketResponse, code: int, reason: str, longest_s: float) -> bool:
    """The close handshake; False if the other side did not take its part in it in time."""
    try:
        async with asyncio.timeout(longest_s):
            await socket.close(code=code, message=reason.encode())
    except TimeoutError:
        return False
    return True


class Line:
    """One socket with its outbox; `name` is what the log calls it. `talk`, and `let_go` when all is done."""

    def __init__(
        self,
        socket: web.WebSocketResponse,
        request: web.Request,
        outbox: Outbox,
        limits: Server,
        clock: Callable[[], float],
    ) -> None:
        self.name = ""
        self.gone = False
        """The other side hung up."""
        self.pulse = Pulse(limits.heartbeat_s, clock())
        self._socket, self._request, self._outbox, self._limits = socket, request, outbox, limits
        self._reader: asyncio.Task[None] | None = None

    @property
    def reading(self) -> bool:
        """What the other side says is being read."""
        return self._reader is not None and not self._reader.done()

    async def talk(self, read: Coroutine[None, None, None], write: Coroutine[None, None, None]) -> None:
        """Both at once, until the writer has ended or the other side has gone."""
        self._reader, writer = asyncio.create_task(read), asyncio.create_task(write)
        tasks = [self._reader, writer]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if not self.gone:  # the reader has ended by itself: what is to be said about it is in the outbox
                await asyncio.wait([writer])
        finally:
            for task in tasks:
                task.cancel()
            for outcome in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(outcome, Exception) and not isinstance(outcome, ConnectionError):
                    log.error("a connection failed", exc_info=outcome, extra={"session": self.name})

    async def write(self, send: Callable[[Letter], Coroutine[None, None, bool]]) -> None:
        """Letter by letter, each by `send`, until one is a Hangup or is not taken in time."""
        while True:
            letter = await self._outbox.get()
            if isinstance(letter.event, Hangup):
                return await self._close(letter.event)
            if not await send(letter):
                return await self.give_up()

    async def send(self, message: str | None) -> bool:
        """A message, or a ping where there is none; False if the other side did not take it in time."""
        if message is not None and self._takes(len(message)):
            await self._socket.send_str(message)
            return True
        try:
            async with asyncio.timeout(self._limits.send_timeout_s):
                if message is None:
                    await self._socket.ping()
                else:
                    await self._socket.send_str(message)
        except TimeoutError:
            log.warning("closed: reads too slowly", extra={"session": self.name})
            self._outbox.given_up = True
            return False
        return True

    def _takes(self, characters: int) -> bool:
        """Whether so long a message is taken without a wait, and without a timer: our own buffer holds it."""
        transport = self._request.transport
        return transport is not None and (
            MOST_CHARACTER_BYTES * characters + transport.get_write_buffer_size() < WRITE_BUFFER_BYTES
        )

    async def give_up(self) -> None:
        """Who does not take what it is sent is told so, and is not waited for."""
        await self._stop_reading()
        await hang_up(self._socket, 1008, "reads too slowly", LAST_WORDS_S)

    async def _close(self, hangup: Hangup) -> None:
        if self._outbox.given_up:
            return await self.give_up()
        await self._stop_reading()
        longest_s = self._limits.send_timeout_s + CLOSE_S
        self._outbox.given_up = not await hang_up(self._socket, hangup.code, hangup.reason, longest_s)
        log.info("closed %d %s", hangup.code, hangup.reason, extra={"session": self.name})

    async def _stop_reading(self) -> None:
        """aiohttp waits for the other side's close frame only if nobody else reads. Without that wait the kernel
        answers audio that still comes with a reset, and the last finals are lost on their way."""
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.wait([self._reader])

    def beat(self, now: float) -> None:
        """Time passed: ask a silent other side whether it is there, and leave one that does not answer."""
        match self.pulse.check(now):
            case Beat.PING:
                self._outbox.put(Letter(Ping()))
            case Beat.GONE if self._request.transport is not None:
                log.info("closed: no answer to a ping", extra={"session": self.name})
                self._request.transport.abort()

    def let_go(self) -> None:
        """What has not been taken until now never will be; without this it would stay in our memory."""
        if (transport := self._request.transport) is not None:
            asyncio.get_running_loop().call_later(0 if self._outbox.given_up else CLOSE_S, transport.abort)
