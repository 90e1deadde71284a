"""The engine over a socket: the engine's methods, answers, ends; and fronts that say what they must not."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
import pytest

from streamer.actions import Heard
from streamer.backends.fake import FakeBackend, Faults, dead_from, spell
from streamer.engine.exchange import Exchange, Line
from streamer.engine.loop import Engine, EngineSettings, Failed, Full, Result
from streamer.engine.remote import GONE, Remote
from streamer.engine.ring import Ring, create
from streamer.engine.wire import Kind, Verb, ask, write_heard, write_note, write_work
from tests.streamer.test_engine import FREE, NOTHING, SILENCE

SECOND = np.zeros(16_000, np.float32)


class Front:
    """A Remote and what it was told."""

    def __init__(self, remote: Remote, line: Line) -> None:
        self.remote, self.line = remote, line
        self.results: list[Result] = []
        self.notes: list[dict] = []
        remote.deliver, remote.noted = self.results.extend, self.notes.append

    def of(self, stream: str) -> list[Heard | Failed]:
        return [result.heard for result in self.results if result.stream_id == stream]

    def ended(self, stream: str) -> bool:
        return any(isinstance(heard, Failed) or heard.finished for heard in self.of(stream))

    def text(self, stream: str) -> str:
        heard = [h for h in self.of(stream) if isinstance(h, Heard) and h.mark is None]
        return FakeBackend(1).tokenizer.decode([token.id for h in heard for token in h.tokens]).strip()

    async def finished(self, *streams: str) -> None:
        await so(lambda: all(map(self.ended, streams)))


async def so(true: object, timeout_s: float = 30.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not true():  # type: ignore[operator]
            await asyncio.sleep(0.002)


class Office:
    """An engine, its exchange, and as many fronts as a test wants."""

    def __init__(self, backend: FakeBackend) -> None:
        self.said: list[tuple[Line, dict]] = []
        self.exchange = Exchange(lambda line, note: self.said.append((line, note)))
        self.engine = Engine(backend, EngineSettings(max_load=100), self.exchange.deliver)
        self.exchange.engine, self.exchange.loop = self.engine, asyncio.get_running_loop()

    async def front(self, *, ring: bool = False) -> Front:
        here, there = socket.socketpair()
        samples = create() if ring else None
        ends = [None, None] if samples is None else [Ring(samples), Ring(samples)]
        if samples is not None:
            os.close(samples)
        line = await self.exchange.connect(here, ends[0])
        remote = Remote(lambda _: None, lambda _: None, time.monotonic)
        front = Front(remote, line)
        await remote.connect(there, ends[1])
        return front

    async def raw(self) -> tuple[Line, asyncio.StreamReader, asyncio.StreamWriter]:
        """A front that is none of ours."""
        here, there = socket.socketpair()
        line = await self.exchange.connect(here)
        return line, *await asyncio.open_unix_connection(sock=there)


@asynccontextmanager
async def office(backend: FakeBackend | None = None) -> AsyncIterator[Office]:
    made = Office(backend or FakeBackend(16, contiguous=False, depth=2))
    made.engine.start(FREE)
    try:
        yield made
        if made.engine.failure is None:
            made.engine.check()
    finally:
        assert await asyncio.to_thread(made.engine.stop)
        for line in list(made.exchange.lines):
            line._transport.abort()
        await so(lambda: not made.exchange.lines)


async def test_streams_of_two_fronts_hear_their_own_words_whatever_they_do() -> None:
    rng = random.Random(3)
    async with office() as home:
        fronts = [await home.front(), await home.front(ring=True)]
        texts = {f"{i}/0": f"words of {'abcdefghijkl'[i]} here" for i in range(12)}  # both fronts use the same names
        said = {(front, name): text + "ab"[at] for at, front in enumerate(fronts) for name, text in texts.items()}
        left = {key: spell(text) for key, text in said.items()}
        marks = dict.fromkeys(left, 0)
        waiting = list(left)
        open_: list[tuple[Front, str]] = []
        while waiting or open_:
            if waiting and (not open_ or rng.random() < 0.2):
                front, name = waiting[-1]
                try:
                    await front.remote.admit(name, rng.choice([1, 2, 7]))
                    open_.append(waiting.pop())
                except Full:
                    await asyncio.sleep(0.002)
                    continue
            front, name = open_[rng.randrange(len(open_))]
            cut = rng.randrange(1, 5000)
            front.remote.feed(name, left[front, name][:cut])
            left[front, name] = left[front, name][cut:]
            if rng.random() < 0.2:
                marks[front, name] += 1
                front.remote.fork(name, marks[front, name], SILENCE)
            if not len(left[front, name]):
                front.remote.finish(name, SILENCE)
                open_.remove((front, name))
            await asyncio.sleep(0)
        for front in fronts:
            await front.finished(*texts)
            for name in texts:
                assert front.text(name) == said[front, name]
                heard = [one for one in front.of(name) if isinstance(one, Heard)]
                assert [one.mark for one in heard if one.mark is not None] == list(range(1, marks[front, name] + 1))
        assert home.exchange.owners == {}


async def test_admission_is_the_engines_and_its_reason_comes_along() -> None:
    async with office(FakeBackend(3)) as home:
        front = await home.front()
        assert await front.remote.vacancy(1) is None
        await front.remote.admit("a", 1)
        await front.remote.admit("b", 1)
        with pytest.raises(Full, match="2 streams are heard now, expected fewer: all slots are taken"):
            await front.remote.admit("c", 1)
        assert "2 streams" in str(await front.remote.vacancy(1))
        front.remote.drop("a")
        await front.remote.admit("c", 1)


async def test_a_stream_whose_client_left_before_the_answer_is_not_left_open() -> None:
    async with office() as home:
        front = await home.front()
        asking = asyncio.create_task(front.remote.admit("a", 1))
        await asyncio.sleep(0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await front.remote.admit("b", 1)
        await so(lambda: len(home.exchange.owners) == 1)


async def test_audio_waits_until_something_was_heard_of_it() -> None:
    gate = threading.Event()
    backend = FakeBackend(4, Faults(lambda launch, _rows: gate.wait(30.0) and None if launch == 0 else None))
    async with office(backend) as home:
        front = await home.front()
        await front.remote.admit("a", 1)
        front.remote.feed("a", SECOND)
        assert front.remote.waiting_seconds("a") == 1.0
        gate.set()
        await so(lambda: front.remote.waiting_seconds("a") <= 0.08)
        assert front.remote.waiting_seconds("nobody") == 0.0
        front.remote.finish("a", NOTHING)
        await front.finished("a")
        assert front.remote.waiting_seconds("a") == 0.0


async def test_a_front_that_hangs_up_loses_its_streams_and_nobody_else_notices() -> None:
    async with office() as home:
        gone, stays = await home.front(), await home.front()
        for front in (gone, stays):
            await front.remote.admit("a", 1)
            front.remote.feed("a", spell("stays here")[:4000])
        gone.remote._transport.abort()
        await so(lambda: len(home.exchange.owners) == 1)
        stays.remote.feed("a", spell("stays here")[4000:])
        stays.remote.finish("a", SILENCE)
        await stays.finished("a")
        assert stays.text("a") == "stays here"


async def test_when_the_engines_process_ends_every_stream_fails_and_no_new_one_comes_in() -> None:
    async with office() as home:
        front = await home.front()
        await front.remote.admit("a", 1)
        asked = [asyncio.create_task(front.remote.vacancy(1))]
        await asyncio.sleep(0)
        front.line._transport.abort()
        await front.finished("a")
        assert front.of("a")[-1] == Failed("internal", GONE)
        await asyncio.wait(asked, timeout=30)
        assert all(task.done() for task in asked)
        with pytest.raises(Full, match="has ended"):
            await front.remote.admit("b", 1)
        for verb in (front.remote.feed, front.remote.finish):
            verb("a", SILENCE)
        assert front.remote.failure == GONE


async def test_a_dead_engine_is_said_to_every_front() -> None:
    async with office(FakeBackend(8, dead_from(0))) as home:
        talks, idle = await home.front(), await home.front()
        await talks.remote.admit("a", 1)
        await idle.remote.admit("b", 1)
        talks.remote.feed("a", SECOND)
        await talks.finished("a")
        await idle.finished("b")
        assert isinstance(talks.of("a")[-1], Failed)
        assert "the engine died" in str(idle.remote.failure)


ROW = np.ones(10, np.float32)


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        write_heard([]),
        write_work(1.0, [ask(Verb.FEED, 1, 11)], [ROW]),
        write_work(1.0, [ask(Verb.OPEN, 1, 3, -1)], []),
        write_work(1.0, [ask(Verb.OPEN, 1, 1, -1), ask(Verb.OPEN, 1, 1, -1)], []),
        write_work(1.0, [ask(Verb.OPEN, 1, 1, -1), ask(Verb.FINISH, 1, 0), ask(Verb.FEED, 1, 10)], [ROW]),
        write_note("hello")[:-1] + b"{",
    ],
    ids=["http", "heard", "samples", "chunk", "twice", "after-its-end", "note"],
)
async def test_a_front_that_says_what_it_must_not_ends_alone(data: bytes) -> None:
    async with office() as home:
        good = await home.front()
        await good.remote.admit("a", 1)
        good.remote.feed("a", spell("fine words")[:3000])
        line, reader, writer = await home.raw()
        writer.write(data)
        async with asyncio.timeout(30):
            while await reader.read(1000):
                pass
        await so(line.gone.is_set)
        good.remote.feed("a", spell("fine words")[3000:])
        good.remote.finish("a", SILENCE)
        await good.finished("a")
        assert good.text("a") == "fine words"
        assert list(home.exchange.owners) == []
        writer.close()


async def test_a_stream_that_is_opened_wrongly_ends_with_an_error() -> None:
    async with office() as home:
        good, bad = await home.front(), await home.front()
        await good.remote.admit("a", 1)
        await bad.remote.admit("a", 1, 99)  # the toy knows no languages
        bad.remote.feed("a", SECOND)
        await bad.finished("a")
        assert isinstance(bad.of("a")[-1], Failed)
        good.remote.finish("a", SECOND)
        await good.finished("a")


async def test_asks_for_streams_that_are_none_are_left_alone() -> None:
    async with office() as home:
        line, reader, writer = await home.raw()
        strange = [ask(Verb.FEED, 7, 10), ask(Verb.FORK, 7, 10, 1), ask(Verb.FINISH, 7, 10), ask(Verb.DROP, 7)]
        writer.write(write_work(1.0, [*strange, ask(Verb.ROOM, 5, 1)], [ROW] * 3))
        head = await reader.readexactly(8)
        assert head[4] == Kind.NOTE
        assert b'"reason": null' in await reader.readexactly(int.from_bytes(head[:4], "little"))
        assert not line.gone.is_set()
        writer.close()


async def test_a_front_that_reads_nothing_is_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamer.engine.exchange.MOST_UNREAD_BYTES", 10_000)
    async with office() as home:
        line, _, writer = await home.raw()
        writer.transport.pause_reading()
        async with asyncio.timeout(30):
            while not line.gone.is_set():
                line.note("more", text="x" * 5000)
                await asyncio.sleep(0)
        writer.close()
