"""Whole recordings through a backend, chunk by chunk, many at once. The same chunks that a live stream gets.

Knows nothing of files, words or time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from models.config import SAMPLE_RATE
from streamer.backends.base import Backend, Heard, Row, samples_needed
from streamer.decoding import Token

MS = SAMPLE_RATE // 1000  # samples in a millisecond


@dataclass(slots=True)
class Clip:
    """One recording on its way through a slot."""

    index: int
    pcm: NDArray[np.float32]  # 16 kHz mono, the silence at the end included
    tokens: list[Token] = field(default_factory=list)
    error: Exception | None = None
    _at: int = 0
    _chunks: int = 0

    def piece(self, chunk: int) -> tuple[NDArray[np.float32], bool]:
        """The samples of the next chunk, and whether they are the last ones."""
        needed = samples_needed(self._chunks, chunk)
        taken = self.pcm[self._at : self._at + needed]
        self._at += len(taken)
        self._chunks += 1
        return taken, len(taken) < needed


@dataclass(frozen=True, slots=True, kw_only=True)
class Transcriber:
    """A backend that hears recordings with `chunk` encoder frames a chunk, `tail_ms` of silence after each."""

    backend: Backend
    chunk: int
    prompt: int | None = None
    tail_ms: int = 0

    def run(self, recordings: Iterable[NDArray[np.float32]]) -> Iterator[Clip]:
        """The clips as they finish, which need not be the order they came in; `index` is that order."""
        waiting = enumerate(recordings)
        busy: dict[int, Clip] = {}
        while True:
            for slot in range(self.backend.slots):
                if slot not in busy and (entry := next(waiting, None)) is not None:
                    busy[slot] = self._start(slot, *entry)
            if not busy:
                return
            for slot in self._step(busy):
                yield busy.pop(slot)

    def one(self, pcm: NDArray[np.float32]) -> Clip:
        """A single recording."""
        return next(self.run([pcm]))

    def _start(self, slot: int, index: int, pcm: NDArray[np.float32]) -> Clip:
        self.backend.open(slot, self.prompt)
        silence = np.zeros(self.tail_ms * MS, np.float32)
        return Clip(index, np.concatenate([pcm, silence]) if silence.size else pcm)

    def _step(self, busy: dict[int, Clip]) -> list[int]:
        """One launch of every busy slot; the slots whose clip is done."""
        slots = sorted(busy)
        rows = [Row(slot, *busy[slot].piece(self.chunk)) for slot in slots]
        heard = self.backend.collect(self.backend.launch(self.chunk, rows))
        for slot, result in zip(slots, heard, strict=True):
            _note(busy[slot], result)
        return [row.slot for row in rows if row.last or busy[row.slot].error]


def _note(clip: Clip, heard: Heard) -> None:
    if isinstance(heard, Exception):
        clip.error = heard
    else:
        clip.tokens.extend(heard)
