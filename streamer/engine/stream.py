"""One stream's host record: samples that wait, chunks done, when the next one is due. Knows no threads and no model.

Time comes in as a value. Positions are samples from the stream's start.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from models.config import SAMPLE_RATE
from streamer.backends.base import samples_needed
from streamer.decoding import Token
from streamer.engine.slots import Lease

Pcm = NDArray[np.float32]

# A client whose clock runs a little fast is still in real time; one that sends a file as fast as it can is not.
PACE = 0.9  # seconds of wall time that a second of audio is worth
BURST_S = 1.0  # audio may come in pieces as long as this and still be in real time


@dataclass(frozen=True, slots=True, eq=False)
class ForkOrder:
    """A copy is to hear the audio up to `at`, then `pcm`."""

    mark: int
    pcm: Pcm
    at: int


@dataclass(slots=True, eq=False)
class Stream:
    """Audio waits here until a chunk is whole. A fork (`mark` set) is a stream of its own with its parent's past."""

    key: str
    chunk: int  # encoder frames
    prompt: int | None
    lease: Lease
    mark: int | None = None
    parent: Stream | None = None
    fresh: bool = True  # the backend's slot has not been opened for this stream
    closing: bool = False  # no more audio comes
    busy: bool = False  # a step is under way with it
    chunks: int = 0  # chunks done
    fed: int = 0  # samples that came in
    spoken: int = 0  # samples of those that the client sent (the rest is silence of our own)
    taken: int = 0  # samples that went into chunks
    tokens: list[Token] = field(default_factory=list)  # a fork keeps what it hears until it has heard all
    forks: deque[ForkOrder] = field(default_factory=deque)
    fork: Stream | None = None  # the copy that is running now; the stream waits for it
    _audio: deque[Pcm] = field(default_factory=deque)
    _arrivals: deque[tuple[int, float]] = field(default_factory=deque)  # (position after, time)
    _paced: tuple[int, float] | None = None  # position and time up to which real time has been granted

    def feed(self, pcm: Pcm, now: float, *, silence: bool = False) -> None:
        """More audio, the client's own or `silence` that we add."""
        assert not self.closing, f"stream {self.key}: got audio, expected none after finish"
        self.fed += len(pcm)
        if not silence:
            self.spoken = self.fed
        if len(pcm):
            self._audio.append(pcm)
            self._arrivals.append((self.fed, now))

    def finish(self, pcm: Pcm, now: float) -> None:
        """`pcm` is the end."""
        self.feed(pcm, now, silence=True)
        self._arrivals.append((self.fed, now))
        self.closing = True

    def order_fork(self, mark: int, pcm: Pcm) -> None:
        """Remember where the copy is to leave the stream."""
        self.forks.append(ForkOrder(mark, pcm, self.fed))

    @property
    def needed(self) -> int:
        """Samples of the next chunk."""
        return samples_needed(self.chunks, self.chunk)

    @property
    def waiting(self) -> int:
        """Samples that may go into chunks now: what lies behind the next fork has to wait for it."""
        return (self.forks[0].at if self.forks else self.fed) - self.taken

    @property
    def waiting_s(self) -> float:
        """Seconds of audio that came and went into no chunk yet."""
        return (self.fed - self.taken) / SAMPLE_RATE

    @property
    def ready(self) -> bool:
        """Whether its next chunk can be stepped."""
        if self.busy or self.fork is not None:
            return False
        return self.waiting >= self.needed or (self.closing and not self.forks)

    @property
    def fork_ready(self) -> bool:
        """Whether all whole chunks before the next fork are done."""
        return bool(self.forks) and not self.busy and self.fork is None and self.waiting < self.needed

    def arrived(self) -> float:
        """When the last sample of the next chunk came."""
        end = self._chunk_end()
        return next((time for position, time in self._arrivals if position >= end), self._arrivals[-1][1])

    def due(self) -> float:
        """When a real-time client would have sent the next chunk; later than now for one that sends ahead."""
        return max(self.arrived(), self._pace())

    def take(self) -> tuple[Pcm, bool]:
        """The next chunk's samples, and whether they are the last."""
        assert self.ready, f"stream {self.key}: got {self.waiting} samples, expected {self.needed}"
        end = self._chunk_end()
        last = self.waiting < self.needed
        self._paced = (min(end, self.spoken), self._pace())
        pcm = self._cut(end - self.taken)
        self.taken, self.chunks = end, self.chunks + 1
        while self._arrivals and self._arrivals[0][0] <= self.taken and not (self.closing and len(self._arrivals) == 1):
            self._arrivals.popleft()
        return pcm, last

    def split(self, lease: Lease, now: float) -> Stream:
        """The copy that the first order asks for; the stream goes on when it has heard all."""
        order = self.forks.popleft()
        copy = Stream(self.key, self.chunk, self.prompt, lease, order.mark, self, self.fresh)
        copy.chunks, copy.taken, copy._paced = self.chunks, self.taken, self._paced
        copy.fed = copy.spoken = self.taken
        rest = self._peek(order.at - self.taken)
        copy.feed(rest, now)
        copy.finish(order.pcm, now)
        self.fork = copy
        return copy

    def _pace(self) -> float:
        """A leaky bucket: the time that real time grants the next chunk, BURST_S before it if the client was slow."""
        earliest = self.arrived() - BURST_S
        if self._paced is None:
            return earliest
        position, time = self._paced
        return max(earliest, time + PACE * max(0, min(self._chunk_end(), self.spoken) - position) / SAMPLE_RATE)

    def _chunk_end(self) -> int:
        return self.taken + min(self.needed, self.waiting)

    def _peek(self, samples: int) -> Pcm:
        whole = np.concatenate([np.zeros(0, np.float32), *self._audio])
        return whole[:samples].copy()

    def _cut(self, samples: int) -> Pcm:
        parts = [np.zeros(0, np.float32)]
        while samples:
            first = self._audio.popleft()
            if len(first) > samples:
                self._audio.appendleft(first[samples:])
            parts.append(first[:samples])
            samples -= len(parts[-1])
        return np.concatenate(parts)


@dataclass(frozen=True, slots=True)
class Ready:
    """What the scheduler knows of a stream whose next chunk is whole."""

    slot: int
    chunk: int  # encoder frames
    due: float  # seconds of the clock that `now` is of
    closing: bool  # somebody waits for its final
