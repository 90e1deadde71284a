"""What the host knows of the streams in a device's slots: counters, and whether a row may be stepped. In NumPy alone.

Everything that a step does to the counters follows from the audio, so they move on before the device has begun. Knows
nothing of tensors or launches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.config import HOP, SUBSAMPLING, ModelConfig
from models.features_np import LEAD
from streamer.backends.arena import COUNTERS
from streamer.backends.base import (
    FIRST_SHORTER_BY,
    LOUDEST,
    BackendError,
    Heard,
    Row,
    check_row,
    check_turn,
    samples_needed,
)

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Columns:
    """Rows of a launch as arrays: a row at a time is too slow where a second brings sixty thousand."""

    slots: Ints
    last: NDArray[np.bool_]
    lengths: Ints  # samples; -1 where they are not one dimension of float32

    @classmethod
    def of(cls, rows: Sequence[Row]) -> Columns:
        slots = np.array([row.slot for row in rows], np.int64)
        return cls(
            slots, np.array([row.last for row in rows], np.bool_), np.array([_samples(r.pcm) for r in rows], np.int64)
        )

    def some(self, which: Sequence[int]) -> Columns:
        """These rows, in this order."""
        if len(which) == len(self.slots):
            return self
        return Columns(self.slots[which], self.last[which], self.lengths[which])


def _samples(pcm: object) -> int:
    return pcm.size if type(pcm) is np.ndarray and pcm.dtype == np.float32 and pcm.ndim == 1 else -1


class Ledger:
    """Counters of `slots` slots; slot number `slots` is the spare one, which rows of nobody name."""

    def __init__(self, config: ModelConfig, slots: int) -> None:
        self.config, self.slots = config, slots
        counters = np.zeros((len(COUNTERS), slots + 1), np.int64)
        self._samples, self._frames, self._chunk, self._prompt, self._done = counters
        self._counters: dict[str, Ints] = dict(zip(COUNTERS, counters, strict=True))
        self.opened = np.zeros(slots + 1, np.bool_)

    def open(self, slot: int, prompt: int | None) -> None:
        """A stream that heard nothing; refuses a slot or prompt that does not exist."""
        self.check_slot(slot)
        if prompt is None:
            prompt = self.config.prompt_index(None) or 0
        elif not 0 <= prompt < self.config.num_prompts:
            raise BackendError("prompt", prompt, f"below {self.config.num_prompts}, the prompts of the model")
        for counter in self._counters.values():
            counter[slot] = 0
        self._prompt[slot] = prompt
        self.opened[slot] = True

    def take(self, slot: int) -> dict[str, Ints]:
        """Copies of the slot's counters."""
        return {name: np.array(counter[slot]) for name, counter in self._counters.items()}

    def put(self, slot: int, values: dict[str, Ints]) -> None:
        """The slot's stream is where `values` say."""
        for name, counter in self._counters.items():
            counter[slot] = values[name]
        self.opened[slot] = True

    def check_slot(self, slot: int, opened: bool = False) -> None:
        if not 0 <= slot < self.slots:
            raise BackendError("slot", slot, f"0 to {self.slots - 1}")
        if opened and not self.opened[slot]:
            raise BackendError(f"slot {slot}", "no stream", "an open one")

    def refused(self, chunk: int, rows: Sequence[Row], columns: Columns) -> list[Heard]:
        """For each row an empty list, or the error of a row that cannot be stepped.

        Whether samples are numbers is asked of a whole tick together, by `fill`.
        """
        slots, last, lengths = columns.slots, columns.last, columns.lengths
        if len(set(slots.tolist())) != len(rows):
            raise BackendError("rows", "a slot twice", "each slot once")
        results: list[Heard] = [[] for _ in rows]
        inside = np.where((slots >= 0) & (slots < self.slots), slots, self.slots)  # the spare one is never open
        needed = SUBSAMPLING * HOP * chunk - np.where(self._frames[inside] == 0, FIRST_SHORTER_BY, 0)
        fine = self.opened[inside] & (self._done[inside] == 0) & np.isin(self._chunk[inside], (0, chunk))
        fine &= np.where(last, (lengths >= 0) & (lengths < needed), lengths == needed)
        for i in np.flatnonzero(~fine).tolist():
            results[i] = self.refusal(chunk, rows[i])
        return results

    def refusal(self, chunk: int, row: Row) -> Exception:
        """Why this row cannot be stepped. The others do not hear of it."""
        slot = row.slot
        try:
            self.check_slot(slot, opened=True)
            check_turn(slot, chunk, int(self._chunk[slot]), bool(self._done[slot]))
            check_row(row, samples_needed(int(self._frames[slot]) // chunk, chunk))
        except BackendError as error:
            return error
        raise AssertionError(f"slot {slot}: got a row that is fine, expected one to refuse")

    def idle(self, header: NDArray[np.int32]) -> None:
        """Rows of nobody: the spare slot, last and without audio."""
        header[:] = 0
        header[0], header[3] = self.slots, 1

    def fill(self, header: NDArray[np.int32], pcm: NDArray[np.float32], rows: Sequence[Row], at: Columns) -> list[int]:
        """Write a tick's rows, in front of rows of nobody; -> which are too loud or no numbers.

        header (6, B) and pcm (B, 1280 C), as models.tick.Tick.input has them. The counters stay; see `advance`.
        """
        self.idle(header)
        slots, last, lengths = at.slots, at.last, at.lengths
        before, heard = self._frames[slots], self._samples[slots] + lengths
        lead = np.where(self._samples[slots] == 0, FIRST_SHORTER_BY, 0)
        width = pcm.shape[1]
        for place, row, start, end in zip(pcm, rows, lead.tolist(), (lead + lengths).tolist(), strict=False):
            place[start:end] = row.pcm
            if start:
                place[:start] = 0.0
            if end < width:
                place[end:] = 0.0
        places = width // HOP
        first_place = np.where(before == 0, -LEAD, SUBSAMPLING * before - LEAD)
        valid = np.where(last, np.clip(heard // HOP - first_place, 0, places), places)
        header[:, : len(rows)] = slots, before, valid, last, self._prompt[slots], lead + lengths
        block = pcm[: len(rows)]
        peak = np.maximum(block.max(1), -block.min(1)) if len(rows) else np.zeros(0)
        return np.flatnonzero(~(peak <= LOUDEST)).tolist()  # NaN is not <= anything

    def advance(self, chunk: int, rows: Columns) -> None:
        """What a step of these rows does to their counters."""
        slots, last, lengths = rows.slots, rows.last, rows.lengths
        counts = np.full(len(slots), chunk)
        self._samples[slots] += lengths
        for i in np.flatnonzero(last).tolist():
            frames = self.config.encoder_frames(int(self._samples[slots[i]]) // HOP)
            counts[i] = max(0, frames - int(self._frames[slots[i]]))
        self._frames[slots] += counts
        self._chunk[slots], self._done[slots] = chunk, last
