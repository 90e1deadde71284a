"""The engine: one thread, one tick after the other, the clock. Knows nothing of sockets, words or protocols.

What callers ask is noted under one lock; what streams heard goes out through `deliver`, once a tick, on the engine's
thread. A tick starts the copies that finalizes asked for, or plans and runs the most urgent batch.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from models.config import HOP
from streamer.actions import Heard
from streamer.backends.base import Backend, Row, samples_needed
from streamer.engine.capacity import Costs, measured, refusal
from streamer.engine.results import EngineSettings, Failed, Full, Result, Step
from streamer.engine.scheduler import Machine, plan
from streamer.engine.slots import Slots
from streamer.engine.stream import Pcm, Ready, Stream

__all__ = ["Engine", "EngineSettings", "Failed", "Full", "Result", "Step"]

log = logging.getLogger(__name__)

STREAMS_A_SPARE = 16  # one slot in so many is kept back for forks


@dataclass(frozen=True, slots=True, eq=False)
class _Turn:
    """One stream's part of a step."""

    stream: Stream
    row: Row
    arrived: float
    due: float


class Engine:
    """Streams in, `Result`s out. `failure` says why a dead engine died; its streams have all got a Failed then."""

    def __init__(
        self,
        backend: Backend,
        settings: EngineSettings,
        deliver: Callable[[list[Result]], None],
        observe: Callable[[Step], None] = lambda _step: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.backend, self.settings = backend, settings
        self.failure: str | None = None
        self._deliver, self._observe, self._clock = deliver, observe, clock
        self._slots = Slots(backend.slots, max(1, backend.slots // STREAMS_A_SPARE))
        self._streams: dict[str, Stream] = {}
        self._changed = threading.Condition()
        self._stopping = False
        self._step_started: float | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    # What callers ask, from any thread.

    def start(self, costs: Costs | None = None) -> None:
        """Measure what steps cost, unless it is known, and begin."""
        chunks, settings = self.backend.config.chunks, self.settings
        self._costs = costs or measured(self.backend, chunks, self._clock, settings.budget_s, settings.capacity_file)
        self._machine = Machine(self._costs.seconds, self.settings.budget_s, self.backend.contiguous)
        self._thread.start()

    def open(self, stream_id: str, chunk: int, prompt: int | None = None) -> None:
        """A slot for a new stream; raises Full with the reason where there is none."""
        with self._changed:
            if (reason := self._no_room(chunk)) is not None:
                raise Full(reason)
            assert stream_id not in self._streams, f"stream {stream_id}: got it twice, expected a new one"
            lease = self._slots.lease(chunk)
            assert lease is not None, "slots: got none, expected one after asking"
            self._streams[stream_id] = Stream(stream_id, chunk, prompt, lease)

    def room(self, chunk: int) -> str | None:
        """Why a stream of `chunk` would be refused now; None if it would not."""
        with self._changed:
            return self._no_room(chunk)

    def feed(self, stream_id: str, pcm: Pcm) -> None:
        """More of the stream's audio, 16 kHz. Streams that have ended are left alone, here and below."""
        self._ask(stream_id, lambda stream, now: stream.feed(pcm, now))

    def fork(self, stream_id: str, mark: int, pcm: Pcm) -> None:
        """A copy hears all that was fed, then `pcm`; its tokens come as one Heard with this mark."""
        self._ask(stream_id, lambda stream, _now: stream.order_fork(mark, pcm))

    def finish(self, stream_id: str, pcm: Pcm) -> None:
        """`pcm` is the stream's end; a Heard with `finished` follows."""
        self._ask(stream_id, lambda stream, now: stream.finish(pcm, now))

    def drop(self, stream_id: str) -> None:
        """Forget the stream at once; results of a step under way never reach it or the slot's next owner."""
        with self._changed:
            if (stream := self._streams.get(stream_id)) is not None:
                self._forget(stream)
            self._changed.notify()

    def waiting_seconds(self, stream_id: str) -> float:
        """Audio of the stream that no step has taken yet; 0 for a stream that has ended."""
        with self._changed:
            stream = self._streams.get(stream_id)
            return stream.waiting_s if stream else 0.0

    def stuck_seconds(self) -> float:
        """How long the present step has been running; 0 between steps."""
        started = self._step_started
        return 0.0 if started is None else self._clock() - started

    def stop(self, timeout_s: float = 5.0) -> bool:
        """End the thread after its step; streams that are left hear no more. False if it did not end in time."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def check(self) -> None:
        """Every stream and running copy holds its lease, and nobody else holds any."""
        with self._changed:
            self._slots.check()
            held = [s.lease for stream in self._streams.values() for s in (stream, stream.fork) if s is not None]
            assert all(self._slots.holds(lease) for lease in held), "leases: got a lost one, expected all held"
            assert len(held) == self._slots.count - self._slots.free, f"leases: got {len(held)}, expected one a stream"

    def _ask(self, stream_id: str, change: Callable[[Stream, float], None]) -> None:
        with self._changed:
            if (stream := self._streams.get(stream_id)) is not None:
                change(stream, self._clock())
                self._changed.notify()

    def _no_room(self, chunk: int) -> str | None:
        if self.failure is not None or self._stopping:
            return self.failure or "the engine stops, expected a running one"
        if not self._slots.can_lease():
            return f"{len(self._streams)} streams are heard now, expected fewer: all slots are taken"
        counts: dict[int, int] = {}
        for stream in self._streams.values():
            counts[stream.chunk] = counts.get(stream.chunk, 0) + 1
        return refusal(counts, chunk, self._costs, self.settings.max_load)

    def _forget(self, stream: Stream) -> None:
        for held in (stream, stream.fork):
            if held is not None:
                self._slots.release(held.lease)
        self._streams.pop(stream.key, None)

    # The thread.

    def _run(self) -> None:
        try:
            while (work := self._next()) is not None:
                self._step_started = self._clock()
                results = self._split(work) if isinstance(work[0], Stream) else self._step(work)
                self._step_started = None
                if results:
                    self._deliver(results)
        except BaseException as fault:
            log.exception("the engine died")
            self.die(f"the engine died ({type(fault).__name__})")
        finally:
            self._step_started = None

    def die(self, reason: str) -> None:
        """Every stream fails and no new one comes in. The thread does this itself, or whoever saw that it hangs."""
        with self._changed:
            if self.failure is not None:
                return
            self.failure = reason
            lost = list(self._streams.values())
            for stream in lost:
                self._forget(stream)
        self._deliver([Result(stream.key, Failed("internal", reason)) for stream in lost])

    def _next(self) -> list[Stream] | list[_Turn] | None:
        """Wait until there is something to do: copies to make, or a batch to step. None when the engine is to stop."""
        with self._changed:
            while not self._stopping and self.failure is None:
                if copies := self._copies():
                    return copies
                if turns := self._turns():
                    return turns
                self._changed.wait()
            return None

    def _copies(self) -> list[Stream]:
        copies = []
        for stream in self._streams.values():
            if stream.fork_ready and (lease := self._slots.lease(stream.chunk, spare=True)) is not None:
                copies.append(stream.split(lease, self._clock()))
        return copies

    def _turns(self) -> list[_Turn]:
        """The most urgent batch, its samples taken."""
        ready = {s.lease.slot: s for stream in self._streams.values() for s in (stream, stream.fork) if s and s.ready}
        waiting = [Ready(slot, s.chunk, s.due(), s.closing) for slot, s in ready.items()]
        if not waiting:
            return []
        turns = []
        for row in plan(self._clock(), waiting, self._machine)[0].rows:
            stream = ready[row.slot]
            arrived = stream.arrived()
            pcm, last = stream.take()
            turns.append(_Turn(stream, Row(row.slot, pcm, last), arrived, row.due))
        return turns

    def _split(self, copies: Sequence[Stream]) -> list[Result]:
        """Put the parents' states into the copies' slots. Parents wait for their copies, so the states stand still."""
        results: list[Result] = []
        for copy in copies:
            assert copy.parent is not None, "copies: got a stream, expected a copy"
            try:
                if not copy.fresh:
                    self.backend.put(copy.lease.slot, self.backend.take(copy.parent.lease.slot))
            except Exception as fault:
                log.exception("a copy failed", extra={"session": copy.key})
                with self._changed:
                    results += self._fail(copy, fault)
        return results

    def _step(self, turns: Sequence[_Turn]) -> list[Result]:
        """One batch; an exception in it ends its streams and, if silence cannot be stepped either, the engine."""
        started = self._clock()
        outcomes, fault = self._outcomes(turns)
        ended = self._clock()
        waits = tuple(started - turn.arrived for turn in turns)
        late = tuple(max(0.0, ended - turn.due) for turn in turns)
        self._observe(Step(turns[0].stream.chunk, ended - started, waits, late, fault is not None))
        with self._changed:
            results = []
            for turn, outcome in zip(turns, outcomes, strict=True):
                turn.stream.busy = False
                if self._slots.holds(turn.stream.lease):
                    results += self._settle(turn, outcome)
        if fault is not None:
            self._deliver(results)
            self._probe(turns[0].stream.chunk)
            return []
        return results

    def _outcomes(self, turns: Sequence[_Turn]) -> tuple[Sequence[object], Exception | None]:
        try:
            for turn in turns:
                if turn.stream.fresh:
                    self.backend.open(turn.row.slot, turn.stream.prompt)
                    turn.stream.fresh = False
            ticket = self.backend.launch(turns[0].stream.chunk, [turn.row for turn in turns])
            outcomes = self.backend.collect(ticket)
            assert len(outcomes) == len(turns), f"step: got {len(outcomes)} results, expected {len(turns)}"
            return outcomes, None
        except Exception as fault:
            log.exception("a step of %d rows failed", len(turns))
            return [fault] * len(turns), fault

    def _settle(self, turn: _Turn, outcome: object) -> list[Result]:
        """What a row's outcome means for its stream; a copy says all it heard at its end."""
        stream = turn.stream
        if not isinstance(outcome, list):
            return self._fail(stream, outcome)
        frames = stream.chunk * stream.chunks
        if turn.row.last:
            frames = self.backend.config.encoder_frames(stream.taken // HOP)
        if stream.parent is None:
            if turn.row.last:
                self._forget(stream)
            heard = Heard(tokens=tuple(outcome), frames=frames, samples=stream.taken, finished=turn.row.last)
            return [Result(stream.key, heard, turn.arrived)]
        stream.tokens += outcome
        if not turn.row.last:
            return []
        self._slots.release(stream.lease)
        stream.parent.fork = None
        heard = Heard(tokens=tuple(stream.tokens), frames=frames, samples=stream.taken, mark=stream.mark)
        return [Result(stream.key, heard, turn.arrived)]

    def _fail(self, stream: Stream, fault: object) -> list[Result]:
        """End the stream (a copy's parent with it). The client learns the kind of fault, the log has the rest."""
        log.error("a stream failed: %s", fault, extra={"session": stream.key})
        self._forget(stream.parent or stream)
        return [Result(stream.key, Failed("internal", f"the engine failed on this stream ({type(fault).__name__})"))]

    def _probe(self, chunk: int) -> None:
        """After a failed step: can silence be stepped? If not the engine is dead, and the exception ends it."""
        with self._changed:
            lease = self._slots.lease(chunk, spare=True)
        if lease is None:  # others took the failed streams' slots already: their steps will tell
            return
        try:
            self.backend.open(lease.slot)
            silence = np.zeros(samples_needed(0, chunk), np.float32)
            (outcome,) = self.backend.collect(self.backend.launch(chunk, [Row(lease.slot, silence)]))
            if isinstance(outcome, Exception):
                raise outcome
        finally:
            with self._changed:
                self._slots.release(lease)
