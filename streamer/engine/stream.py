"""One stream's host record: samples that wait, chunks done, when the next one is due. Knows no threads and no model.

Time comes in as a value. Positions are samples from the stream's start.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.config import FRAME_SAMPLES, SAMPLE_RATE
from streamer.backends.base import FIRST_SHORTER_BY, samples_needed
from streamer.decoding import Token
from streamer.engine.slots import Lease

Pcm = NDArray[np.float32]

EMPTY: Pcm = np.zeros(0, np.float32)

# A client whose clock runs a little fast is still in real time; one that sends a file as fast as it can is not.
PACE = 0.9  # seconds of wall time that a second of audio is worth
PACE_S = PACE / SAMPLE_RATE  # and a sample
BURST_S = 1.0  # audio may come in pieces as long as this and still be in real time


@dataclass(frozen=True, slots=True, eq=False)
class ForkOrder:
    """A copy is to hear the audio up to `at`, then `pcm`; somebody waits for that from `came` on."""

    mark: int
    pcm: Pcm
    at: int
    came: float


@dataclass(slots=True, eq=False)
class Stream:
    """Audio is cut into chunks here as it comes. A fork (`mark` set) is a stream of its own with its parent's past."""

    key: str
    chunk: int  # encoder frames
    prompt: int | None
    lease: Lease
    mark: int | None = None
    parent: Stream | None = None
    fresh: bool = True  # the backend's slot has not been opened for this stream
    closing: bool = False  # no more audio comes
    busy: bool = False  # a step is under way with it, or its state is being copied
    gone: bool = False  # it has ended; what comes late for it is left alone
    chunks: int = 0  # chunks done
    fed: int = 0  # samples that came in
    spoken: int = 0  # samples of those that the client sent (the rest is silence of our own)
    taken: int = 0  # samples that went into chunks
    last: bool = False  # the chunk that was taken is the last
    arrived_at: float = 0.0  # of the chunk that waits or is under way: when its last sample came
    due_at: float = 0.0  # and when it is owed
    queued: int = 0  # its place among those that wait for a step; 0: it does not wait
    tokens: list[Token] = field(default_factory=list)  # a fork keeps what it hears until it has heard all
    forks: deque[ForkOrder] = field(default_factory=deque)
    fork: Stream | None = None  # the copy that is running now; the stream waits for it
    _whole: deque[tuple[Pcm, float]] = field(default_factory=deque)  # chunks, when the last sample of each came
    _part: Pcm = field(default_factory=lambda: EMPTY)  # the chunk that is not whole yet
    _filled: int = 0  # samples of it
    _filled_at: float = 0.0  # when the last of them came
    _size: int = 0  # samples that it will have
    _paced_to: int = 0  # position up to which real time has been granted
    _paced_at: float = -math.inf  # and up to which time
    _pace: float = 0.0  # the time that is granted the next chunk
    _owed: int = -1  # the chunk of which `arrived_at`, `due_at` and `_pace` are

    def __post_init__(self) -> None:
        self._size = samples_needed(self.chunks, self.chunk)

    def feed(self, pcm: Pcm, now: float, *, silence: bool = False) -> None:
        """More audio, the client's own or `silence` that we add. It is copied: the caller's array can be used again."""
        assert not self.closing, f"stream {self.key}: got audio, expected none after finish"
        size, at = len(pcm), 0
        self.fed += size
        if not silence:
            self.spoken = self.fed
        filled = self._filled
        while (end := at + self._size - filled) <= size:  # the chunk that is begun, and as many more as there are
            if filled:
                self._part[filled:] = pcm[at:end]
            else:
                self._part = np.array(pcm[at:end], np.float32)
            self._whole.append((self._part, now))
            at, filled, self._size = end, 0, FRAME_SAMPLES * self.chunk
        self._filled = filled + size - at
        if at < size:
            if not filled:
                self._part = np.empty(self._size, np.float32)
            self._part[filled : self._filled] = pcm[at:] if at else pcm
            self._filled_at = now

    def finish(self, pcm: Pcm, now: float) -> None:
        """`pcm` is the end."""
        self.feed(pcm, now, silence=True)
        if not self._filled:
            self._filled_at = now
        self.closing = True

    def order_fork(self, mark: int, pcm: Pcm, now: float) -> None:
        """Remember where the copy is to leave the stream."""
        self.forks.append(ForkOrder(mark, pcm, self.fed, now))

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
        if self.forks:
            return self.waiting >= self.needed
        return bool(self._whole) or self.closing

    @property
    def ready_chunks(self) -> int:
        """How many chunks can be stepped, the last one of a stream included if its end is known."""
        if self.forks:
            lead = 0 if self.chunks else FIRST_SHORTER_BY
            return (self.waiting + lead) // (FRAME_SAMPLES * self.chunk)
        return len(self._whole) + self.closing

    @property
    def ends(self) -> bool:
        """Whether the last of those is the stream's last."""
        return self.closing and not self.forks

    @property
    def awaited(self) -> bool:
        """Whether somebody waits for a final that its next chunks stand before."""
        return self.closing or bool(self.forks)

    @property
    def fork_ready(self) -> bool:
        """Whether all whole chunks before the next fork are done."""
        return bool(self.forks) and not self.busy and self.fork is None and self.waiting < self.needed

    def owe(self) -> float:
        """When a real-time client would have sent the next chunk; later than now for one that sends ahead.

        A leaky bucket: the time that real time grants the chunk, BURST_S before it if the client was slow.
        """
        if self._owed == self.chunks:
            return self.due_at
        if self._whole:
            pcm, arrived = self._whole[0]
            end = self.taken + len(pcm)
        else:
            arrived, end = self._filled_at, self.taken + self._filled
        granted = (end if end < self.spoken else self.spoken) - self._paced_to
        pace = self._paced_at + granted * PACE_S if granted > 0 else self._paced_at
        if pace < arrived - BURST_S:
            pace = arrived - BURST_S
        self._pace, self._owed = pace, self.chunks
        self.arrived_at, self.due_at = arrived, arrived if arrived > pace else pace
        return self.due_at

    def take(self, chunks: int = 1) -> Pcm:
        """The samples of the next chunk, or of as many as that, of which there are enough or the end (`last`).

        `arrived_at` and `due_at` are the first one's from here on: it has waited longest.
        """
        self.owe()
        arrived, due = self.arrived_at, self.due_at
        parts = [self._take()]
        while len(parts) < chunks and not self.last:
            self.owe()
            parts.append(self._take())
        self.arrived_at, self.due_at = arrived, due
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _take(self) -> Pcm:
        if self._whole:
            pcm, _ = self._whole.popleft()
            self.last = False
        else:
            assert self.closing, f"stream {self.key}: got {self.waiting} samples, expected {self.needed}"
            pcm = self._part[: self._filled]
            self._part, self._filled, self.last = EMPTY, 0, True
        self.taken += len(pcm)
        self._paced_to = self.taken if self.taken < self.spoken else self.spoken
        self._paced_at = self._pace
        self.chunks += 1
        return pcm

    def check(self, *, splits: bool) -> None:
        """It waits for a step, and so does its copy, or for a copy to be made (`splits`), just when it can."""
        for own in filter(None, (self, self.fork)):
            assert bool(own.queued) == own.ready, f"{own.key}: waits {own.queued}, ready {own.ready}"
        assert splits == self.fork_ready, f"{self.key}: splits {splits}, expected {self.fork_ready}"

    def split(self, lease: Lease) -> Stream:
        """The copy that the first order asks for; the stream goes on when it has heard all."""
        order = self.forks.popleft()
        rest = (self._whole[0][0] if self._whole else self._part)[: order.at - self.taken]
        copy = Stream(self.key, self.chunk, self.prompt, lease, order.mark, self, self.fresh, chunks=self.chunks)
        copy.fed = copy.spoken = copy.taken = self.taken
        copy._paced_to, copy._paced_at = self._paced_to, self._paced_at
        copy.feed(rest, order.came)
        copy.finish(order.pcm, order.came)
        self.fork = copy
        return copy


class Ready(NamedTuple):
    """What the scheduler knows of a stream that waits for a step."""

    slot: int
    chunk: int  # encoder frames
    due: float  # seconds of the clock that `now` is of
    closing: bool  # somebody waits for its final
    chunks: int = 1  # that can be stepped now
    ends: bool = False  # the last of them is its last
