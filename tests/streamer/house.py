"""A daemon on the toy backend with real sockets, for the server's tests."""

from __future__ import annotations

import asyncio
import json
import socket as sockets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from streamer.backends.fake import FakeBackend, spell
from streamer.config import load
from streamer.server import Daemon

Message = dict[str, Any]
HANG_S = 30.0  # what takes longer hangs; of how long it takes nothing is claimed


def wire(text: str) -> bytes:
    """16 bit PCM that the toy hears as `text`."""
    return (spell(text) * 32767).astype("<i2").tobytes()


class House:
    """A running daemon; `code` is its exit code once it has ended."""

    def __init__(self, daemon: Daemon, task: asyncio.Task[int], scheme: str) -> None:
        self.daemon, self.task, self.scheme = daemon, task, scheme

    @property
    def port(self) -> int:
        return self.daemon.port

    @property
    def http(self) -> str:
        return f"http{self.scheme[2:]}://127.0.0.1:{self.port}"

    @asynccontextmanager
    async def client(self, query: str = "", **options: Any) -> AsyncIterator[ClientConnection]:
        url = f"{self.scheme}://127.0.0.1:{self.port}/v1/stream{query and '?' + query}"
        async with connect(url, compression=None, **{"max_size": None, **options}) as socket:
            yield socket

    @asynccontextmanager
    async def viewer(self, room: str, **options: Any) -> AsyncIterator[ClientConnection]:
        url = f"{self.scheme}://127.0.0.1:{self.port}/v1/watch/{room}"
        async with connect(url, compression=None, **{"max_size": None, **options}) as socket:
            yield socket

    async def empty(self) -> None:
        """Wait until all streams have ended."""
        await self.settled(lambda: not self.daemon.connections)

    async def settled(self, so: Callable[[], bool], timeout_s: float = HANG_S) -> None:
        """Wait until this is so."""
        async with asyncio.timeout(timeout_s):
            while not so():
                await asyncio.sleep(0.01)


@asynccontextmanager
async def house(*options: str, backend: FakeBackend | None = None, scheme: str = "ws") -> AsyncIterator[House]:
    """The daemon with these options, ended (and its engine checked) at the end of the block."""
    own = ("server.port=0", "model.backend=fake", "model.latency_ms=80", "session.tail_ms=160")
    config = load(env={}, overrides=[*own, *options])
    daemon = Daemon(config, backend or FakeBackend(8))
    await daemon.start()
    task = asyncio.create_task(daemon.run())
    try:
        yield House(daemon, task, scheme)
    finally:
        daemon.stop()
        await asyncio.wait_for(task, config.server.shutdown_s + HANG_S)
    if daemon.engine.failure is None:
        daemon.engine.check()


async def listen(socket: ClientConnection) -> list[Message]:
    """Everything the server says until it closes."""
    said = []
    try:
        async for text in socket:
            said.append(json.loads(text))
    except ConnectionClosed:
        pass
    return said


async def until(socket: ClientConnection, kind: str, timeout_s: float = HANG_S) -> Message:
    """The next message of this type; what comes before it is passed over."""
    async with asyncio.timeout(timeout_s):
        while True:
            message: Message = json.loads(await socket.recv())
            if message["type"] == kind:
                return message


async def say(socket: ClientConnection, kind: str, **fields: Any) -> None:
    """One text message."""
    await socket.send(json.dumps({"type": kind, **fields}))


def finals(said: list[Message]) -> str:
    """The words of all finals."""
    return " ".join(message["text"] for message in said if message["type"] == "final" and message["text"])


def kinds(said: list[Message]) -> list[str]:
    """Types in order, runs of partials as one."""
    types = [message["type"] for message in said]
    return [t for i, t in enumerate(types) if not (t == "partial" and i and types[i - 1] == "partial")]


async def talk(house_: House, text: str, query: str = "", piece: int = 1001, **options: Any) -> list[Message]:
    """Say `text`, close, and give back all that came."""
    async with house_.client(query, **options) as socket:
        pcm = wire(text)
        with suppress(ConnectionClosed):  # refused: the reason is among what was said
            for at in range(0, len(pcm), piece):
                await socket.send(pcm[at : at + piece])
            await say(socket, "close")
        return await listen(socket)


async def deaf_client(port: int, path: str = "/v1/stream") -> asyncio.StreamWriter:
    """A WebSocket that never reads again after its handshake."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
    raw: sockets.socket = writer.get_extra_info("socket")
    raw.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 4096)
    writer.write(
        f"GET {path} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode()
    )
    await reader.readuntil(b"\r\n\r\n")
    assert isinstance(writer.transport, asyncio.Transport)
    writer.transport.pause_reading()
    return writer


def masked(payload: bytes, opcode: int) -> bytes:
    """A short client frame, its mask all zeros."""
    assert len(payload) < 126
    return bytes([0x80 | opcode, 0x80 | len(payload), 0, 0, 0, 0]) + payload


@asynccontextmanager
async def speaker(home: House, room: str = "demo", query: str = "") -> AsyncIterator[ClientConnection]:
    """A stream that speaks in a room and is ready."""
    async with home.client(f"room={room}{query and '&' + query}") as socket:
        await until(socket, "ready")
        yield socket


async def told(socket: ClientConnection, kind: str, timeout_s: float = HANG_S) -> list[Message]:
    """What a viewer is told, up to the next message of this type."""
    said: list[Message] = []
    async with asyncio.timeout(timeout_s):
        while not said or said[-1]["type"] != kind:
            said.append(json.loads(await socket.recv()))
    return said
