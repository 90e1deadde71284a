"""How a daemon ends: on signals, in time, with a final for every stream and nothing left behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from streamer.backends.fake import FakeBackend, slow
from tests.streamer.house import House, deaf_client, finals, house, kinds, listen, talk, until, wire

ROOT = Path(__file__).parents[2]


@asynccontextmanager
async def process(*options: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """A daemon of its own on the toy backend; yields it and its URL."""
    code = (
        "import sys; from streamer.config import load; from streamer.server import serve; "
        "sys.exit(serve(load(overrides=sys.argv[1:])))"
    )
    fixed = ("model.backend=fake", "server.port=0", "model.latency_ms=560", "session.tail_ms=160")
    own = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, *fixed, *options,
        stderr=asyncio.subprocess.PIPE, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert own.stderr is not None
    try:
        async with asyncio.timeout(30):
            while True:
                line = (await own.stderr.readline()).decode()
                assert line, "the daemon ended before it listened"
                if found := re.search(r"listening on (ws://\S+)", line):
                    break
        yield own, found[1]
    finally:
        if own.returncode is None:
            own.kill()
        await own.wait()


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_in_the_middle_loses_no_final_and_the_exit_code_is_0(kind: signal.Signals) -> None:
    texts = [f"stream {letter} says words" for letter in "abcdefgh"]
    async with process() as (own, url):
        clients = [await connect(url, compression=None) for _ in texts]
        for client, text in zip(clients, texts, strict=True):
            await until(client, "ready")
            await client.send(wire(text))
        own.send_signal(kind)
        said = await asyncio.wait_for(asyncio.gather(*(listen(client) for client in clients)), 30)
        assert [finals(messages) for messages in said] == texts
        for client, messages in zip(clients, said, strict=True):
            assert messages[-2]["reason"] == "shutdown"
            assert messages[-1]["audio_seconds"] > 1
            assert client.close_code == 1001
        assert await asyncio.wait_for(own.wait(), 30) == 0
        with pytest.raises(ConnectionRefusedError):
            await connect(url)


async def test_audio_that_still_comes_does_not_cost_the_last_final() -> None:
    async with house("model.latency_ms=560") as home, home.client() as client:
        await until(client, "ready")

        async def pour() -> None:
            with contextlib.suppress(ConnectionClosed):
                while True:
                    await client.send(bytes(3200))
                    await asyncio.sleep(0.001)

        await client.send(wire("heard before"))
        pouring = asyncio.create_task(pour())
        await asyncio.sleep(0.1)
        home.daemon.stop()
        said = await asyncio.wait_for(listen(client), 30)
        assert kinds(said)[-2:] == ["final", "closed"]
        assert finals(said) == "heard before"
        assert client.close_code == 1001
        await pouring


async def test_a_second_signal_ends_at_once() -> None:
    async with process("server.shutdown_s=60") as (own, url):
        deaf = await deaf_client(int(url.split(":")[2].split("/")[0]))
        own.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.8)
        assert own.returncode is None, "it did not wait for the client's close"
        own.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(own.wait(), 30) == 128 + signal.SIGTERM
        deaf.transport.abort()


async def test_a_client_that_never_answers_cannot_hold_up_the_end() -> None:
    async with house("server.shutdown_s=1") as home:
        deaf = await deaf_client(home.port)
        home.daemon.stop()
        assert await asyncio.wait_for(home.task, 12) == 0
        deaf.transport.abort()


async def test_an_engine_that_is_too_slow_for_the_deadline_still_says_what_was_heard() -> None:
    options = ("server.shutdown_s=1.5", "engine.max_load=100")
    async with house(*options, backend=FakeBackend(2, slow(0.2))) as home, home.client() as client:
        await until(client, "ready")
        await client.send(wire("much more than can be heard in time " * 3))
        await until(client, "partial")
        home.daemon.stop()
        said = await asyncio.wait_for(listen(client), 12)
        assert kinds(said)[-3:] == ["error", "final", "closed"]
        assert said[-2]["text"].startswith("mu")
        assert await asyncio.wait_for(home.task, 12) == 0


async def test_while_stopping_no_new_stream_comes_in() -> None:
    async with house("engine.max_load=100", backend=FakeBackend(2, slow(0.1))) as home, home.client() as client:
        await until(client, "ready")
        await client.send(wire("a long enough text"))
        home.daemon.stop()
        await asyncio.sleep(0.1)
        with pytest.raises((OSError, ConnectionClosed)):
            await connect(f"ws://127.0.0.1:{home.port}/v1/stream")
        assert finals(await listen(client)) == "a long enough text"


async def test_ten_clients_of_every_kind_end_and_leave_nothing_behind(tmp_path: Path) -> None:
    async with house("session.idle_s=0.5", backend=FakeBackend(16, slow(0.001))) as home:

        async def vanish(home: House) -> None:
            async with home.client() as socket:
                await socket.send(wire("abc"))
                socket.transport.abort()

        async def linger(home: House) -> None:
            async with home.client() as socket:
                await listen(socket)

        await asyncio.wait_for(asyncio.gather(*(task(home) for task in (vanish, linger) * 5)), 30)
        await home.empty()
        home.daemon.engine.check()
        assert finals(await talk(home, "after all")) == "after all"
        assert not list(tmp_path.iterdir())
