"""The engine: one thread, one tick after the other, the clock. Knows nothing of sockets, words or protocols.

What callers ask is noted under one lock; what streams heard goes out through `deliver`, once a tick, on the engine's
thread. A tick starts the copies that finalizes asked for, launches the most urgent batch, or collects the oldest one.
Whatever happens to a stream puts it where the thread finds it; nothing ever looks at all streams.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from models.config import HOP
from streamer.actions import Heard
from streamer.backends.base import Backend
from streamer.decoding import Token
from streamer.engine.capacity import Admission, Costs, most_streams
from streamer.engine.kept import known
from streamer.engine.launches import Landed, Launches
from streamer.engine.results import EngineSettings, Failed, Full, Result, Step
from streamer.engine.scheduler import Machine
from streamer.engine.seating import Seating, group
from streamer.engine.slots import Slots
from streamer.engine.stream import Pcm, Stream
from streamer.engine.waiting import Lists, Ranges, Waiting

__all__ = ["Engine", "EngineSettings", "Failed", "Full", "Result", "Step"]

log = logging.getLogger(__name__)

STREAMS_A_SPARE = 16  # one slot in so many is kept back for forks
Work = Callable[[], list[Result]]


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
        self._slots = Slots(backend.slots, max(1, backend.slots // STREAMS_A_SPARE), near=backend.contiguous)
        self._streams: dict[str, Stream] = {}
        self._splitting: dict[Stream, None] = {}  # those whose next fork can be made, in their order
        self._asleep = False  # the thread has nothing to do
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)  # of which `with` costs five times the lock's own
        self._stopping = False
        self._step_started: float | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    # What callers ask, from any thread.

    def start(self, costs: Costs | None = None, admission: Admission | None = None) -> None:
        """Measure what steps cost, unless it is known, and begin. `admission`: of several engines together."""
        own = self.settings
        costs = costs or known(self.backend, own, self._clock)
        self._admission = admission or Admission(costs, own, self.most_streams())
        self.backend.forget()
        machine = Machine(costs.seconds, own.budget_s, self.backend.contiguous, self.backend.most_chunks)
        self._seating = Seating(self._slots, machine, self.backend)
        self._waiting: Waiting = Ranges(machine) if machine.contiguous else Lists(machine)
        self._launches = Launches(self.backend, machine.cost, self._stepped, self._clock)
        self._thread.start()

    def most_streams(self) -> int:
        """As many as slots and memory hold."""
        return most_streams(self.backend, self._slots.count - self._slots.spare, self.settings.memory_bytes)

    def open(self, stream_id: str, chunk: int, prompt: int | None = None) -> None:
        """A slot for a new stream; raises Full with the reason where there is none."""
        with self._lock:
            if (reason := self._no_room(chunk)) is not None:
                raise Full(reason)
            assert stream_id not in self._streams, f"stream {stream_id}: got it twice, expected a new one"
            lease = self._slots.lease(group(chunk))
            assert lease is not None, "slots: got none, expected one after asking"
            self._streams[stream_id] = Stream(stream_id, chunk, prompt, lease)
            self._admission.came(chunk)

    def room(self, chunk: int) -> str | None:
        """Why a stream of `chunk` would be refused now; None if it would not."""
        with self._lock:
            return self._no_room(chunk)

    def feed(self, stream_id: str, pcm: Pcm) -> None:
        """More of the stream's audio, 16 kHz. Streams that have ended are left alone, here and below."""
        with self._lock:
            self._feed(stream_id, pcm, self._clock())

    def feed_all(self, pieces: Iterable[tuple[str, Pcm]], came: float = math.inf) -> None:
        """`feed` for many streams in one go. It came at `came`, seconds of the engine's clock, or now."""
        with self._lock:
            now = min(came, self._clock())
            for stream_id, pcm in pieces:
                self._feed(stream_id, pcm, now)

    def fork(self, stream_id: str, mark: int, pcm: Pcm) -> None:
        """A copy hears all that was fed, then `pcm`; its tokens come as one Heard with this mark."""
        with self._lock:
            if (stream := self._streams.get(stream_id)) is not None:
                stream.order_fork(mark, pcm, self._clock())
                self._place(stream)

    def finish(self, stream_id: str, pcm: Pcm) -> None:
        """`pcm` is the stream's end; a Heard with `finished` follows."""
        with self._lock:
            if (stream := self._streams.get(stream_id)) is not None:
                stream.finish(pcm, self._clock())
                self._place(stream)

    def drop(self, stream_id: str) -> None:
        """Forget the stream at once; results of a step under way never reach it or the slot's next owner."""
        with self._lock:
            if (stream := self._streams.get(stream_id)) is not None:
                self._forget(stream)
            self._changed.notify()

    def waiting_seconds(self, stream_id: str) -> float:
        """Audio of the stream that no step has taken yet; 0 for a stream that has ended. Asked with every chunk that
        comes, it waits for no lock: a step's worth of error does not matter to whoever asks."""
        stream = self._streams.get(stream_id)
        return stream.waiting_s if stream else 0.0

    def stuck_seconds(self) -> float:
        """How long the present step has been running; 0 between steps."""
        started = self._step_started
        return 0.0 if started is None else self._clock() - started

    def stop(self, timeout_s: float = 5.0) -> bool:
        """End the thread after its step; streams that are left hear no more. False if it did not end in time."""
        with self._lock:
            self._stopping = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def check(self) -> None:
        """Every stream and running copy holds its lease, and nobody else holds any."""
        with self._lock:
            self._slots.check()
            held = [s.lease for stream in self._streams.values() for s in (stream, stream.fork) if s is not None]
            assert all(self._slots.holds(lease) for lease in held), "leases: got a lost one, expected all held"
            assert len(held) == self._slots.count - self._slots.free, f"leases: got {len(held)}, expected one a stream"
            for stream in self._streams.values():
                stream.check(splits=stream in self._splitting)

    def _no_room(self, chunk: int) -> str | None:
        if self.failure is not None or self._stopping:
            return self.failure or "the engine stops, expected a running one"
        if not self._slots.can_lease():
            count = self._admission.streams.total()
            return f"{count} streams are heard now, expected fewer: all slots are taken; try again later"
        return self._admission.refusal(self._clock(), self._admission.streams, chunk)

    def _feed(self, stream_id: str, pcm: Pcm, now: float) -> None:
        stream = self._streams.get(stream_id)
        if stream is not None:
            stream.feed(pcm, now)
            if not stream.queued and stream.ready:
                self._wait(stream)

    def _wait(self, stream: Stream) -> None:
        self._seating.seat(stream)
        self._waiting.put(stream)
        if self._asleep or stream.awaited:
            self._changed.notify()

    def _place(self, stream: Stream) -> None:
        """Something happened to the stream: put it where the thread finds it, if there is anything to do with it."""
        if stream.ready:
            self._wait(stream)
        elif stream.fork_ready:
            self._splitting[stream] = None
            self._changed.notify()

    def _forget(self, stream: Stream) -> None:
        """Its slot and its copy's are free; what is under way with them is left alone when it comes."""
        self._splitting.pop(stream, None)
        for held in (stream, stream.fork):
            if held is not None:
                held.gone = True
                self._waiting.drop(held)
                self._slots.release(held.lease)
        del self._streams[stream.key]
        self._admission.left(stream.chunk)

    # The thread.

    def _run(self) -> None:
        try:
            while (work := self._next()) is not None:
                self._step_started = self._clock()
                results = work()
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
        with self._lock:
            if self.failure is not None:
                return
            self.failure = reason
            lost = list(self._streams.values())
            for stream in lost:
                self._forget(stream)
            self._changed.notify()
        self._deliver([Result(stream.key, Failed("internal", reason)) for stream in lost])

    def _stepped(self, step: Step) -> None:
        with self._lock:
            self._admission.stepped(self._clock(), step)
        self._observe(step)

    def _next(self) -> Work | None:
        """Wait until there is something to do: copies to make, a batch to launch or one to collect. None at the end."""
        with self._lock:
            while self.failure is None:
                if self._stopping:
                    return self._collect if len(self._launches) else None
                if not len(self._launches):
                    self._seating.vacate()
                if copies := self._copies():
                    return partial(self._split, copies)
                if self._launches.full or (len(self._launches) and not len(self._waiting)):
                    return self._collect
                now = self._clock()
                hold_s = max(self._launches.hold_s(now), self._waiting.hold_s(now))
                if len(self._waiting) and not hold_s:
                    self._tidy()
                    return partial(self._launch, *self._batch(now))
                self._asleep = not len(self._waiting)
                self._changed.wait(None if self._asleep else hold_s)
                self._asleep = False
            return None

    def _tidy(self) -> None:
        """A stream at the edge of a range that has thinned out moves in among the others: one before each step."""
        if len(self._launches) or (found := self._seating.tidy(self._streams.values())) is None:
            return
        stream, slot = found
        self._waiting.drop(stream)
        stream.lease = self._slots.move(stream.lease, slot)
        self._place(stream)

    def _copies(self) -> list[Stream]:
        copies = []
        while self._splitting:
            stream = next(iter(self._splitting))
            if (lease := self._slots.lease(stream.lease.group, spare=True)) is None:
                break
            del self._splitting[stream]
            copies.append(stream.split(lease))
            copies[-1].busy = True
        return copies

    def _batch(self, now: float) -> tuple[list[tuple[Stream, Pcm]], int]:
        """The most urgent batch, its samples taken, and how many chunks of each stream they are."""
        batch = []
        streams, chunks = self._waiting.next(now)
        for stream in streams:
            batch.append((stream, stream.take(chunks)))
            stream.busy = True
        return batch, chunks

    def _split(self, copies: Sequence[Stream]) -> list[Result]:
        """Copy the parents' states into the copies' slots. Parents wait for their copies, so the states stand still."""
        results = self._clear(copies)
        for copy in copies:
            assert copy.parent is not None, "copies: got a stream, expected a copy"
            try:
                if not copy.fresh:
                    self.backend.fork(copy.parent.lease.slot, copy.lease.slot)
            except Exception as fault:
                log.exception("a copy failed", extra={"session": copy.key})
                with self._lock:
                    if not copy.gone:
                        results += self._fail(copy, fault)
                continue
            with self._lock:
                copy.busy = False
                if not copy.gone:
                    self._place(copy)
        return results

    def _launch(self, batch: Sequence[tuple[Stream, Pcm]], chunks: int) -> list[Result]:
        """Begin a step; where it cannot even begin, that is the end of its streams."""
        results = self._clear([stream for stream, _ in batch if stream.fresh])
        if (landed := self._launches.launch(batch, chunks)) is not None:
            self._deliver(results)
            return self._land(landed)
        return results

    def _collect(self) -> list[Result]:
        return self._land(self._launches.collect())

    def _clear(self, streams: Sequence[Stream]) -> list[Result]:
        """Slots that are new to these streams may be under way yet with streams that have left: see those through."""
        results: list[Result] = []
        if len(self._launches) and self._launches.touch([stream.lease.slot for stream in streams]):
            while len(self._launches):
                results += self._collect()
        return results

    def _land(self, landed: Landed) -> list[Result]:
        """A step is done. An exception in it ends its streams and, if silence cannot be stepped either, the engine."""
        results = self._settle(landed)
        if landed.fault is None:
            return results
        self._deliver(results)
        while len(self._launches):  # of the same device: they come to an end, one way or the other, before it is asked
            self._deliver(self._settle(self._launches.collect()))
        self._probe(landed.streams[0].chunk)
        return []

    def _settle(self, landed: Landed) -> list[Result]:
        """What the outcomes mean for their streams."""
        results = []
        with self._lock:
            for stream, outcome in zip(landed.streams, landed.outcomes, strict=True):
                stream.busy = False
                if stream.gone:
                    continue
                if not isinstance(outcome, list):
                    results += self._fail(stream, outcome)
                elif stream.last or stream.parent is not None:
                    results += self._end(stream, outcome)
                else:
                    frames = stream.chunk * stream.chunks
                    heard = Heard(tuple(outcome), frames, stream.taken)
                    results.append(Result(stream.key, heard, stream.arrived_at))
                    self._place(stream)
        return results

    def _end(self, stream: Stream, outcome: list[Token]) -> list[Result]:
        """A stream's last chunk, or any of a copy, which says all it heard at its end."""
        samples, frames = stream.taken, self.backend.config.encoder_frames(stream.taken // HOP)
        if stream.parent is None:
            self._forget(stream)
            heard = Heard(tokens=tuple(outcome), frames=frames, samples=samples, finished=True)
            return [Result(stream.key, heard, stream.arrived_at)]
        stream.tokens += outcome
        if not stream.last:
            self._place(stream)
            return []
        stream.gone = True
        self._slots.release(stream.lease)
        stream.parent.fork = None
        self._place(stream.parent)
        heard = Heard(tokens=tuple(stream.tokens), frames=frames, samples=samples, mark=stream.mark)
        return [Result(stream.key, heard, stream.arrived_at)]

    def _fail(self, stream: Stream, fault: object) -> list[Result]:
        """End the stream (a copy's parent with it). The client learns the kind of fault, the log has the rest."""
        log.error("a stream failed: %s", fault, extra={"session": stream.key})
        self._forget(stream.parent or stream)
        return [Result(stream.key, Failed("internal", f"the engine failed on this stream ({type(fault).__name__})"))]

    def _probe(self, chunk: int) -> None:
        """After a failed step: can silence be stepped? If not the engine is dead, and the exception ends it."""
        with self._lock:
            lease = self._slots.lease(group(chunk), spare=True)
        if lease is None:  # others took the failed streams' slots already: their steps will tell
            return
        try:
            self._launches.probe(lease.slot, chunk)
        finally:
            with self._lock:
                self._slots.release(lease)
