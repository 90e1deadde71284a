"""One viewer's socket: carries a room's messages to it. Decides nothing, and what a viewer says is not wanted."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from aiohttp import WSMsgType, web

from streamer.actions import Hangup
from streamer.config import Server
from streamer.connection import BREATH
from streamer.errors import Refusal
from streamer.line import Line
from streamer.outbox import Letter
from streamer.protocols.events import Error
from streamer.protocols.native import write
from streamer.rooms import Viewer

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
        self._socket, self._viewer, self._clock = socket, viewer, clock
        self._line = Line(socket, request, viewer.outbox, limits, clock)
        self._greeted = False

    async def run(self) -> None:
        """Until the viewer has gone or is told to go."""
        try:
            await self._line.talk(self._read(), self._write())
        finally:
            self._line.let_go()

    def tick(self, now: float) -> None:
        """Time passed. A ping waits behind the greeting, which may be long."""
        if not (self._greeted and self._line.reading):
            self._line.pulse.felt(now)
        self._line.beat(now)

    def shutdown(self) -> None:
        """The server goes: what is in the outbox is still said."""
        self._viewer.outbox.put(Letter(Hangup(code=1001, reason="shutdown")))

    async def _read(self) -> None:
        """Until the viewer hangs up, or says what it may not."""
        count = 0
        with contextlib.suppress(ConnectionError):
            async for message in self._socket:
                self._line.pulse.felt(self._clock())
                if message.type is WSMsgType.PING:
                    await self._socket.pong(message.data)
                elif message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
                    return self._refuse()
                count += 1
                if count % BREATH == 0:
                    await asyncio.sleep(0)
        self._line.gone = True

    def _refuse(self) -> None:
        wrong = Refusal("message", "one of a viewer", "none: a room is watched, not spoken to", code="bad_state")
        error = Error(code=wrong.code, message=str(wrong))
        self._viewer.outbox.put(Letter(error, text=write(error)))
        self._viewer.outbox.put(Letter(Hangup(code=1008, reason=wrong.code)))

    async def _write(self) -> None:
        for message in self._viewer.greeting:
            if not await self._line.send(message):
                return await self._line.give_up()
        self._greeted, self._viewer.greeting = True, ()
        await self._line.write(lambda letter: self._line.send(letter.text))
