"""The engine's process and the fronts before it: starts them, replaces those that end, asks all for their numbers.

Knows no clients. A front's end costs its own streams; the engine's end is the end of all.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gc
import itertools
import logging
import os
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from streamer import sockets, tally
from streamer.backends.base import Backend
from streamer.config import Config, plain
from streamer.engine.exchange import Exchange, Line
from streamer.engine.lanes import Lanes, Step
from streamer.engine.ring import Ring, create
from streamer.metrics import Metrics
from streamer.offer import engine_settings, offer
from streamer.pages import Pages
from streamer.signals import Signals

log = logging.getLogger(__name__)

TICK_S = 0.1  # how often the engine's step is looked at
GRACE_S = 5.0  # beyond server.shutdown_s, before a front that does not end is killed
MOST_ENDS, ENDS_S = 5, 60.0  # so many ends of fronts within so long: something is wrong with all of them
NUMBERS_S = 1.0  # a front that has not told its numbers by then counts as it last told
SWITCH_S = 0.0002  # so long may one thread keep the others from running; Python's own choice is 5 ms


class Fronts:
    """`start`, then `run` until it is told to stop."""

    def __init__(self, config: Config, backend: Backend, clock: Callable[[], float] = time.monotonic) -> None:
        self.config, self.backend, self.clock = config, backend, clock
        offer(config, backend.config)  # what the model does not have is refused here, once
        self.metrics = Metrics(*[lambda: 0.0] * 3)
        self.exchange = Exchange(self._noted)
        self.engine = Lanes(backend, engine_settings(config), self.exchange.deliver, self._count, clock)
        self.exchange.engine = self.engine
        self.metrics.room(backend.config.latencies_ms, self.engine.fits)
        self.port = 0
        self.processes: dict[int, asyncio.subprocess.Process] = {}  # by place, 0 to server.fronts - 1
        self._stop = asyncio.Event()
        self._stopping = False
        self._code = 0
        self._ends: deque[float] = deque(maxlen=MOST_ENDS)
        self._tending: list[asyncio.Task[None]] = []
        self._ready: set[Line] = set()
        self._rounds = itertools.count(1)
        self._telling: dict[int, set[Line]] = {}  # by round: who has not told its numbers yet
        self._numbers: dict[Line, list[tally.Family]] = {}  # as each front last told them
        self._left: list[tally.Family] = []  # counts of fronts that have ended
        self._answering: set[asyncio.Task[None]] = set()

    async def start(self, bound: Sequence[socket.socket]) -> None:
        """Measure the engine, start the fronts on the port that `bound` holds, wait until they listen."""
        self._bound = bound
        self.port = bound[0].getsockname()[1]
        sockets.tls(self.config.server)
        sockets.warn(self.config.server)
        self.exchange.loop = asyncio.get_running_loop()
        await asyncio.to_thread(self.engine.start)
        count = self.config.server.fronts
        self._tending = [asyncio.create_task(self._tend(place)) for place in range(count)]
        while len(self._ready) < count and not self._stop.is_set():
            await asyncio.sleep(TICK_S / 10)
            self._watch()
        if not self._stop.is_set():
            sockets.announce(self.config.server, self.port, pages=Pages().there)

    async def run(self) -> int:
        """Until SIGTERM, SIGINT, the engine's death or that of too many fronts; the exit code."""
        with Signals(asyncio.get_running_loop(), self.stop):
            while not self._stop.is_set():
                self._watch()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stop.wait(), TICK_S)
            return await self._end()

    def stop(self) -> None:
        """Let the fronts finish what is in flight, and end."""
        self._stop.set()

    def _watch(self) -> None:
        for task in self._tending:
            if task.done() and (fault := task.exception()) is not None:
                log.critical("the fronts cannot be kept up", exc_info=fault)
                self._code = 1
                self._stop.set()
        self.engine.watch(self.config.engine.step_timeout_s)
        if self.engine.failure is not None:
            log.critical("the engine is dead: %s", self.engine.failure)
            self._code = 1
            self._stop.set()

    async def _end(self) -> int:
        """Every front gives its streams their finals; then the engine and the backend."""
        self._stopping = True
        log.info("stopping: %d fronts to finish", len(self.processes))
        for line in list(self.exchange.lines):
            line.note("stop")
        _, late = await asyncio.wait(self._tending, timeout=self.config.server.shutdown_s + GRACE_S)
        for process in self.processes.values():
            log.warning("front %d did not end in time", process.pid)
            process.kill()
        if late:
            await asyncio.wait(late)
        ended = await asyncio.to_thread(self.engine.stop)
        if ended:
            self.backend.close()
        for own in self._bound:
            own.close()
        log.info("stopped")
        return self._code

    # Processes.

    async def _tend(self, place: int) -> None:
        """A front in this place, and another one when it ends."""
        while not self._stopping:
            line, process = await self._spawn()
            self.processes[place] = process
            if self._stopping:
                line.note("stop")
            code = await _ended(process, line)
            del self.processes[place]
            await line.gone.wait()
            self._bury(line)
            if self._stopping or self.engine.failure is not None:
                return
            log.error("front %d ended with %d, its streams with it; another one starts", process.pid, code)
            self._ends.append(self.clock())
            if len(self._ends) == MOST_ENDS and self._ends[-1] - self._ends[0] < ENDS_S:
                log.critical("%d fronts ended within %g s", MOST_ENDS, ENDS_S)
                self._code = 1
                self._stop.set()
                return

    async def _spawn(self) -> tuple[Line, asyncio.subprocess.Process]:
        here, there = socket.socketpair()
        own = [there, *sockets.again(self._bound)]
        samples = create()
        files = [each.fileno() for each in own]
        ring = None if samples is None else Ring(samples)
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "streamer.front", str(samples), *map(str, files),
                pass_fds=[*files, *filter(None, [samples])], stdin=asyncio.subprocess.DEVNULL, env=_environment(),
            )  # fmt: skip
        finally:
            for each in own:
                each.close()
            if samples is not None:
                os.close(samples)
        line = await self.exchange.connect(here, ring)
        pieces = base64.b64encode(self.backend.tokenizer.to_bytes()).decode()
        line.note(
            "hello",
            config=plain(self.config),
            model=self.backend.config.to_dict(),
            tokenizer=self.backend.tokenizer.kind,
            pieces=pieces,
            fits=[list(room) for room in self.engine.fits().items()],
        )
        return line, process

    def _bury(self, line: Line) -> None:
        self._ready.discard(line)
        self._left = tally.add([self._left, tally.lasting(self._numbers.pop(line, []))])
        for waiting in self._telling.values():
            waiting.discard(line)

    # Numbers.

    def _count(self, step: Step) -> None:
        """On the engine's thread."""
        self.metrics.stepped(step.chunk, step.seconds, step.waits_s, step.late_s)

    def _noted(self, line: Line, note: dict[str, Any]) -> None:
        match note:
            case {"kind": "listening"}:
                self._ready.add(line)
            case {"kind": "told", "round": int(number), "numbers": list(numbers)}:
                self._numbers[line] = numbers
                self._telling.get(number, set()).discard(line)
            case {"kind": "numbers", "question": int(question)}:
                task = asyncio.create_task(self._answer(line, question))
                self._answering.add(task)
                task.add_done_callback(self._answering.discard)

    async def _answer(self, line: Line, question: int) -> None:
        """Ask every front, wait a little, and add up."""
        number = next(self._rounds)
        waiting = self._telling[number] = set(self._ready)
        for front in list(waiting):
            front.note("tell", round=number)
        until = self.clock() + NUMBERS_S
        while waiting and self.clock() < until:
            await asyncio.sleep(TICK_S / 20)
        del self._telling[number]
        own = tally.read(self.metrics.registry)
        text = tally.exposition(tally.add([own, *self._numbers.values(), self._left]))
        line.note("numbers", question=question, text=text.decode())


async def _ended(process: asyncio.subprocess.Process, line: Line) -> int:
    """The exit code of a front. One that was hung up on ends by itself, or hangs, and then it is killed."""
    ends = [asyncio.ensure_future(process.wait()), asyncio.ensure_future(line.gone.wait())]
    try:
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait(ends[:1], timeout=GRACE_S)
        if not ends[0].done():
            log.warning("front %d hangs", process.pid)
            process.kill()
        return await process.wait()
    finally:
        for end in ends:
            end.cancel()


def calm() -> None:
    """Nothing of Python's own holds up the engine's thread for long: not the search for garbage, not other threads."""
    gc.collect()
    gc.freeze()  # the model's objects stay: they need not be looked through again and again
    sys.setswitchinterval(SWITCH_S)


def _environment() -> dict[str, str]:
    """Ours, and where our modules are."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
