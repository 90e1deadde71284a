"""Connections that never finish their first request: aiohttp leaves them open, we do not. Knows no HTTP itself."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from aiohttp import web

MOST_HALF_OPEN = 512  # connections without a whole request at once; more are cut off as they come


class Guard:
    """Gives every new connection `handshake_s` to bring one whole request."""

    def __init__(self, handshake_s: float) -> None:
        self._handshake_s = handshake_s
        self._half_open: set[object] = set()

    def factory(self, server: web.Server) -> Callable[[], asyncio.Protocol]:
        """What the listener calls for every connection."""

        def connect() -> asyncio.Protocol:
            handler = server()
            crowded = len(self._half_open) >= MOST_HALF_OPEN
            self._half_open.add(handler)
            asyncio.get_running_loop().call_later(0 if crowded else self._handshake_s, self._check, handler)
            return handler

        return connect

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
