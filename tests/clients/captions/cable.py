"""A cable between browser and daemon that can be cut: a TCP relay. Knows nothing of what goes through it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress


class Cable:
    """`http` is the daemon's address at the browser's end."""

    def __init__(self, port: int) -> None:
        self.http = ""
        self._port = port
        self._ends: set[asyncio.StreamWriter] = set()
        self._flows = asyncio.Event()
        self._flows.set()

    def freeze(self) -> None:
        """What a network that dies without a word does: everything stays open, nothing comes through."""
        self._flows.clear()

    def thaw(self) -> None:
        """What was held back comes through."""
        self._flows.set()

    def cut(self) -> None:
        """What a network that breaks does: no close frame, no last words. What connects later goes through."""
        for end in self._ends:
            end.transport.abort()

    async def plug(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection until either end goes."""
        with suppress(OSError):
            there, back = await asyncio.open_connection("127.0.0.1", self._port)
            self._ends |= {writer, back}
            await asyncio.wait(
                [asyncio.create_task(self._carry(reader, back)), asyncio.create_task(self._carry(there, writer))],
                return_when=asyncio.FIRST_COMPLETED,
            )
            back.transport.abort()
            self._ends -= {writer, back}
        writer.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(1 << 16):
                await self._flows.wait()
                writer.write(data)
                await writer.drain()


@asynccontextmanager
async def cable(port: int) -> AsyncIterator[Cable]:
    """A cable to the daemon at `port`."""
    own = Cable(port)
    server = await asyncio.start_server(own.plug, "127.0.0.1", 0)
    own.http = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield own
    finally:
        server.close()
        own.thaw()
        own.cut()
