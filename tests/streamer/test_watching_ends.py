"""How a speaker leaves a room, and who may have it then; how the daemon's end reaches viewers. Real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable

import pytest
from websockets.asyncio.client import ClientConnection

from streamer.backends.fake import FakeBackend, Faults
from tests.streamer.house import (
    deaf_client,
    finals,
    house,
    kinds,
    listen,
    say,
    speaker,
    talk,
    told,
    until,
    wire,
)

End = Callable[[ClientConnection], Awaitable[None]]

# However a speaker's stream ends, the room is away, and free.


async def close(socket: ClientConnection) -> None:
    await say(socket, "close")
    await listen(socket)


async def vanish(socket: ClientConnection) -> None:
    socket.transport.abort()


async def leave(socket: ClientConnection) -> None:
    await socket.close(1001)


async def send_a_file(socket: ClientConnection) -> None:
    await socket.send(b"RIFF\x24\x00\x00\x00WAVEfmt " + bytes(2000))
    await listen(socket)


async def break_the_rules(socket: ClientConnection) -> None:
    socket.transport.write(b"\xff\xff\xff\xff")
    await listen(socket)


@pytest.mark.parametrize("end", [close, vanish, leave, send_a_file, break_the_rules])
async def test_a_speaker_who_goes_leaves_the_room_away_and_free(end: End) -> None:
    async with house() as home, home.viewer("demo") as viewer:
        async with speaker(home) as socket:
            await told(viewer, "live")
            await end(socket)
            away = (await told(viewer, "away"))[-1]
        async with speaker(home) as again:
            live = (await told(viewer, "live"))[-1]
            assert live["away_seconds"] >= 0
            assert live["session_id"] != away["session_id"]
            await again.send(wire("again"))
            await close(again)
        assert finals(await told(viewer, "away")) == "again"


async def test_a_speaker_whose_stream_meets_a_fault_leaves_the_room_away() -> None:
    armed = threading.Event()
    faults = Faults(on_row=lambda _: RuntimeError("as ordered") if armed.is_set() else None)
    async with house(backend=FakeBackend(8, faults)) as home, home.viewer("demo") as viewer:
        async with speaker(home) as socket:
            armed.set()
            await socket.send(wire("a b c"))
            assert "error" in kinds(await listen(socket))
        assert kinds(await told(viewer, "away")) == ["room", "live", "away"]
        assert home.daemon.rooms.speaker("demo") is None


async def test_a_speaker_who_reads_nothing_leaves_the_room_away() -> None:
    options = ("server.max_outgoing=16", "server.send_timeout_s=0.5", "session.idle_s=30")
    async with house(*options) as home, home.viewer("demo") as viewer:
        writer = await deaf_client(home.port, "/v1/stream?room=demo")
        ask = b'\x81\x93\0\0\0\0{"type":"finalize"}' * 20
        task = asyncio.create_task(told(viewer, "away"))
        async with asyncio.timeout(30):
            while not task.done():
                with contextlib.suppress(ConnectionError):
                    writer.write(ask)
                    await writer.drain()
                await asyncio.sleep(0.001)
        assert kinds(await task)[-1] == "away"
        writer.transport.abort()


async def test_a_stream_that_finds_no_place_leaves_no_speaker_in_its_room() -> None:
    async with house(backend=FakeBackend(2)) as home, home.client() as socket:
        await until(socket, "ready")
        for _ in range(2):
            said = await talk(home, "x", "room=demo")
            assert [message["code"] for message in said] == ["at_capacity"]
        assert (home.daemon.rooms.opened, home.daemon.rooms.speaker("demo")) == (0, None)


async def test_a_room_is_closed_when_its_speaker_does_not_come_back() -> None:
    async with house("rooms.linger_s=0.3") as home, home.viewer("demo") as viewer:
        said = await talk(home, "bye", "room=demo")
        heard = await listen(viewer)
        assert kinds(heard)[-3:] == ["final", "away", "closed"]
        assert heard[-1] == {"type": "closed", "audio_seconds": said[-1]["audio_seconds"]}
        assert viewer.close_code == 1000
        await home.settled(lambda: not len(home.daemon.rooms))


# One speaker at a time.


async def test_a_second_speaker_is_refused_in_words_and_the_first_does_not_notice() -> None:
    async with house() as home, speaker(home) as first:
        async with home.client("room=Demo") as second:
            (error,) = await listen(second)
            assert (error["type"], error["code"]) == ("error", "room_taken")
            assert error["message"] == "room=Demo: expected one without a speaker"
            assert second.close_code == 1008
        await first.send(wire("undisturbed"))
        await say(first, "close")
        assert finals(await listen(first)) == "undisturbed"
        assert finals(await talk(home, "next", "room=demo")) == "next"


async def test_whoever_wants_a_taken_room_has_its_speaker_asked_at_once_whether_he_is_there() -> None:
    async with house("server.heartbeat_s=3600") as home:  # no ping of its own comes while this test lasts
        reader, writer = await asyncio.open_connection("127.0.0.1", home.port)
        writer.write(
            b"GET /v1/stream?room=demo HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
        await asyncio.wait_for(reader.readuntil(b'"ready"'), 30)
        await asyncio.wait_for(reader.readuntil(b"}"), 30)
        assert [message["code"] for message in await talk(home, "x", "room=demo")] == ["room_taken"]
        assert await asyncio.wait_for(reader.readexactly(2), 30) == b"\x89\x00"  # a ping
        writer.close()


async def test_a_speaker_who_is_not_there_any_more_loses_the_room_to_whoever_asks_again() -> None:
    async with house("server.heartbeat_s=1", "session.idle_s=3600") as home:
        gone = await deaf_client(home.port, "/v1/stream?room=demo")  # half open: it answers no ping
        await home.settled(lambda: home.daemon.rooms.speaker("demo") is not None)
        async with asyncio.timeout(30):
            while kinds(said := await talk(home, "back", "room=demo")) == ["error"]:
                assert said[0]["code"] == "room_taken"
        assert finals(said) == "back"
        gone.transport.abort()


# The end.


async def test_at_the_end_viewers_hear_the_speakers_last_words_and_then_1001() -> None:
    async with house("model.latency_ms=560") as home:
        async with speaker(home) as socket, home.viewer("demo") as viewer, home.viewer("nobody") as waiting:
            await told(viewer, "live")
            await waiting.recv()
            await socket.send(wire("last words"))
            home.daemon.stop()
            said, heard = await asyncio.gather(listen(socket), listen(viewer))
            assert (finals(said), finals(heard)) == ("last words", "last words")
            assert kinds(heard)[-2:] == ["final", "away"]
            assert heard[-2]["reason"] == "shutdown"
            assert viewer.close_code == 1001
            assert await listen(waiting) == []
            assert waiting.close_code == 1001
        assert await home.task == 0
