"""Two fronts before one engine, real processes and sockets: the words of one process, whoever ends, however."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import threading
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from pathlib import Path

import aiohttp
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from streamer import sockets
from streamer.backends.fake import FakeBackend, Faults
from streamer.config import from_plain, load, plain
from streamer.errors import Refusal
from streamer.fronts import Fronts
from tests.streamer.house import finals, house, listen, say, talk, until, wire
from tests.streamer.test_server_end import process

MANY = 12  # connections: that all of them come to one of two fronts happens once in two thousand times


class Home:
    """A running engine's process (this one) and its fronts."""

    def __init__(self, fronts: Fronts, task: asyncio.Task[int]) -> None:
        self.fronts, self.task = fronts, task
        self.url = f"ws://127.0.0.1:{fronts.port}/v1/stream"
        self.http = f"http://127.0.0.1:{fronts.port}"

    @property
    def pids(self) -> set[int]:
        return {process.pid for process in self.fronts.processes.values()}

    async def streams(self, count: int) -> None:
        """Wait until the engine has so many streams."""
        async with asyncio.timeout(30):
            while len(self.fronts.exchange.owners) != count:
                await asyncio.sleep(0.01)

    async def get(self, path: str) -> tuple[int, str]:
        async with aiohttp.ClientSession() as session, session.get(self.http + path) as answer:
            return answer.status, await answer.text()


@asynccontextmanager
async def fronted(*options: str, backend: FakeBackend | None = None) -> AsyncIterator[Home]:
    fixed = ["server.port=0", "server.fronts=2", "model.latency_ms=80", "session.tail_ms=160", "engine.max_load=100"]
    config = load(env={}, overrides=[*fixed, *options])
    fronts = Fronts(config, backend or FakeBackend(32))
    await fronts.start(sockets.share(config.server))
    task = asyncio.create_task(fronts.run())
    try:
        yield Home(fronts, task)
    finally:
        fronts.stop()
        await asyncio.wait_for(task, 30)
    if fronts.engine.failure is None:
        fronts.engine.check()


async def speak(url: str, text: str, piece: int = 1001) -> list[dict]:
    async with connect(url, compression=None) as socket:
        with suppress(ConnectionClosed):
            pcm = wire(text)
            for at in range(0, len(pcm), piece):
                await socket.send(pcm[at : at + piece])
            await say(socket, "close")
        return await listen(socket)


async def clients(stack: AsyncExitStack, url: str, texts: Iterable[str]) -> list[ClientConnection]:
    """Connected, ready, and having said their text."""
    made = [await stack.enter_async_context(connect(url, compression=None)) for _ in texts]
    for client, text in zip(made, texts, strict=True):
        await until(client, "ready")
        await client.send(wire(text))
    return made


def without_ids(said: list[dict]) -> list[dict]:
    """What does not depend on the moment: finals and the end."""
    return [message for message in said if message["type"] in ("final", "closed", "error")]


async def test_words_are_those_of_one_process() -> None:
    texts = [f"{letter} says words and goes" for letter in "abcdefghijkl"[:MANY]]
    async with house("engine.slots=32", backend=FakeBackend(32)) as home:
        alone = await asyncio.gather(*(talk(home, text) for text in texts))
    async with fronted() as home:
        said = await asyncio.gather(*(speak(home.url, text) for text in texts))
        assert len(home.pids) == 2
        assert await home.get("/readyz") == (200, "ready\n")
        assert home.fronts._numbers == {}, "nobody asked yet"
        values = numbers((await home.get("/metrics"))[1])
        fits = json.loads((await home.get("/v1/info"))[1])["capacity"]
        own = [numbers_of(part)["streamer_streams_opened_total"] for part in home.fronts._numbers.values()]
    assert [without_ids(messages) for messages in said] == [without_ids(messages) for messages in alone]
    assert [finals(messages) for messages in said] == texts
    assert min(own) > 0, f"one front got all streams: {own}"
    assert sum(own) == values["streamer_streams_opened_total"] == MANY
    assert values["streamer_streams"] == 0
    assert values['streamer_steps_total{chunk="1"}'] > 10, "the engine's own numbers are missing"
    assert values["streamer_queue_wait_seconds_count"] >= values['streamer_steps_total{chunk="1"}']
    assert values["streamer_final_latency_seconds_count"] == MANY
    assert values['streamer_capacity_streams{latency_ms="80"}'] == fits["80"] == 30


async def test_finalize_is_answered_through_a_front_and_the_stream_goes_on() -> None:
    async with fronted() as home, connect(home.url, compression=None) as socket:
        pcm, cut = wire("one two three"), len(wire("one two"))
        await socket.send(pcm[:cut])
        await say(socket, "finalize")
        final = await until(socket, "final")
        assert (final["text"], final["reason"]) == ("one two", "finalize")
        await socket.send(pcm[cut:])
        await say(socket, "close")
        assert finals(await listen(socket)) == "three"


async def test_past_capacity_a_front_says_so_and_why() -> None:
    async with fronted(backend=FakeBackend(3)) as home, AsyncExitStack() as stack:
        await clients(stack, home.url, ["a", "b"])
        (error,) = await speak(home.url, "c")
        assert (error["code"], "2 streams are heard now" in error["message"]) == ("at_capacity", True)
        status, reason = await home.get("/readyz")
        assert (status, "2 streams" in reason) == (503, True)


async def test_a_front_that_is_killed_takes_its_own_streams_only_and_another_one_comes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    texts = [f"{letter} goes on" for letter in "abcdefghijkl"[:MANY]]
    async with fronted() as home, AsyncExitStack() as stack:
        made = await clients(stack, home.url, texts)
        before = home.pids
        os.kill(min(before), signal.SIGKILL)
        endings = []
        for client in made:
            with suppress(ConnectionClosed):
                await say(client, "close")
            endings.append(await listen(client))
        whole = [bool(said) and said[-1]["type"] == "closed" for said in endings]
        lost = [said for said, good in zip(endings, whole, strict=True) if not good]
        kept = [(text, said) for text, said, good in zip(texts, endings, whole, strict=True) if good]
        assert lost
        assert kept
        assert all(finals(said) == text for text, said in kept)
        await home.streams(0)
        async with asyncio.timeout(30):
            while len(home.pids) < 2 or len(home.fronts._ready) < 2:
                await asyncio.sleep(0.01)
        assert len(home.pids & before) == 1
        assert [finals(await speak(home.url, "again")) for _ in range(MANY)] == ["again"] * MANY
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "another one starts" in record.message


async def test_a_front_that_hangs_is_hung_up_on_killed_and_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamer.fronts.GRACE_S", 0.2)
    async with fronted("server.fronts=1") as home:
        (hung,), (line,) = home.pids, home.fronts.exchange.lines
        os.kill(hung, signal.SIGSTOP)
        line.hang_up("as ordered")
        async with asyncio.timeout(30):
            while hung in home.pids or not home.fronts._ready:
                await asyncio.sleep(0.01)
        assert finals(await speak(home.url, "again")) == "again"


async def test_sigterm_gives_every_stream_its_final_and_the_exit_code_is_0() -> None:
    texts = [f"{letter} is cut off" for letter in "abcdefgh"]
    async with process("server.fronts=2", "engine.max_load=100") as (own, url), AsyncExitStack() as stack:
        made = await clients(stack, url, texts)
        own.send_signal(signal.SIGTERM)
        said = await asyncio.wait_for(asyncio.gather(*map(listen, made)), 30)
        assert [finals(messages) for messages in said] == texts
        assert {messages[-2]["reason"] for messages in said} == {"shutdown"}
        assert {client.close_code for client in made} == {1001}
        assert await asyncio.wait_for(own.wait(), 30) == 0


async def test_when_the_engines_process_is_killed_every_stream_gets_an_error_and_the_fronts_end() -> None:
    async with process("server.fronts=2", "engine.max_load=100") as (own, url), AsyncExitStack() as stack:
        children = Path(f"/proc/{own.pid}/task/{own.pid}/children")
        fronts = [int(pid) for pid in children.read_text().split() if front(int(pid))]
        assert len(fronts) == 2
        made = await clients(stack, url, ["a", "b", "c", "d"])
        own.kill()
        said = await asyncio.wait_for(asyncio.gather(*map(listen, made)), 30)
        for client, messages in zip(made, said, strict=True):
            (error,) = [message for message in messages if message["type"] == "error"]
            assert (error["code"], error["message"]) == ("internal", "the engine's process has ended")
            assert messages[-1]["type"] == "closed"
            assert client.close_code == 1011
        async with asyncio.timeout(30):
            while any(map(front, fronts)):
                await asyncio.sleep(0.02)
            await own.stderr.read()  # to its end: nobody writes to it any more


def front(pid: int) -> bool:
    """Whether the process runs, and is a front."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return b"streamer.front" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


async def test_a_dead_engine_ends_every_stream_with_an_error_and_the_daemon_with_1() -> None:
    dead = threading.Event()

    def on_launch(launch: int, _rows: object) -> None:
        if dead.is_set():
            raise RuntimeError(f"launch {launch} finds a dead device, as ordered")

    async with fronted(backend=FakeBackend(8, Faults(on_launch))) as home, AsyncExitStack() as stack:
        made = await clients(stack, home.url, ["a", "b", "c", "d"])
        dead.set()
        await made[0].send(wire("more words"))
        for client in made:
            said = await asyncio.wait_for(listen(client), 30)
            assert [message["code"] for message in said if message["type"] == "error"] == ["internal"]
        assert await asyncio.wait_for(home.task, 30) == 1


async def test_a_row_that_fails_ends_its_stream_only() -> None:
    faults = Faults(on_row=lambda row: ValueError("as ordered") if row.pcm.max(initial=0) > 0.7 else None)
    async with fronted(backend=FakeBackend(8, faults)) as home:
        bad, good = await asyncio.gather(speak(home.url, "ab zzz"), speak(home.url, "fine"))
        assert [message["code"] for message in bad if message["type"] == "error"] == ["internal"]
        assert finals(good) == "fine"


async def test_rooms_are_refused_in_words() -> None:
    async with house("server.fronts=2") as home:  # each front is such a daemon
        for client in (home.client("room=demo"), home.viewer("demo")):
            async with client as socket:
                (error,) = await listen(socket)
                assert (error["type"], socket.close_code) == ("error", 1008)
                assert "server.fronts=2, rooms need 0 or 1" in error["message"]


def test_a_port_that_fronts_share_is_taken_for_everybody_else() -> None:
    with ExitStack() as stack:
        held = sockets.share(load(env={}, overrides=["server.port=0", "server.fronts=2"]).server)
        for own in (*held, *(fronts := [*sockets.again(held), *sockets.again(held)])):
            stack.enter_context(own)
        for own in fronts:
            own.listen()
        server = load(env={}, overrides=[f"server.port={held[0].getsockname()[1]}", "server.fronts=1"]).server
        for take in (sockets.bind, sockets.share):
            with pytest.raises(Refusal, match="a free port"):
                take(server)


def test_options_go_to_a_front_and_come_out_the_same() -> None:
    options = ["server.key=hunter2", "server.origins=a,b", "server.fronts=3", "rooms.public=true"]
    config = load(env={}, overrides=options)
    assert from_plain(json.loads(json.dumps(plain(config)))) == config


def numbers(text: str) -> dict[str, float]:
    """A /metrics, sample by sample."""
    lines = [line for line in text.splitlines() if line[0] != "#"]
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}


def numbers_of(part: list) -> dict[str, float]:
    """What a front told of its own, samples without labels."""
    return {sample: value for _, _, _, samples in part for sample, labels, value in samples if not labels}
