"""Engines side by side over one model, a thread each, and who is in which. Knows no audio, words or protocols.

On a CPU two steps of one thread take less than one step of two, whose threads wait for each other at each of thousands
of nodes. A stream is in one engine from its start to its end; admission looks at all of them together.
"""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from models.config import FRAME_S
from streamer.backends.base import Backend
from streamer.engine.capacity import Admission, Costs
from streamer.engine.costs import keep_busy
from streamer.engine.kept import known
from streamer.engine.loop import Engine
from streamer.engine.results import EngineSettings, Failed, Full, Result, Step
from streamer.engine.stream import Pcm

__all__ = ["EngineSettings", "Failed", "Full", "Lanes", "Result", "Step"]

log = logging.getLogger(__name__)


@dataclass(eq=False)
class Lane:
    """One of the engines, and how many streams it has by their chunk's length."""

    engine: Engine
    counts: Counter[int] = field(default_factory=Counter)


class Lanes:
    """The methods of an Engine. `failure` says why one died, which ends all of them."""

    def __init__(
        self,
        backend: Backend,
        settings: EngineSettings,
        deliver: Callable[[list[Result]], None],
        observe: Callable[[Step], None] = lambda _step: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.backend = backend
        self._deliver, self._observe, self._clock = deliver, observe, clock
        self._lock = threading.Lock()  # of what follows, and of whoever observes: engines have a thread each
        backends = backend.lanes(settings.lanes)
        settings = replace(settings, lanes=len(backends))
        self.settings = settings
        memory = settings.memory_bytes
        own = replace(settings, memory_bytes=None if memory is None else memory // len(backends))
        self.lanes = [Lane(Engine(part, own, self._heard, self._stepped, clock)) for part in backends]
        self._of: dict[str, tuple[Lane, int]] = {}  # by stream: where it is, its chunk's length

    @property
    def failure(self) -> str | None:
        return next((lane.engine.failure for lane in self.lanes if lane.engine.failure is not None), None)

    def start(self, costs: Costs | None = None) -> None:
        """Measure what steps cost while all engines work, unless it is known, and begin."""
        engines = [lane.engine for lane in self.lanes]
        costs = costs or costs_of([engine.backend for engine in engines], self.settings, self._clock)
        most = sum(engine.most_streams() for engine in engines)
        self._admission = Admission(costs, self.settings, most, len(engines))
        for engine in engines:
            engine.start(costs, self._admission)
        log.info("streams that fit: %s", ", ".join(f"{n} at {ms} ms" for ms, n in self.fits().items()))

    def fits(self) -> dict[int, int]:
        """How many streams are kept on time if all have the same latency, by that latency in milliseconds."""
        return {round(1000 * FRAME_S * c): self._admission.fits(c) for c in sorted(self.backend.config.chunks)}

    def open(self, stream_id: str, chunk: int, prompt: int | None = None) -> None:
        """A slot for a new stream where there is least to do; raises Full with the reason where there is none."""
        full: Full | None = None
        for lane in self._by_load(chunk):
            try:
                lane.engine.open(stream_id, chunk, prompt)
            except Full as error:
                full = full or error
                continue
            with self._lock:
                lane.counts[chunk] += 1
                self._of[stream_id] = lane, chunk
            return
        assert full is not None, "engines: got none, expected one at least"
        raise full

    def room(self, chunk: int) -> str | None:
        """Why a stream of `chunk` would be refused now; None if it would not."""
        reasons = [lane.engine.room(chunk) for lane in self._by_load(chunk)]
        return None if None in reasons else reasons[0]

    async def admit(self, stream_id: str, chunk: int, prompt: int | None = None) -> None:
        """`open`, for those whose engine may be in another process and answers by and by."""
        self.open(stream_id, chunk, prompt)

    async def vacancy(self, chunk: int) -> str | None:
        """`room`, for the same."""
        return self.room(chunk)

    def feed(self, stream_id: str, pcm: Pcm) -> None:
        """More of the stream's audio, 16 kHz. Streams that have ended are left alone, here and below."""
        if (found := self._of.get(stream_id)) is not None:
            found[0].engine.feed(stream_id, pcm)

    def feed_all(self, pieces: Iterable[tuple[str, Pcm]], came: float = math.inf) -> None:
        """`feed` for many streams in one go. It came at `came`, seconds of the engine's clock, or now."""
        if len(self.lanes) == 1:
            self.lanes[0].engine.feed_all(pieces, came)
            return
        parts: dict[Lane, list[tuple[str, Pcm]]] = {}
        for stream_id, pcm in pieces:
            if (found := self._of.get(stream_id)) is not None:
                parts.setdefault(found[0], []).append((stream_id, pcm))
        for lane, part in parts.items():
            lane.engine.feed_all(part, came)

    def fork(self, stream_id: str, mark: int, pcm: Pcm) -> None:
        """A copy hears all that was fed, then `pcm`; its tokens come as one Heard with this mark."""
        if (found := self._of.get(stream_id)) is not None:
            found[0].engine.fork(stream_id, mark, pcm)

    def finish(self, stream_id: str, pcm: Pcm) -> None:
        """`pcm` is the stream's end; a Heard with `finished` follows."""
        if (found := self._of.get(stream_id)) is not None:
            found[0].engine.finish(stream_id, pcm)

    def drop(self, stream_id: str) -> None:
        """Forget the stream at once."""
        if (found := self._of.get(stream_id)) is not None:
            found[0].engine.drop(stream_id)
            self._gone(stream_id)

    def waiting_seconds(self, stream_id: str) -> float:
        """Audio of the stream that no step has taken yet; 0 for a stream that has ended."""
        found = self._of.get(stream_id)
        return found[0].engine.waiting_seconds(stream_id) if found else 0.0

    def watch(self, longest_s: float, serving_s: float | None = None) -> None:
        """To be called now and then: a step that takes longer than `longest_s` is the end of all.

        `serving_s`: processor seconds, so far, of the thread that serves the streams' sockets; admission counts them.
        """
        if serving_s is not None:
            self._admission.served(self._clock(), serving_s)
        if self.failure is None and self.stuck_seconds() > longest_s:
            self.die(f"a step took longer than {longest_s:g} s, expected an end")

    def stuck_seconds(self) -> float:
        """How long the longest of the present steps has been running; 0 between steps."""
        return max(lane.engine.stuck_seconds() for lane in self.lanes)

    def die(self, reason: str) -> None:
        """Every stream fails and no new one comes in."""
        for lane in self.lanes:
            lane.engine.die(reason)

    def stop(self, timeout_s: float = 5.0) -> bool:
        """End the threads after their steps; streams that are left hear no more. False if one did not end in time."""
        return all([lane.engine.stop(timeout_s) for lane in self.lanes])

    def check(self) -> None:
        """Every stream is in one engine, and each engine's slots are in order."""
        for lane in self.lanes:
            lane.engine.check()
        count = sum(lane.counts.total() for lane in self.lanes)
        assert count == len(self._of), f"streams: got {count} counted, expected {len(self._of)}"

    def _by_load(self, chunk: int) -> list[Lane]:
        """The one with the fewest streams as this one would be first, and of those the one with the fewest at all."""
        return sorted(self.lanes, key=lambda lane: (lane.counts[chunk], lane.counts.total()))

    def _gone(self, stream_id: str) -> None:
        with self._lock:
            if (found := self._of.pop(stream_id, None)) is not None:
                found[0].counts[found[1]] -= 1

    # On the engines' threads.

    def _heard(self, results: list[Result]) -> None:
        for result in results:
            if isinstance(result.heard, Failed) or result.heard.finished:
                self._gone(result.stream_id)
        if (reason := self.failure) is not None:
            for lane in self.lanes:
                if lane.engine.failure is None:
                    lane.engine.die(reason)
        self._deliver(results)

    def _stepped(self, step: Step) -> None:
        with self._lock:
            self._observe(step)


def costs_of(
    backends: Sequence[Backend], settings: EngineSettings, clock: Callable[[], float], *, again: bool = False
) -> Costs:
    """What the first one's steps cost while the others are at work; `again`: whether or not that is known."""
    with at_work(backends[1:]):
        return known(backends[0], settings, clock, again=again)


@contextlib.contextmanager
def at_work(backends: Sequence[Backend]) -> Iterator[None]:
    """Each of these steps a few streams over and over, in a thread of its own, until the block is left."""
    over = threading.Event()
    threads = [threading.Thread(target=keep_busy, args=(backend, over.is_set), daemon=True) for backend in backends]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()
