"""A deterministic toy that is a real backend: the loudness of an 80 ms frame is a letter, silence parts words.

Every verb is here, so the server's tests need no weights. Faults come by constructor only, never by what is heard.
What a device forbids while launches are under way is refused here, too.
"""

from __future__ import annotations

import string
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.config import FRAME_SAMPLES, HOP, ModelConfig
from models.tokenizer import Labels, Tokenizer
from streamer.backends.base import (
    FIRST_SHORTER_BY,
    BackendError,
    Heard,
    Row,
    State,
    Ticket,
    check_chunks,
    check_row,
    samples_needed,
)
from streamer.decoding import Token

LETTERS = string.ascii_lowercase
LABELS = (" ", *LETTERS)
LEVELS = 32  # loudness steps of full scale; letter i is i of them
LEFT = 70  # encoder frames; named for the look of it, the toy sees its own frame only

CONFIG = ModelConfig(
    name="fake", kind="ctc", mels=80, d_model=2, layers=1, heads=1, d_ff=2, licence="Apache-2.0",
    contexts=tuple((LEFT, chunk - 1) for chunk in (7, 1, 2, 14)), vocab_size=len(LABELS), labels=LABELS,
    tokenizer="labels",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Faults:
    """What goes wrong, and when."""

    on_launch: Callable[[int, Sequence[Row]], None] = lambda _launch, _rows: None
    """Called with the launch's number (from 0) and rows; may raise, or sleep."""
    on_collect: Callable[[int], None] = lambda _launch: None
    """Called when a launch's results are asked for, with its number; may raise, or sleep."""
    on_row: Callable[[Row], Exception | None] = lambda _row: None
    """The exception that this row alone meets."""
    on_take: Callable[[int], None] = lambda _slot: None
    """Called when a slot's state is copied; may raise."""


def failing(*launches: int) -> Faults:
    """These launches raise."""

    def on_launch(launch: int, rows: Sequence[Row]) -> None:
        if launch in launches:
            raise RuntimeError(f"launch {launch} of {len(rows)} rows fails as ordered")

    return Faults(on_launch)


def dead_from(first: int) -> Faults:
    """Every launch from this one on raises."""

    def on_launch(launch: int, rows: Sequence[Row]) -> None:
        if launch >= first:
            raise RuntimeError(f"launch {launch} of {len(rows)} rows finds a dead device, as ordered")

    return Faults(on_launch)


def slow(seconds: float) -> Faults:
    """Every launch takes at least this long."""
    return Faults(lambda _launch, _rows: time.sleep(seconds))


SAMPLES, FRAMES, CHUNKS, SPEAKING, DONE = range(5)  # columns of the arena
COLUMNS = ("samples", "frames", "chunks", "speaking", "done")


class FakeBackend:
    """The toy. Tokens depend on the stream's own samples only."""

    name, precision = "fake", "fp32"

    def __init__(
        self, slots: int = 8, faults: Faults | None = None, *, contiguous: bool = True, depth: int = 1
    ) -> None:
        self.config, self.slots, self.contiguous, self.depth = CONFIG, slots, contiguous, depth
        self.tokenizer: Tokenizer = Labels(LABELS)
        self.about = {"device": "cpu", "precision": self.precision, "kernels": "library", "rung": "eager"}
        self.launches = 0
        self._faults = faults or Faults()
        self._arena = np.zeros((slots, len(COLUMNS)), np.int64)
        self._opened = np.zeros(slots, np.bool_)
        self._under_way: deque[tuple[int, Ticket, frozenset[int]]] = deque()  # number, ticket, slots

    def lanes(self, count: int) -> Sequence[FakeBackend]:
        """As many toys, which have their faults apart."""
        if (count := min(count, self.slots // 2)) <= 1:
            return [self]
        size = -(-self.slots // count)
        return [FakeBackend(size, self._faults, contiguous=self.contiguous, depth=self.depth) for _ in range(count)]

    def open(self, slot: int, prompt: int | None = None) -> None:
        self._check_slot(slot)
        self._check_still(slot)
        if prompt is not None:
            raise BackendError("prompt", prompt, "none: the toy knows one language")
        self._arena[slot] = 0
        self._opened[slot] = True

    def most_chunks(self, chunk: int) -> int:
        """As many as make the longest chunk, where neighbours are stepped together as on a CPU."""
        return max(self.config.chunks) // chunk if self.contiguous else 1

    def launch(self, chunk: int, rows: Sequence[Row], chunks: int = 1) -> Ticket:
        """Does the work at once."""
        if chunk not in self.config.chunks:
            raise BackendError("chunk", chunk, "one of " + ", ".join(map(str, self.config.chunks)))
        check_chunks(chunks, self.most_chunks(chunk))
        if len({row.slot for row in rows}) != len(rows):
            raise BackendError("rows", [row.slot for row in rows], "no slot twice")
        if len(self._under_way) >= self.depth:
            raise BackendError("launch", f"{len(self._under_way)} launches under way", f"fewer than {self.depth}")
        for row in rows:
            self._check_still(row.slot)
        number, self.launches = self.launches, self.launches + 1
        self._faults.on_launch(number, rows)
        ticket = Ticket(len(rows), [self._hear_row(chunk, row, chunks) for row in rows])
        self._under_way.append((number, ticket, frozenset(row.slot for row in rows)))
        return ticket

    def collect(self, ticket: Ticket) -> list[Heard]:
        if not self._under_way or self._under_way[0][1] is not ticket:
            raise BackendError("collect", "another ticket", "that of the oldest launch under way")
        number, _, _ = self._under_way.popleft()
        self._faults.on_collect(number)
        return ticket.results

    def take(self, slot: int) -> State:
        self._check_open(slot)
        self._faults.on_take(slot)
        arrays = {name: self._arena[slot, i].copy() for i, name in enumerate(COLUMNS)}
        return State("fake", self.name, self.precision, arrays)

    def put(self, slot: int, state: State) -> None:
        self._check_slot(slot)
        state.check("fake", self.name, self.precision)
        if tuple(state.arrays) != COLUMNS or any(a.shape or a.dtype != np.int64 for a in state.arrays.values()):
            raise BackendError("state.arrays", ", ".join(state.arrays)[:80], ", ".join(COLUMNS))
        self._arena[slot] = [int(array) for array in state.arrays.values()]
        self._opened[slot] = True

    def fork(self, source: int, target: int) -> None:
        for slot in (source, target):
            self._check_still(slot)
        self.put(target, self.take(source))

    def vacate(self, slot: int) -> None:
        self._check_slot(slot)
        self._check_still(slot)
        self._opened[slot] = False

    def forget(self) -> None:
        self._opened[:] = False

    def close(self) -> None:
        self._opened[:] = False

    def _check_still(self, slot: int) -> None:
        """What is under way on a device must not be touched."""
        if any(slot in slots for _, _, slots in self._under_way):
            raise BackendError("slot", slot, "one that no launch under way has")

    def _check_slot(self, slot: int) -> None:
        if not 0 <= slot < self.slots:
            raise BackendError("slot", slot, f"0 to {self.slots - 1}")

    def _check_open(self, slot: int) -> None:
        self._check_slot(slot)
        if not self._opened[slot]:
            raise BackendError("slot", slot, "one that was opened")

    def _hear_row(self, chunk: int, row: Row, chunks: int) -> Heard:
        try:
            self._check_open(row.slot)
            own = self._arena[row.slot]
            if own[DONE]:
                raise BackendError(f"slot {row.slot}", "audio after the last chunk", "none")
            check_row(row, samples_needed(int(own[CHUNKS]), chunk, chunks))
            if (fault := self._faults.on_row(row)) is not None:
                return fault
        except BackendError as error:
            return error
        return self._hear(own, chunk, row, chunks)

    def _hear(self, own: NDArray[np.int64], chunk: int, row: Row, chunks: int) -> list[Token]:
        """One letter a loud frame, with a blank before it where the frame before was silent."""
        start = int(own[SAMPLES])
        own[SAMPLES] += len(row.pcm)
        own[CHUNKS] += chunks
        own[DONE] = row.last
        heard = self.config.encoder_frames(int(own[SAMPLES]) // HOP) if row.last else int(own[CHUNKS]) * chunk
        tokens: list[Token] = []
        for frame in range(int(own[FRAMES]), heard):
            first, end = frame_samples(frame)
            part = row.pcm[max(0, first - start) : end - start]
            level = round(float(np.abs(part).mean()) * LEVELS) if len(part) else 0
            if level:
                letter = LABELS.index(LETTERS[min(level, len(LETTERS)) - 1])
                logp = -float(level) / LEVELS
                tokens += [Token(label, frame, logp) for label in ((letter,) if own[SPEAKING] else (0, letter))]
            own[SPEAKING] = bool(level)
        own[FRAMES] = heard
        return tokens


def frame_samples(frame: int) -> tuple[int, int]:
    """First sample of an encoder frame and the one after its last."""
    end = FRAME_SAMPLES * (frame + 1) - FIRST_SHORTER_BY
    return max(0, end - FRAME_SAMPLES), end


def spell(text: str) -> NDArray[np.float32]:
    """PCM that is heard as `text` (letters and blanks), one frame a character."""
    levels = [0 if character == " " else LETTERS.index(character) + 1 for character in text]
    parts = [np.full(frame_samples(i)[1] - frame_samples(i)[0], level / LEVELS) for i, level in enumerate(levels)]
    return np.concatenate([np.zeros(0), *parts]).astype(np.float32)


def load(model_path: Path, slots: int, threads: int = 1) -> FakeBackend:
    """The toy needs no file and no threads."""
    del model_path, threads
    return FakeBackend(slots)
