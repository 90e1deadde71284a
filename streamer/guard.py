"""Connections that never finish their first request: aiohttp leaves them open, we do not. Knows no HTTP itself."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import cast

from aiohttp import web

MOST_HALF_OPEN = 512  # connections without a whole request at once; more are cut off as they come


class Guard:
    """Gives every new connection `handshake_s` to bring one whole request."""

    def __init__(self, handshake_s: float) -> None:
        self._handshake_s = handshake_s
        self._half_open: set[web.RequestHandler] = set()

    def factory(self, server: web.Server) -> Callable[[], asyncio.Protocol]:
        """What the listener calls for every connection."""
        return lambda: _Threshold(self, server)

    def watch(self, handler: web.RequestHandler) -> None:
        """A connection that was let in."""
        self._half_open.add(handler)
        asyncio.get_running_loop().call_later(self._handshake_s, self._check, handler)

    def crowded(self) -> bool:
        """Whether one more is too many; those that have gone by themselves do not count."""
        if len(self._half_open) >= MOST_HALF_OPEN:
            self._half_open = {handler for handler in self._half_open if handler.transport is not None}
        return len(self._half_open) >= MOST_HALF_OPEN

    def _check(self, handler: web.RequestHandler) -> None:
        if handler in self._half_open:
            self._half_open.discard(handler)
            if handler.transport is not None:
                handler.transport.abort()

    @web.middleware
    async def middleware(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """A whole request has come."""
        self._half_open.discard(request.protocol)
        return await handler(request)


class _Threshold(asyncio.Protocol):
    """Stands where the server's protocol will: a connection can be turned away only once there is one."""

    def __init__(self, guard: Guard, server: web.Server) -> None:
        self._guard, self._server = guard, server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        connected = cast(asyncio.Transport, transport)
        if self._guard.crowded():
            connected.abort()
            return
        handler = self._server()
        connected.set_protocol(handler)
        handler.connection_made(connected)
        self._guard.watch(handler)
