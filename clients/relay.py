"""A capture through as many streams as it takes: reconnects, resumes, marks what was lost. Knows no device, no screen.

What is fed is kept for a while; after an outage the next stream begins where the last settled word ended, so that
nothing is lost unless the outage was longer than that. Times of its events are on the capture's clock: 0 is the first
sample that was fed. Segments are numbered through.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import math
import os
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass

from clients.client import Client, ConnectionLost, StreamError
from streamer.protocols.events import Closed, Error, Final, Partial, Ready, Word

HEARTBEAT_S = 10.0  # what the client of a relay should ping with: a dead line is found within UNSURE_S
UNSURE_S = 40.0  # of what was sent last nobody knows whether it was heard, unless words came of it
KEPT_S = 90.0  # of the capture: so much can wait for a daemon to come back
CATCHING_UP = 0.9  # of it at most is said again to a daemon that is back
ROUNDING_S = 0.25  # what a resampler and the last frame may keep of a stream's end
MESSAGE_S = 1.0  # the longest message, where audio has piled up
FIRST_RETRY_S, LONGEST_RETRY_S = 0.5, 10.0
LIVED_S = 10.0  # a stream that lived so long was no failure: the next attempt comes soon
_HOPELESS = ("bad_request", "unauthorized")  # asking again would be answered alike
_SAMPLE_BYTES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Away:
    """No stream takes the capture; the next attempt comes in `retry_s` seconds."""

    reason: str
    retry_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """Audio of the capture that was never heard, in seconds of its clock."""

    start: float
    end: float
    reason: str


RelayEvent = Ready | Partial | Final | Closed | Error | Away | Lost


class Backlog:
    """The last samples of a capture, by their position in it. Mono, 16 bit."""

    def __init__(self, samples: int) -> None:
        self._most = samples * _SAMPLE_BYTES
        self._kept = bytearray()
        self.start = 0  # the oldest sample that is kept

    @property
    def end(self) -> int:
        """Samples appended so far."""
        return self.start + len(self._kept) // _SAMPLE_BYTES

    def append(self, pcm: bytes) -> None:
        """Whole samples; the oldest ones give way."""
        self._kept += pcm
        if (over := len(self._kept) - self._most) > 0:
            del self._kept[:over]
            self.start += over // _SAMPLE_BYTES

    def read(self, at: int, most: int) -> bytes:
        """At most so many samples from position `at`, which is kept still."""
        assert self.start <= at <= self.end, f"backlog: got {at}, expected {self.start} to {self.end}"
        first = (at - self.start) * _SAMPLE_BYTES
        return bytes(self._kept[first : first + most * _SAMPLE_BYTES])


class Relay:
    """`feed` and `finish` never wait; iterate over `events()` once, which ends when all is heard or given up."""

    def __init__(self, open_stream: Callable[[], Awaitable[Client]], rate: int, *, kept_s: float = KEPT_S) -> None:
        self._open_stream, self._rate = open_stream, rate
        self._kept_s, self._backlog = kept_s, Backlog(round(kept_s * rate))
        self._fed = asyncio.Event()
        self._finish = asyncio.Event()
        self._at = 0  # the next sample to send
        self._settled = 0  # all before it is in finals, or known to be heard
        self._offset_s = 0.0  # of the present stream's first sample
        self._segments = 0  # so far
        self._segments_before = 0  # in the streams before this one
        self._partial: Partial | None = None  # of the open segment
        self._closed_s: float | None = None  # where the present stream says that its audio ended
        self._whole = True  # its last final came of all that audio
        self._trouble = ""  # why the present stream ends
        self._retry_s = FIRST_RETRY_S

    @property
    def seconds(self) -> float:
        """What was fed so far."""
        return self._backlog.end / self._rate

    def feed(self, pcm: bytes) -> None:
        """More of the capture: mono, 16 bit little-endian, whole samples."""
        self._backlog.append(pcm)
        self._fed.set()

    def finish(self) -> None:
        """No more comes."""
        self._finish.set()
        self._fed.set()

    async def events(self, first: Client) -> AsyncGenerator[RelayEvent, None]:
        """What is said of the capture; the first stream is open already, others are opened when one has ended.

        Raises StreamError where the daemon refuses another one for good (a wrong key).
        """
        stream: Client | None = first
        while stream is not None:
            began = self._now()
            async with contextlib.aclosing(self._converse(stream)) as said:
                async for event in said:
                    yield event
            if self._now() - began >= LIVED_S:
                self._retry_s = FIRST_RETRY_S
            if self._finish.is_set() and self._closed_s is not None and self._closed_s >= self.seconds - ROUNDING_S:
                yield Closed(audio_seconds=self._closed_s)
                return
            stream, why = None, self._trouble or "the daemon ended the stream"
            if (rest := self._settle_rest()) is not None:
                yield rest
            while stream is None and not self._finish.is_set():
                yield Away(reason=why, retry_s=self._retry_s)
                stream, why = await self._again(why)
            heard_from = self._oldest() if stream is not None else self._backlog.end
            if heard_from > self._at:
                yield Lost(start=round(self._at / self._rate, 3), end=round(heard_from / self._rate, 3), reason=why)
                self._at = heard_from

    # One stream.

    async def _converse(self, stream: Client) -> AsyncGenerator[RelayEvent, None]:
        """Sends what is there and gives out what is said, until the stream's end, whatever that is."""
        self._offset_s, self._closed_s, self._whole, self._trouble = self._at / self._rate, None, True, ""
        sender = asyncio.create_task(self._send(stream))
        try:
            if stream.ready is not None:
                yield stream.ready
            async for event in stream:
                match event:
                    case Partial() | Final():
                        yield self._placed(event)
                    case Closed():
                        self._closed_s = round(self._offset_s + event.audio_seconds, 3)
                    case Error():
                        self._trouble = event.message
                        yield event
        except ConnectionLost as error:
            self._trouble = self._trouble or str(error)
        finally:
            sender.cancel()
            await asyncio.gather(sender, return_exceptions=True)
            await stream.abort()

    async def _send(self, stream: Client) -> None:
        most = round(MESSAGE_S * self._rate)
        with contextlib.suppress(ConnectionLost):  # whoever reads the events learns of it
            while True:
                self._fed.clear()
                if self._at < self._backlog.start:
                    self._trouble = "the daemon takes audio more slowly than it is spoken"
                    return await stream.abort()
                if piece := self._backlog.read(self._at, most):
                    await stream.send(piece)
                    self._at += len(piece) // _SAMPLE_BYTES
                elif self._finish.is_set():
                    await stream.close()
                    return
                else:
                    await self._fed.wait()

    def _placed(self, event: Partial | Final) -> Partial | Final:
        """The event on the capture's clock, its segment numbered through."""
        at, before = self._offset_s, self._segments_before
        words = tuple(dataclasses.replace(word, start=at + word.start, end=at + word.end) for word in event.words)
        self._segments = before + event.segment + 1
        if isinstance(event, Partial):
            moved = dataclasses.replace(event, segment=before + event.segment, start=at + event.start, words=words)
            self._partial = moved
            return moved
        self._partial, self._whole = None, event.reason != "error"
        self._settle(at + event.end)
        return dataclasses.replace(
            event, segment=before + event.segment, start=at + event.start, end=at + event.end, words=words
        )

    def _settle(self, end_s: float) -> None:
        self._settled = max(self._settled, math.ceil(end_s * self._rate))

    # Between two streams.

    def _settle_rest(self) -> Final | None:
        """Where the next stream begins; the stable words of a segment that nobody finishes are final as they are."""
        rest = None
        if self._closed_s is not None and self._whole:  # all until there is final
            self._settle(self._closed_s)
        else:
            if self._partial is not None and (words := self._partial.words[: self._partial.stable_words]):
                rest = _final(self._partial, words)
                self._settle(rest.end)
            self._settled = max(self._settled, self._at - round(UNSURE_S * self._rate))
        self._partial = None
        self._segments_before = self._segments
        self._at = min(self._settled, self._backlog.end)
        return rest

    def _oldest(self) -> int:
        """Where a stream can begin at the earliest, with room left for what comes while it catches up."""
        return max(self._backlog.start, self._backlog.end - round(CATCHING_UP * self._kept_s * self._rate))

    async def _again(self, why: str) -> tuple[Client | None, str]:
        """One attempt after a pause: the stream, or None and why not. The end of the capture ends the pause."""
        wait_s, self._retry_s = self._retry_s, min(2 * self._retry_s, LONGEST_RETRY_S)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._finish.wait()
            return None, why
        try:
            return await self._open_stream(), why
        except OSError as error:
            return None, os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
        except ConnectionLost as error:
            return None, str(error)
        except StreamError as error:
            if error.code in _HOPELESS:
                raise
            return None, str(error)

    def _now(self) -> float:
        return asyncio.get_running_loop().time()


def _final(partial: Partial, words: tuple[Word, ...]) -> Final:
    return Final(
        channel=partial.channel,
        segment=partial.segment,
        start=partial.start,
        end=words[-1].end,
        text=" ".join(word.word for word in words),
        words=words,
        reason="error",
    )
