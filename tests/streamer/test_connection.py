"""One client's socket: read in time, never for ever; pinged, let go; and whatever breaks, its last words are said."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import time
from contextlib import suppress

import pytest
from aiohttp import WSMessage

from streamer import connection, line, server
from streamer.backends.base import Row
from streamer.backends.fake import FakeBackend, Faults, slow
from streamer.protocols.events import Partial
from streamer.protocols.native import Native
from streamer.session import Session
from tests.streamer.house import Message, finals, house, kinds, listen, say, talk, until, wire

HANDSHAKE = (
    b"GET /v1/stream HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: " + base64.b64encode(bytes(16)) + b"\r\n\r\n"
)
BINARY, TEXT = 2, 1
FINALIZE, CLOSE = b'{"type":"finalize"}', b'{"type":"close"}'


def frame(payload: bytes, opcode: int) -> bytes:
    """A client's frame, its mask all zeros."""
    size = len(payload)
    length = bytes([0x80 | size]) if size < 126 else b"\xfe" + size.to_bytes(2)
    return bytes([0x80 | opcode]) + length + bytes(4) + payload


async def bare(port: int, first: bytes = b"") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A WebSocket by hand, which answers no ping and no close; `first` goes out together with the handshake."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 10)
    writer.write(HANDSHAKE + first)
    await reader.readuntil(b"\r\n\r\n")
    return reader, writer


@pytest.fixture
def briefly_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who does not answer a close frame is not waited for as long as usual."""
    for module in (line, server):
        monkeypatch.setattr(module, "CLOSE_S", 0.3)


# When it is read.


@pytest.mark.parametrize("latency_ms", [80, 1120])
async def test_a_chunk_longer_than_the_waiting_audio_allowed_does_not_stop_the_stream(latency_ms: int) -> None:
    text = "abc def ghi jkl mno"
    async with house("server.max_waiting_s=0.2", "session.idle_s=5") as home:
        said = await asyncio.wait_for(talk(home, text, f"latency={latency_ms}", piece=20_000), 30)
    assert finals(said) == text


@pytest.mark.usefixtures("briefly_closed")
async def test_audio_and_close_that_come_with_the_handshake_are_heard_after_ready() -> None:
    async with house() as home:
        sound = frame(wire("early words"), BINARY)
        reader, writer = await bare(home.port, sound + frame(CLOSE, TEXT))
        heard = await asyncio.wait_for(reader.read(-1), 30)
        assert heard.index(b'"ready"') < heard.index(b'"final"')
        assert b'"error"' not in heard
        assert b'"text":"early words"' in heard
        writer.close()


async def test_the_longest_session_holds_for_who_sends_faster_than_is_heard() -> None:
    options = ("session.max_session_s=2", "server.max_waiting_s=1", "engine.max_load=100")
    async with house(*options, backend=FakeBackend(8, slow(0.01))) as home, home.client() as socket:
        pouring = asyncio.create_task(_pour(socket, wire("abcde fgh ")))
        said = await asyncio.wait_for(listen(socket), 30)
        pouring.cancel()
    assert [message["code"] for message in said if message["type"] == "error"] == ["session_limit"]
    assert kinds(said)[-2:] == ["final", "closed"]
    assert said[-1]["audio_seconds"] < 2 + 1 + 2


async def _pour(socket: object, pcm: bytes) -> None:
    while True:
        await socket.send(pcm)  # type: ignore[attr-defined]


# Whether anybody is there.


async def test_a_client_that_is_not_read_for_long_is_not_taken_for_a_dead_one() -> None:
    options = ("server.heartbeat_s=0.3", "server.max_waiting_s=1", "engine.max_load=100")
    backend = FakeBackend(8, slow(0.1))
    async with house(*options, backend=backend) as home, home.client("latency=1120", ping_interval=None) as socket:
        text = " ".join(["abcdefgh ijklmnop"] * 12)
        pcm = wire(text)
        for at in range(0, len(pcm), 20_000):
            await socket.send(pcm[at : at + 20_000])
        await say(socket, "close")
        assert finals(await asyncio.wait_for(listen(socket), 30)) == text


async def test_a_silent_client_that_answers_pings_stays_and_one_that_does_not_goes() -> None:
    async with house("server.heartbeat_s=0.4") as home, home.client(ping_interval=None) as alive:
        await until(alive, "ready")
        _, writer = await bare(home.port)
        async with asyncio.timeout(15):
            while len(home.daemon.connections) > 1:
                await asyncio.sleep(0.02)
        await asyncio.sleep(0.8)
        await alive.send(wire("still here"))
        await say(alive, "close")
        assert finals(await listen(alive)) == "still here"
        writer.close()


async def test_a_clients_own_pings_are_answered() -> None:
    async with house() as home, home.client() as socket:
        await asyncio.wait_for(await socket.ping(b"there?"), 30)


@pytest.mark.usefixtures("briefly_closed")
@pytest.mark.parametrize("unread", [0, 700, 3000])
async def test_a_client_that_never_reads_is_let_go_however_much_waits_for_it(unread: int) -> None:
    options = ("server.send_timeout_s=0.5", "server.max_outgoing=100000", "engine.max_load=100")
    async with house(*options) as home:
        _, writer = await bare(home.port)
        assert isinstance(writer.transport, asyncio.Transport)
        writer.transport.pause_reading()
        with suppress(ConnectionError):  # a slow machine lets it go while it still writes
            for _ in range(unread // 100):
                writer.write(frame(FINALIZE, TEXT) * 100)
                await writer.drain()
                await asyncio.sleep(0.01)
            writer.write(frame(CLOSE, TEXT))
        async with asyncio.timeout(20):
            while home.daemon.connections or home.daemon._runner.server.connections:
                await asyncio.sleep(0.02)
        writer.transport.abort()


# What breaks.


@pytest.mark.parametrize("place", ["receive", "send"])
async def test_a_fault_in_reading_or_writing_ends_the_stream_in_words(
    place: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sound = getattr(Native, place)

    def faulty(self: Native, what: object) -> object:
        if what == "fault" or (isinstance(what, Partial) and what.segment == 1):
            raise ZeroDivisionError("as ordered")
        return sound(self, what)

    monkeypatch.setattr(Native, place, faulty)
    async with house() as home, home.client() as bad, home.client() as good:
        await bad.send(wire("abc"))
        await until(bad, "partial")
        await bad.send("fault" if place == "receive" else wire(" "))
        if place == "send":
            await say(bad, "finalize")
            await until(bad, "final")
            await bad.send(wire("zzz"))
        said = await asyncio.wait_for(listen(bad), 30)
        assert kinds(said)[-3:] == ["error", "final", "closed"]
        assert said[-3]["code"] == "internal"
        assert bad.close_code == 1011
        await good.send(wire("fine"))
        await say(good, "close")
        assert finals(await listen(good)) == "fine"
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert record.exc_info is not None


async def test_a_fault_before_the_stream_is_open_is_an_error_in_words_and_in_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def faulty(*_: object) -> None:
        raise ZeroDivisionError("as ordered")

    async with house() as home:
        with monkeypatch.context() as broken:
            broken.setattr(Session, "__init__", faulty)
            async with home.client() as socket:
                (error,) = await listen(socket)
                assert (error["type"], error["code"]) == ("error", "internal")
                assert socket.close_code == 1011
        assert finals(await talk(home, "after it")) == "after it"
    assert "ZeroDivisionError" in caplog.text


async def test_text_that_is_not_utf_8_breaks_the_socket_with_1007() -> None:
    async with house() as home, home.client() as socket:
        await socket.send(b"\xff\xfe", text=True)
        await listen(socket)
        assert socket.close_code == 1007


# Who else is there.


@pytest.mark.usefixtures("briefly_closed")
async def test_messages_that_are_there_already_leave_the_others_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    take, hear = connection.Connection._take, connection.Connection._hear_client
    streak, longest, total = 0, 0, 0

    def count() -> None:
        nonlocal streak, longest, total
        streak, total = streak + 1, total + 1
        longest = max(longest, streak)

    async def counted(self: connection.Connection, message: WSMessage) -> None:
        count()
        await take(self, message)

    def counted_audio(self: connection.Connection, data: bytes) -> None:
        count()
        hear(self, data)

    async def another() -> None:
        nonlocal streak
        while True:
            streak = 0
            await asyncio.sleep(0)

    monkeypatch.setattr(connection.Connection, "_take", counted)
    monkeypatch.setattr(connection.Connection, "_hear_client", counted_audio)
    async with house() as home:
        other = asyncio.create_task(another())
        reader, writer = await bare(home.port, frame(bytes(2), BINARY) * 2000 + frame(CLOSE, TEXT))
        assert b'"closed"' in await asyncio.wait_for(reader.read(-1), 30)
        other.cancel()
        writer.close()
    assert total == 2001
    assert longest <= 2 * connection.BREATH


async def test_finalizes_of_one_client_do_not_hold_up_the_words_of_another() -> None:
    def on_launch(_launch: int, _rows: list[Row]) -> None:
        time.sleep(0.005)

    backend = FakeBackend(16, Faults(on_launch))
    options = ("engine.max_load=100", "server.max_outgoing=100000", "session.stall_ms=60000")  # a busy machine's pauses
    async with house(*options, backend=backend) as home, home.client() as greedy, home.client("latency=560") as modest:
        answered = 0

        async def ask() -> None:
            nonlocal answered
            for _ in range(8):
                await say(greedy, "finalize")
            async for text in greedy:
                if json.loads(text)["type"] == "final":
                    answered += 1
                    await say(greedy, "finalize")

        asking = asyncio.create_task(ask())
        said: list[Message] = []
        pcm = wire("abcdefgh " * 3)
        for at in range(0, len(pcm), 5120):
            await modest.send(pcm[at : at + 5120])
            await asyncio.sleep(0.16)
        said.append(await until(modest, "partial"))
        assert answered > 8
        asking.cancel()
        await say(modest, "close")
        assert finals(await listen(modest)) == "abcdefgh abcdefgh abcdefgh"
