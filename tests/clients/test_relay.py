"""Claims about a capture that outlives its streams, against real daemons on the toy backend."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import numpy as np
import pytest

from clients import relay as relays
from clients.client import Client, ConnectionLost, Options, StreamError
from clients.relay import Away, Backlog, Lost, Relay, RelayEvent
from streamer.backends.fake import LEVELS
from streamer.protocols.events import Closed, Error, Final, Partial, Ready
from tests.served import served

RATE = 16000
OPTIONS = Options(latency_ms=80)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relays, "FIRST_RETRY_S", 0.01)


def tone(letter: str, seconds: float) -> bytes:
    """What the toy hears as this letter in every frame that is full of it."""
    level = (ord(letter) - ord("a") + 1) / LEVELS
    return np.full(int(seconds * RATE), round(level * 32767), "<i2").tobytes()


def quiet(seconds: float) -> bytes:
    return bytes(2 * int(seconds * RATE))


class Hearing:
    """A relay whose events are kept; streams as the test wants them."""

    def __init__(self, url: str, kept_s: float = 90.0, kind: type[Client] = Client) -> None:
        self.clients: list[Client] = []
        self.events: list[RelayEvent] = []
        self.refusals: list[Exception] = []  # what the next attempts meet
        self.relay = Relay(self._open, RATE, kept_s=kept_s)
        self._url, self._kind = url, kind
        self._news = asyncio.Condition()

    async def _open(self) -> Client:
        if self.refusals:
            raise self.refusals.pop(0)
        client = self._kind(self._url, OPTIONS)
        await client.connect()
        self.clients.append(client)
        return client

    async def hear(self) -> None:
        async for event in self.relay.events(await self._open()):
            async with self._news:
                self.events.append(event)
                self._news.notify_all()

    async def until(self, kind: type[RelayEvent], count: int = 1) -> RelayEvent:
        async with asyncio.timeout(30), self._news:
            await self._news.wait_for(lambda: len(self.of(kind)) >= count)
        return self.of(kind)[count - 1]

    def of(self, kind: type[RelayEvent]) -> list[RelayEvent]:
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def finals(self) -> list[Final]:
        return [event for event in self.events if isinstance(event, Final) and event.words]

    @property
    def words(self) -> list[str]:
        return [word.word for final in self.finals for word in final.words]

    @property
    def lost(self) -> list[tuple[float, float]]:
        return [(event.start, event.end) for event in self.events if isinstance(event, Lost)]


async def hearing(
    test: Callable[[Hearing], Awaitable[None]], *options: str, kept_s: float = 90.0, kind: type[Client] = Client
) -> Hearing:
    """Run the test beside a relay that hears, against a daemon with these options, until all is heard."""
    async with served("endpoint.silence_ms=400", *options) as url:
        found = Hearing(url, kept_s, kind)
        listening = asyncio.create_task(found.hear())
        try:
            await found.until(Ready)
            await test(found)
            async with asyncio.timeout(30):
                await listening
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
    return found


async def test_one_stream_says_what_a_client_would_be_told() -> None:
    async def test(found: Hearing) -> None:
        found.relay.feed(tone("e", 0.8))
        found.relay.feed(quiet(1.0))
        found.relay.finish()

    found = await hearing(test)
    assert found.relay.seconds == pytest.approx(1.8)
    assert found.of(Partial)
    assert found.events[-1] == Closed(audio_seconds=1.8)
    (word,) = found.words
    assert set(word[1:-1]) == {"e"}


async def test_a_line_that_breaks_in_a_word_loses_nothing_and_repeats_nothing() -> None:
    async def test(found: Hearing) -> None:
        relay = found.relay
        relay.feed(tone("e", 0.8) + quiet(1.0))
        await found.until(Final)
        relay.feed(tone("m", 0.8) + quiet(0.16) + tone("k", 0.8))
        while not (partials := [e for e in found.events if isinstance(e, Partial) and e.stable_words]):
            await found.until(Partial, len(found.of(Partial)) + 1)
        assert "m" in partials[-1].text
        await found.clients[0].abort()
        relay.feed(tone("k", 0.8) + quiet(1.0))
        await found.until(Ready, 2)
        relay.feed(tone("s", 0.8) + quiet(1.0))
        relay.finish()

    found = await hearing(test)
    assert not found.lost
    assert [max(set(word), key=word.count) for word in found.words] == ["e", "m", "k", "s"]
    assert found.finals[1].reason == "error"  # the settled words of a segment that nobody could finish
    k = next(word for final in found.finals for word in final.words if "k" in word.word)
    assert (k.start, k.end) == (pytest.approx(2.76, abs=0.17), pytest.approx(4.36, abs=0.17))
    assert [final.segment for final in found.finals] == sorted({final.segment for final in found.finals})
    closed = found.events[-1]
    assert isinstance(closed, Closed)
    assert closed.audio_seconds == pytest.approx(7.16, abs=0.01)


async def test_an_outage_longer_than_what_is_kept_is_lost_with_its_length() -> None:
    async def test(found: Hearing) -> None:
        relay = found.relay
        relay.feed(tone("e", 0.8) + quiet(1.0))
        await found.until(Final)
        found.refusals = [ConnectionRefusedError(111, "no"), ConnectionLost("hung up"), StreamError("at_capacity", "x")]
        await found.clients[0].abort()
        await found.until(Away)
        relay.feed(tone("m", 60.0))
        await found.until(Ready, 2)
        relay.feed(tone("s", 0.8) + quiet(1.0))
        relay.finish()

    found = await hearing(test, kept_s=20.0)
    ((start, end),) = found.lost
    assert start == pytest.approx(0.8, abs=0.1)
    assert end == pytest.approx(61.8 - 0.9 * 20.0, abs=0.01)
    reasons = [event.reason for event in found.events if isinstance(event, Away)]
    assert "the connection ended" in reasons[0]
    assert reasons[1:] == ["Connection refused", "hung up", "x (at_capacity)"]
    waits = [event.retry_s for event in found.events if isinstance(event, Away)]
    assert waits == sorted(waits)
    (last,) = [word for word in found.finals[-1].words if "s" in word.word]  # what was kept, and what came then
    assert last.start == end
    assert last.end == pytest.approx(62.6, abs=0.1)


async def test_a_capture_that_ends_during_an_outage_says_what_was_not_heard() -> None:
    async def test(found: Hearing) -> None:
        found.relay.feed(tone("e", 0.8) + quiet(1.0))
        await found.until(Final)
        found.refusals = [ConnectionRefusedError(111, "no")] * 1000
        await found.clients[0].abort()
        await found.until(Away)
        found.relay.feed(tone("m", 2.0))
        found.relay.finish()

    found = await hearing(test)
    ((start, end),) = found.lost
    assert start == pytest.approx(0.8, abs=0.1)
    assert end == pytest.approx(3.8)
    assert not found.of(Closed)


async def test_a_stream_that_the_daemon_ends_is_followed_by_another_from_there() -> None:
    async def test(found: Hearing) -> None:
        for count, letter in enumerate("ek", 1):
            found.relay.feed(tone(letter, 0.8) + quiet(0.8))
            await found.until(Final, count)
        await found.until(Ready, 2)
        found.relay.feed(tone("s", 0.8) + quiet(0.8))
        found.relay.finish()

    found = await hearing(test, "session.max_session_s=2.5")
    assert not found.lost
    assert [max(set(word), key=word.count) for word in found.words] == ["e", "k", "s"]
    assert [event.code for event in found.events if isinstance(event, Error)] == ["session_limit"]
    assert len(found.clients) == 2


async def test_a_refusal_for_good_ends_it() -> None:
    async def test(found: Hearing) -> None:
        found.refusals = [StreamError("unauthorized", "wrong key")]
        await found.clients[0].abort()

    with pytest.raises(StreamError, match="wrong key"):
        await hearing(test)


async def test_a_daemon_that_does_not_keep_up_is_left_for_a_new_stream() -> None:
    class Slow(Client):
        async def send(self, pcm: bytes) -> None:
            await super().send(pcm)
            await asyncio.sleep(0.1)

    async def test(found: Hearing) -> None:
        for _ in range(30):
            found.relay.feed(tone("e", 0.5))
            await asyncio.sleep(0)
        await found.until(Away)
        found.relay.finish()

    found = await hearing(test, kept_s=1.0, kind=Slow)
    assert found.lost
    assert "more slowly than it is spoken" in found.of(Away)[0].reason  # type: ignore[union-attr]


def test_a_backlog_keeps_the_last_samples_by_position() -> None:
    backlog = Backlog(4)
    for number in range(6):
        backlog.append(bytes([number, 0]))
    assert (backlog.start, backlog.end) == (2, 6)
    assert backlog.read(3, 2) == b"\x03\0\x04\0"
    assert backlog.read(6, 9) == b""
    with pytest.raises(AssertionError, match="got 1, expected 2 to 6"):
        backlog.read(1, 1)
