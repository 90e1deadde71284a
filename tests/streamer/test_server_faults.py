"""What goes wrong at a daemon: faults stay where they are, limits hold, nothing hangs, no final is lost."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from streamer.backends.base import Row
from streamer.backends.fake import FakeBackend, Faults, slow
from streamer.connection import stream_key
from streamer.protocols.events import KeepAlive
from streamer.session import Session
from tests.streamer.house import deaf_client, finals, house, kinds, listen, masked, say, talk, until, wire

ROOT = Path(__file__).parents[2]


# Faults of the engine.


async def test_an_exception_in_a_step_ends_its_stream_with_error_and_final_and_no_other() -> None:
    armed = threading.Event()

    def on_launch(_launch: int, rows: Sequence[Row]) -> None:
        if armed.is_set() and any(np.abs(row.pcm).max(initial=0) > 0.8 for row in rows):
            raise RuntimeError("fails on loud audio, as ordered")

    text = wire("these words are still well")
    backend = FakeBackend(8, Faults(on_launch))  # streams of two latencies never share a step
    async with house(backend=backend) as home, home.client() as bad, home.client("latency=560") as good:
        await bad.send(wire("abc"))
        await good.send(text[:20_000])
        await until(bad, "partial")
        await until(good, "partial")
        armed.set()
        await bad.send(wire("zzzz"))
        said = await listen(bad)
        assert kinds(said)[-3:] == ["error", "final", "closed"]
        assert next(m for m in said if m["type"] == "error")["code"] == "internal"
        assert said[-2]["reason"] == "error"
        assert said[-2]["text"].startswith("a"), "the final has what was heard"
        assert bad.close_code == 1011
        await good.send(text[20_000:])
        await say(good, "close")
        assert finals(await listen(good)) == "these words are still well"


async def test_a_bad_row_touches_no_neighbour() -> None:
    def on_row(row: Row) -> Exception | None:
        return ValueError("as ordered") if len(row.pcm) and row.pcm[0] > 0.8 else None

    async with house(backend=FakeBackend(8, Faults(on_row=on_row))) as home:
        texts = ["abc def", "zzz zzz", "ghi jkl"]
        said = await asyncio.gather(*(talk(home, text) for text in texts))
    assert finals(said[0]) == "abc def"
    assert finals(said[2]) == "ghi jkl"
    assert kinds(said[1])[-3:] == ["error", "final", "closed"]


@pytest.mark.parametrize("kind", ["fails", "hangs"])
async def test_a_dead_engine_closes_every_client_with_an_error_and_ends_non_zero(kind: str) -> None:
    armed, gate = threading.Event(), threading.Event()

    def on_launch(_launch: int, _rows: Sequence[Row]) -> None:
        if armed.is_set() and kind == "fails":
            raise RuntimeError("a dead device, as ordered")
        if armed.is_set():
            gate.wait(40)

    backend = FakeBackend(8, Faults(on_launch))
    limit = "engine.step_timeout_s=0.2"
    async with house(limit, backend=backend) as home, home.client() as idle, home.client() as talks:
        await until(idle, "ready")
        armed.set()
        await talks.send(wire("words"))
        for client in (idle, talks):
            said = await asyncio.wait_for(listen(client), 30)
            assert kinds(said)[-3:] == ["error", "final", "closed"]
            assert client.close_code == 1011
        gate.set()
        assert await asyncio.wait_for(home.task, 30) == 1


@pytest.mark.parametrize("place", ["keep", "receive"])
async def test_a_bug_in_a_session_ends_that_session_only(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    does = getattr(Session, place)

    def buggy(self: Session, said: object, now: float) -> object:
        if said == b"bug!" or isinstance(said, KeepAlive):
            raise ZeroDivisionError("as ordered")
        return does(self, said, now)

    monkeypatch.setattr(Session, place, buggy)
    async with house() as home, home.client() as bad, home.client() as good:
        await good.send(wire("fine"))
        await bad.send(wire("heard"))
        await until(bad, "partial")
        await bad.send(b"bug!" if place == "keep" else '{"type":"keepalive"}')
        said = await asyncio.wait_for(listen(bad), 30)
        assert kinds(said)[-3:] == ["error", "final", "closed"]
        assert said[-3]["code"] == "internal"
        assert said[-2]["text"].startswith("h"), "the final has what was heard"
        assert "ZeroDivision" not in str(said)
        assert bad.close_code == 1011
        await say(good, "close")
        assert finals(await listen(good)) == "fine"


async def test_a_single_failed_step_leaves_the_daemon_alive() -> None:
    armed = threading.Event()

    def on_launch(_launch: int, _rows: Sequence[Row]) -> None:
        if armed.is_set():
            armed.clear()
            raise RuntimeError("fails once, as ordered")

    async with house(backend=FakeBackend(8, Faults(on_launch))) as home:
        armed.set()
        assert "error" in kinds(await talk(home, "unlucky"))
        assert finals(await talk(home, "lucky")) == "lucky"
        assert not home.task.done()


# Clients that behave badly.


async def test_a_client_that_vanishes_gives_its_slot_back() -> None:
    async with house(backend=FakeBackend(2)) as home:
        for _ in range(5):
            async with home.client() as socket:
                await until(socket, "ready")
                await socket.send(wire("gone in a mo"))
                socket.transport.abort()
            await home.empty()
        assert finals(await talk(home, "here")) == "here"


async def test_half_a_request_is_cut_off_and_a_whole_one_is_not() -> None:
    async with house("server.handshake_s=0.3") as home, home.client() as whole:
        await until(whole, "ready")
        for half in (b"", b"GET /v1/str", b"GET /v1/stream HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n"):
            reader, writer = await asyncio.open_connection("127.0.0.1", home.port)
            began = time.monotonic()
            writer.write(half)
            with contextlib.suppress(ConnectionResetError):
                assert await asyncio.wait_for(reader.read(), 8) == b""
            assert time.monotonic() - began > 0.2
            writer.close()
        await whole.send(wire("unharmed"))
        await say(whole, "close")
        assert finals(await listen(whole)) == "unharmed"


async def test_a_message_that_is_too_long_ends_the_stream_in_words_and_a_huge_one_with_1009() -> None:
    async with house("server.max_message_bytes=10000") as home:
        async with home.client() as socket:
            await socket.send(wire("ab"))
            await socket.send(bytes(10_002))
            said = await listen(socket)
            assert kinds(said)[-2:] == ["final", "closed"]
            (error,) = [message["message"] for message in said if message["type"] == "error"]
            assert error == "audio='10002 bytes': expected at most 10000 bytes a message"
            assert finals(said) == "ab"
            assert socket.close_code == 1009
        async with home.client() as socket:
            await socket.send(bytes(50_000))
            await listen(socket)
            assert socket.close_code == 1009


async def test_a_client_that_reads_too_slowly_is_closed_and_others_do_not_notice() -> None:
    options = ("server.max_outgoing=16", "server.send_timeout_s=0.5", "endpoint.enabled=false", "session.idle_s=30")
    async with house(*options) as home:
        writer = await deaf_client(home.port)
        finalize = masked(b'{"type":"finalize"}', 1)
        async with asyncio.timeout(20):
            while home.daemon.connections:
                with contextlib.suppress(ConnectionError):
                    writer.write(finalize * 20)
                    await writer.drain()
                await asyncio.sleep(0.001)
        assert finals(await talk(home, "not delayed")) == "not delayed"
        writer.transport.abort()


async def test_a_socket_is_not_read_above_so_much_waiting_audio() -> None:
    async with house("server.max_waiting_s=1", "session.stall_ms=100", backend=FakeBackend(8, slow(0.05))) as home:
        async with home.client() as socket:
            await until(socket, "ready")
            (session_id,) = home.daemon.connections
            most = 0.0

            async def watch() -> None:
                nonlocal most
                while True:
                    most = max(most, home.daemon.engine.waiting_seconds(stream_key(session_id, 0)))
                    await asyncio.sleep(0.005)

            watching = asyncio.create_task(watch())
            word = wire("words and ")
            for _ in range(8):
                await socket.send(word)
            await say(socket, "close")
            said = await listen(socket)
            watching.cancel()
        assert 1.0 < most < 1.0 + 2 * len(word) / 32000
        assert said[-1]["audio_seconds"] == pytest.approx(8 * len(word) / 32000, abs=0.01)
        reasons = [m["reason"] for m in said if m["type"] == "final"]
        assert "stall" not in reasons, "our own pause was taken for one of the client's"


async def test_silence_on_the_wire_ends_a_session_with_its_final_and_keepalive_does_not() -> None:
    options = ("session.idle_s=1.5", "session.stall_ms=300")
    async with house(*options) as home, home.client() as idle, home.client() as kept:
        began = time.monotonic()
        await idle.send(wire("words then silence"))
        await kept.send(wire("kept"))

        async def keep() -> None:
            for _ in range(9):
                await asyncio.sleep(0.2)
                await say(kept, "keepalive")

        keeping = asyncio.create_task(keep())
        said = await asyncio.wait_for(listen(idle), 30)
        assert time.monotonic() - began > 1.4
        assert finals(said) == "words then silence"
        assert [m["code"] for m in said if m["type"] == "error"] == ["idle_timeout"]
        assert said[-1]["type"] == "closed"
        await keeping
        await say(kept, "close")
        assert finals(await listen(kept)) == "kept"
        assert kept.close_code == 1000


async def test_the_longest_session_ends_with_its_final() -> None:
    async with house("session.max_session_s=0.5") as home, home.client() as socket:
        await socket.send(wire("limited"))
        said = await asyncio.wait_for(listen(socket), 30)
        assert finals(said) == "limited"
        assert [m["code"] for m in said if m["type"] == "error"] == ["session_limit"]
        assert socket.close_code == 1008
