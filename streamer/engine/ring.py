"""Samples on their way from a front to the engine's process, in memory that both see. Knows nothing of what they are.

A socket's buffer holds a fifth of a megabyte, and thousands of streams bring hundreds of megabytes a second: only where
they lie goes through the socket. The front writes, the engine's process reads each place once, in order, and then says
how far it has read. Where there is no room the samples go through the socket after all.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from streamer.engine.stream import Pcm

BYTES = 1 << 23  # a tenth of a second of what a front can bring; more would be in no cache
HEAD_BYTES = 64  # before the samples: how many of them have been read, in all


def create() -> int | None:
    """An open file for a ring; None where the system has no such files."""
    if not hasattr(os, "memfd_create"):
        return None
    file = os.memfd_create("samples")
    os.ftruncate(file, BYTES)
    return file


class Ring:
    """One end. A front says `place`, the engine's process `look` and then `done`."""

    def __init__(self, file: int) -> None:
        memory = mmap.mmap(file, BYTES)
        self._read: NDArray[np.uint64] = np.frombuffer(memory, np.uint64, 1)
        self._samples: Pcm = np.frombuffer(memory, np.float32, offset=HEAD_BYTES)
        self._written = 0  # samples, those that were left out at the end of the memory included
        self._looked = 0

    def place(self, sounds: Sequence[Pcm]) -> int | None:
        """Write these behind each other; where the first of them lies in all that was ever written. None: no room."""
        size, count = len(self._samples), sum(map(len, sounds))
        at = self._written
        if at % size + count > size:  # they lie in one piece
            at += size - at % size
        if count > size or at + count - int(self._read[0]) > size:
            return None
        first = at % size
        for sound in sounds:
            self._samples[first : first + len(sound)] = sound
            first += len(sound)
        self._written = at + count
        return at

    def look(self, at: int, count: int) -> Pcm | None:
        """What was placed there; None if nothing can have been. Good until `done`."""
        first = at % len(self._samples)
        if at < self._looked or first + count > len(self._samples):
            return None
        self._looked = at + count
        return self._samples[first : first + count]

    def done(self) -> None:
        """All that was looked at can be written over."""
        self._read[0] = self._looked
