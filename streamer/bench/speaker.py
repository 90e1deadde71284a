"""One stream of a load: says its recording at the pace of speech, meets its fate, notes when what was said came back.

Knows nothing of other streams.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.config import SAMPLE_RATE
from streamer.bench.emission import Emission, last_sample
from streamer.bench.line import Line
from streamer.bench.notes import Ended, How, Notes
from streamer.bench.order import Order, Take

ANSWER_S = 30.0  # the longest that a stream waits for what it is owed
BEFORE_STALL_S = 1.0  # words that end so shortly before a stall are still on their way when it begins
CATCH_UP_S = 2.0  # what waited during a stall is heard again on time after this
_CLOSE, _FINALIZE = '{"type":"close"}', '{"type":"finalize"}'


class Speaker:
    """`run` it once; all that it saw is in the notes then. Moments there count from `zero`."""

    def __init__(self, order: Order, take: Take, pcm: NDArray[np.int16], notes: Notes, zero: float) -> None:
        self._order, self._take, self._notes, self._zero = order, take, notes, zero
        self._pcm = pcm
        self._line = Line(order.url, self._told, self._lost)
        self._emission = Emission()
        self._news = asyncio.Event()
        self._begun = 0.0  # when its first sample was spoken
        self._sent: list[float] = []  # when each message was
        self._asked: deque[float] = deque()  # finalizes without an answer
        self._closing = 0.0
        self._stall = (math.inf, math.inf)  # from when to when nothing was sent
        self._ready = self._closed = False
        self._cuts = self._segments = 0
        self._error = ""

    async def run(self) -> How:
        """The whole life; never raises but when it is cancelled."""
        how: How = "failed"
        self._notes.open += 1
        try:
            how = await self._live()
        except (OSError, TimeoutError) as error:
            self._error = self._error or f"{self._order.url.partition('?')[0]}: {error or type(error).__name__}"
        finally:
            self._notes.open -= 1
            self._line.drop()
        if how == "failed" and not self._ready and "at_capacity" in self._error:
            how = "refused"
        self._notes.ended.append(self._ended(how))
        return how

    async def _live(self) -> How:
        await self._line.open()
        if not await self._until(lambda: self._ready, "ready"):
            return "failed"
        if (spoken := await self._speak()) != "closed":
            return spoken
        self._closing = time.monotonic()
        self._line.tell(_CLOSE)
        return "closed" if await self._until(lambda: self._closed, "closed") and not self._error else "failed"

    async def _speak(self) -> How:
        """All messages, each when its last sample has been spoken; "closed" where it may close now."""
        order, fate = self._order, self._take.fate
        size, jitter, due = order.message_samples, self._take.jitter(), 0.0
        data = self._pcm.tobytes()
        messages = -(-len(self._pcm) // size)
        self._begun = time.monotonic()
        for number in range(1, messages + 1):
            spoken = self._begun + min(number * size, len(self._pcm)) / SAMPLE_RATE
            due = max(due, spoken + jitter.uniform(0, order.mishaps.jitter_ms / 1000))
            if self._stall[0] < math.inf:
                due = max(due, self._stall[1])
            await self._say(data[2 * (number - 1) * size : 2 * number * size], due)
            if self._error:
                return "failed"
            if number == fate.drop:
                self._line.drop()
                return "dropped"
            if number == fate.stall:
                self._stall = (self._sent[-1], self._sent[-1] + order.mishaps.stall_s)
                self._cuts += 1
            if number in fate.finalizes and not await self._finalize(number == messages):
                return "failed"
        return "closed"

    async def _say(self, data: bytes, due: float) -> None:
        if (rest := due - time.monotonic()) > 0:
            await asyncio.sleep(rest)
        self._line.say(data)
        now = time.monotonic()
        self._sent.append(now)
        self._notes.sent += 1
        self._notes.audio_s += len(data) / (2 * SAMPLE_RATE)
        self._notes.late.append(round(now - due, 5))

    async def _finalize(self, last: bool) -> bool:
        """Asked for; at the end waited for, too: what comes behind a close is answered by the end itself."""
        self._asked.append(time.monotonic())
        self._line.tell(_FINALIZE)
        return not last or await self._until(lambda: not self._asked, "the answer to a finalize")

    async def _until(self, there: Callable[[], bool], what: str) -> bool:
        """Whether it came."""
        deadline = time.monotonic() + ANSWER_S
        while not there() and not self._error:
            self._news.clear()
            try:
                async with asyncio.timeout(deadline - time.monotonic()):
                    await self._news.wait()
            except TimeoutError:
                self._error = f"nothing for {ANSWER_S:g} s, expected {what}"
        return there()

    # What comes back.

    def _told(self, message: bytes, now: float) -> None:
        said = json.loads(message)
        self._notes.received += 1
        match said["type"]:
            case "partial":
                self._partial(said, now)
            case "final":
                self._final(said, now)
            case "ready":
                self._ready = True
            case "closed":
                self._closed = True
                self._note(self._notes.closes, self._closing, now)
            case "error":
                self._error = f"{said['message']} ({said['code']})"
        self._news.set()

    def _lost(self, why: str) -> None:
        if not self._closed:
            self._error = self._error or why
        self._news.set()

    def _partial(self, said: dict[str, Any], now: float) -> None:
        end_s = self._emission.partial(said, now)
        message = -(-last_sample(end_s, self._order.chunk) // self._order.message_samples) - 1
        if message < len(self._sent):
            sent = self._sent[message]
            if not self._stall[0] <= sent <= self._stall[1] + CATCH_UP_S:
                self._note(self._notes.chunks, sent, now)

    def _final(self, said: dict[str, Any], now: float) -> None:
        self._segments = max(self._segments, said["segment"] + 1)
        if said["reason"] == "finalize" and self._asked:
            self._note(self._notes.finalizes, self._asked.popleft(), now)
            self._cuts += 1
        for word in self._emission.final(said, now):
            spoken = self._begun + word.end_s
            if not self._stall[0] - BEFORE_STALL_S <= spoken <= self._stall[1] + CATCH_UP_S:
                first, stable, final = (round(moment - spoken, 5) for moment in (word.first, word.stable, word.final))
                self._notes.words.append((round(spoken - self._zero, 3), first, stable, final))

    def _note(self, where: list[tuple[float, float]], since: float, now: float) -> None:
        where.append((round(since - self._zero, 3), round(now - since, 5)))

    def _ended(self, how: How) -> Ended:
        emission = self._emission
        owed = max(0, self._segments - emission.finals)
        if how in ("closed", "failed") and self._ready:
            owed += len(self._asked) + (not self._closed)
        words = emission.certain if how == "dropped" else emission.words
        return Ended(
            recording=self._take.recording,
            how=how,
            words=words,
            owed=owed,
            cuts=self._cuts,
            broken=emission.broken,
            error=self._error if how in ("failed", "refused") else "",
        )
