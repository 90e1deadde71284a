"""Load through the WebSocket by a process of its own: `python -m streamer.gpu_check.generator` reads its order as JSON.

Knows nothing of the daemon but its address.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from models.config import FRAME_S
from streamer.gpu_check.lean import BINARY, Lean, frame
from streamer.gpu_check.seats import Load, Seat, Wheel

REST_S = 0.001
FIRST_OWN = 2
NEAR = 0.02  # frames: times are told in milliseconds
OPENING = 64  # connections that are made at the same time
FINISH_S = 10.0  # that the last finals may take


def said_s(end: float, chunk: int) -> float:
    """When a stream had sent the chunk that holds the word that ends there, in seconds from its first sample on.

    The newest word ends where the audio that was heard does, which is a part of a frame.
    """
    return math.ceil(math.ceil(end / FRAME_S - NEAR) / chunk) * chunk * FRAME_S


class Generator:
    """Some of a load's seats."""

    def __init__(self, address: tuple[str, int], path: str, load: Load, audio: np.ndarray[Any, Any]) -> None:
        self._address, self._path, self._load, self._audio = address, path, load, audio
        self._luck = random.Random(load.part + 1)
        self._own = (
            f"127.0.0.{FIRST_OWN + load.part}"  # an address has too few ports for all, those just closed included
        )
        self._gate = asyncio.Semaphore(OPENING)
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing: dict[Lean, float] = {}
        self.lateness: list[float] = []
        self.finals: list[float] = []
        self.lags: list[float] = []
        self.errors = 0
        self.kinds: Counter[str] = Counter()
        self.from_s = math.inf

    async def run(self) -> dict[str, Any]:
        """All of it; what was seen."""
        load = self._load
        seats = load.seats(len(self._audio))
        if not seats:
            return self.seen(0.0)
        wheel = Wheel(seats, load.chunk_s)
        cpu, begin = time.process_time(), time.monotonic()
        self.from_s = begin + load.ramp_s
        while (now := time.monotonic() - begin) < load.ramp_s + load.seconds:
            for due, turn in wheel.due(now):
                self.lags.append(now - due)
                for seat in turn:
                    self._turn(seat)
            await asyncio.sleep(max(REST_S, min(0.02, wheel.next_s - (time.monotonic() - begin))))
        cpu = time.process_time() - cpu
        await self._end(seats)
        return self.seen(cpu / (load.ramp_s + load.seconds))

    def seen(self, cpu: float) -> dict[str, Any]:
        return {
            "lateness": self.lateness, "finals": self.finals, "lags": self.lags, "errors": self.errors, "cpu": cpu,
            "messages": self.kinds,
        }  # fmt: skip

    def _turn(self, seat: Seat) -> None:
        """A message, if there is a stream that is ready; where there is none, one is opened."""
        link = seat.link
        if not isinstance(link, Lean):
            if link is None:
                seat.link = "opening"
                self._spawn(self._open(seat))
            return
        if not link.ready:
            return
        if seat.left <= 0:
            self._closing[link] = time.monotonic()
            link.close()
            seat.link, seat.left, seat.stream = None, self._load.messages(self._luck), seat.stream + 1
            return
        if not link.begun_s:
            link.begun_s = self._said(seat) - self._load.chunk_s
        samples = self._load.samples
        seat.at %= len(self._audio) - samples
        link.say(frame(BINARY, self._audio[seat.at : seat.at + samples].tobytes()))
        seat.at += samples
        seat.left -= 1

    def _said(self, seat: Seat) -> float:
        """When the seat's newest message was due."""
        now, period_s = time.monotonic() - self.from_s + self._load.ramp_s, self._load.chunk_s
        return time.monotonic() - (now - seat.phase) % period_s

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _open(self, seat: Seat) -> None:
        async with self._gate:
            try:
                _, link = await asyncio.get_running_loop().create_connection(
                    lambda: Lean(self._path, self._told), *self._address, local_addr=(self._own, 0)
                )
            except OSError:
                self.errors += 1
                seat.link = None
                return
        seat.link = link

    def _told(self, link: Lean, kind: str, end: float) -> None:
        now = time.monotonic()
        self.kinds[kind] += 1
        if kind == "partial":
            said = link.begun_s + said_s(end, self._load.chunk)
            if said >= self.from_s:
                self.lateness.append(now - said)
        elif kind == "closed":
            asked = self._closing.pop(link, None)
            if asked is not None and asked >= self.from_s:
                self.finals.append(now - asked)
        elif kind in ("error", "refused", "lost"):
            self.errors += 1
            self._closing.pop(link, None)

    async def _end(self, seats: list[Seat]) -> None:
        """Those that talk yet are dropped; those that have closed may hear their end."""
        for task in list(self._tasks):
            task.cancel()
        for seat in seats:
            if isinstance(seat.link, Lean):
                seat.link.drop()
        until = time.monotonic() + FINISH_S
        while self._closing and time.monotonic() < until:
            await asyncio.sleep(0.05)
        now = time.monotonic()
        for link, asked in list(self._closing.items()):
            link.drop()
            if asked >= self.from_s:
                self.finals.append(now - asked)


def main() -> None:
    """Read the order from standard input, write what was seen into the file that it names."""
    order = json.loads(sys.stdin.read())
    audio = np.load(order["audio"], mmap_mode="r")
    load = Load(**{**order["load"], "utterance_s": tuple(order["load"]["utterance_s"])})
    address = str(order["host"]), int(order["port"])

    async def work() -> dict[str, Any]:
        return await Generator(address, order["path"], load, audio).run()

    seen = json.dumps(_runner()(work()))
    Path(order["answer"]).write_text(seen, "utf-8")


def _runner() -> Callable[..., Any]:
    """uvloop's where it is installed."""
    try:
        import uvloop
    except ModuleNotFoundError:
        return asyncio.run
    return uvloop.run


if __name__ == "__main__":
    main()
