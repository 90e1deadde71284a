"""Recordings of any length through a backend, chunk by chunk, many at once. The same chunks that a live stream gets.

Knows nothing of files, words or time. A recording is blocks of samples, asked for when the next chunk needs them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.config import SAMPLE_RATE
from streamer.backends.base import Backend, Heard, Row, samples_needed
from streamer.decoding import Token

MS = SAMPLE_RATE // 1000  # samples in a millisecond
Samples = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Step:
    """What one step of a recording said."""

    index: int
    tokens: tuple[Token, ...]
    samples: int  # of the recording that have been taken, the silence at the end not counted
    ended: bool  # the recording has; nothing more comes of it but, where this was not the `last` chunk, the silence
    last: bool
    error: Exception | None = None
    chunks: int = 1  # of the recording that it was


class Clip:
    """One recording on its way through a slot: blocks in any portions, chunks of the size that is asked for."""

    def __init__(self, index: int, blocks: Iterable[Samples], tail: Samples) -> None:
        self.index = index
        self.samples = 0
        self.ended = False
        self._blocks, self._tail = iter(blocks), tail
        self._held: deque[Samples] = deque()
        self._held_samples = 0
        self._chunks = 0

    def piece(self, chunk: int, chunks: int) -> tuple[Samples, bool]:
        """The samples of the next so many chunks, and whether they are the last ones."""
        needed = samples_needed(self._chunks, chunk, chunks)
        self._chunks += chunks
        while self._held_samples < needed and not self.ended:
            self._read()
        taken = self._take(needed)
        return taken, len(taken) < needed

    def _read(self) -> None:
        block = next(self._blocks, None)
        if block is None:
            self.ended = True
            block = self._tail
        else:
            self.samples += len(block)
        self._held.append(block)
        self._held_samples += len(block)

    def _take(self, most: int) -> Samples:
        parts, wanted = [], min(most, self._held_samples)
        self._held_samples -= wanted
        while wanted:
            block = self._held.popleft()
            if len(block) > wanted:
                self._held.appendleft(block[wanted:])
            parts.append(block[:wanted])
            wanted -= len(parts[-1])
        return parts[0] if len(parts) == 1 else np.concatenate([np.zeros(0, np.float32), *parts])


@dataclass(frozen=True, slots=True, kw_only=True)
class Transcriber:
    """A backend that hears recordings with `chunk` encoder frames a chunk, `tail_ms` of silence after each."""

    backend: Backend
    chunk: int
    prompt: int | None = None
    tail_ms: int = 0

    def run(self, recordings: Iterable[Iterable[Samples]]) -> Iterator[Step]:
        """Every step of every recording, as it is heard; of one recording in order. `index` is their own order."""
        waiting = enumerate(recordings)
        busy: dict[int, Clip] = {}
        while True:
            for slot in range(self.backend.slots):
                if slot not in busy and (entry := next(waiting, None)) is not None:
                    busy[slot] = self._start(slot, *entry)
            if not busy:
                return
            for slot, step in self._step(busy):
                if step.last:
                    del busy[slot]
                yield step

    def _start(self, slot: int, index: int, blocks: Iterable[Samples]) -> Clip:
        self.backend.open(slot, self.prompt)
        return Clip(index, blocks, np.zeros(self.tail_ms * MS, np.float32))

    def _step(self, busy: dict[int, Clip]) -> list[tuple[int, Step]]:
        """One launch of every busy slot."""
        slots, chunks = sorted(busy), self.backend.most_chunks(self.chunk)
        rows = [Row(slot, *busy[slot].piece(self.chunk, chunks)) for slot in slots]
        heard = self.backend.collect(self.backend.launch(self.chunk, rows, chunks))
        return [(row.slot, _said(busy[row.slot], row, result, chunks)) for row, result in zip(rows, heard, strict=True)]


def _said(clip: Clip, row: Row, heard: Heard, chunks: int) -> Step:
    if isinstance(heard, Exception):
        return Step(clip.index, (), clip.samples, clip.ended, True, heard)
    return Step(clip.index, tuple(heard), clip.samples, clip.ended, row.last, chunks=chunks)
