"""Tokens of a batch of whole recordings, window by window on the device, and one copy of them to the host at the end.

Transducers go through the label loop that streams go through, as kernels where they run; CTC is one argmax and its
collapse. Knows nothing of audio, text or how frames came to be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.kernels import why_not
from models.kernels.search import KernelLoop
from models.label_loop import LabelLoop, Memory, Networks, collapse, start_memory
from models.transducer import Model

WINDOW = 32  # frames decoded at a time; any number gives the same tokens
FEWEST_ROWS = 8  # of a loop: batches of fewer share it
UNROLLED = 4  # trips of kernels between two looks at whether there is work: the look costs more than an idle trip
MOST_CELLS = 1 << 28  # of CTC's log-probabilities at once


@dataclass(frozen=True, slots=True)
class Spoken:
    """The tokens of one recording, in the order of their frames of 80 ms; `logps` over vocabulary and blank."""

    ids: NDArray[np.int32]
    frames: NDArray[np.int32]
    logps: NDArray[np.float32]

    @classmethod
    def nothing(cls) -> Spoken:
        empty = np.zeros(0, np.int32)
        return cls(empty, empty, np.zeros(0, np.float32))


class Decoding:
    """The decoder of one model; holds a loop for each size of batch that it has met.

    On CUDA the loops are kernels; where these cannot run `why_slow` says why, and the loops are torch's operators.
    """

    def __init__(self, model: Model, dtype: torch.dtype, device: torch.device) -> None:
        self._model, self._device = model, device
        on_device = model.config.transducer and device.type == "cuda"
        self.why_slow = why_not(device) if on_device else None
        self._kind = KernelLoop if on_device and self.why_slow is None else LabelLoop
        self._loops: dict[int, LabelLoop] = {}
        if model.config.transducer:
            self._networks = Networks.of(model, dtype, device)
            self._start = start_memory(self._networks, Memory.zeros(model.config, 1, device))

    def batch(self, rows: int) -> BatchDecoding:
        """Decodes one batch, none of which has said anything."""
        if self._model.config.transducer:
            return Transduced(self._model, self._fresh(max(FEWEST_ROWS, 1 << (rows - 1).bit_length())), rows)
        memory = Memory.zeros(self._model.config, rows, self._device)
        return Collapsed(self._model, memory, rows)

    def _fresh(self, rows: int) -> LabelLoop:
        """A loop over its own memory, each row the slot of its number, as at the start of a recording."""
        if rows not in self._loops:
            memory = Memory.zeros(self._model.config, rows, self._device)
            self._loops[rows] = self._kind(self._networks, memory, (rows, WINDOW))
            self._loops[rows].slots.copy_(torch.arange(rows, device=self._device))
        loop = self._loops[rows]
        for kept, start in zip((loop.memory.h, loop.memory.c, loop.memory.g), self._start, strict=True):
            kept.copy_(start.expand_as(kept))
        loop.memory.label.fill_(self._model.config.blank)
        loop.memory.jump.zero_()
        return loop


class BatchDecoding:
    """What the rows of one batch have said so far, on the device."""

    def __init__(self, model: Model, rows: int) -> None:
        self._model, self._rows = model, rows
        self._said: list[Tensor] = []  # (3, n) int32: row, label, frame
        self._logps: list[Tensor] = []

    def feed(self, frames: Tensor, counts: Sequence[int], first: int) -> None:
        """The next frames (b, T, d_model) of the first b rows, prompt applied; counts: real ones from `first` on."""
        raise NotImplementedError

    def spoken(self) -> list[Spoken]:
        """All that was said, by row."""
        if not self._said:
            return [Spoken.nothing()] * self._rows
        said, logps = torch.cat(self._said, dim=1).cpu().numpy(), torch.cat(self._logps).cpu().numpy()
        order = np.argsort(said[0], kind="stable")  # windows come in the order of time, and stay in it
        row, label, frame = said[:, order]
        cuts = np.searchsorted(row, np.arange(1, self._rows))
        parts = (np.split(array, cuts) for array in (label, frame, logps[order]))
        return [Spoken(*part) for part in zip(*parts, strict=True)]

    def _keep(self, said: Tensor, labels: Tensor, at: Tensor, logps: Tensor) -> None:
        """Of each row its first `said` (B,) tokens in labels, at and logps (B, most)."""
        row, column = (torch.arange(labels.shape[1], device=said.device) < said[:, None]).nonzero(as_tuple=True)
        self._said.append(torch.stack([row.int(), labels[row, column], at[row, column]]))
        self._logps.append(logps[row, column])


class Transduced(BatchDecoding):
    """RNN-T and TDT: the label loop, a window at a time."""

    def __init__(self, model: Model, loop: LabelLoop, rows: int) -> None:
        super().__init__(model, rows)
        self._loop = loop
        self._unrolled = UNROLLED if isinstance(loop, KernelLoop) else 1

    def feed(self, frames: Tensor, counts: Sequence[int], first: int) -> None:
        loop, rows = self._loop, len(frames)
        scores = self._model.joint.enc(frames)
        left = torch.zeros(loop.rows, dtype=torch.int32, device=frames.device)
        left[:rows] = torch.tensor(list(counts), device=frames.device)
        for at in range(0, frames.shape[1], WINDOW):
            window = scores[:, at : at + WINDOW]
            loop.scores[:rows, : window.shape[1]].copy_(window)
            loop.counts.copy_((left - at).clamp(0, window.shape[1]))
            loop.first.fill_(first + at)
            self._run()
            self._keep(loop.said, loop.labels, loop.at, loop.logps)

    def _run(self) -> None:
        self._loop.begin()
        while self._loop.working.item():
            for _ in range(self._unrolled):
                self._loop.trip()
        self._loop.end()


class Collapsed(BatchDecoding):
    """CTC: the best label of each frame, repeats and blanks dropped."""

    def __init__(self, model: Model, memory: Memory, rows: int) -> None:
        super().__init__(model, rows)
        self._memory = memory
        self._slots = torch.arange(rows, device=memory.label.device)

    def feed(self, frames: Tensor, counts: Sequence[int], first: int) -> None:
        left = torch.tensor(list(counts), dtype=torch.int32, device=frames.device)
        slots = self._slots[: len(frames)]
        step = max(1, MOST_CELLS // (len(frames) * (self._model.config.vocab_size + 1)))
        for at in range(0, frames.shape[1], step):
            window = frames[:, at : at + step]
            start = torch.full_like(left, first + at)
            real = (left - at).clamp(0, window.shape[1])
            self._keep(*collapse(self._model.ctc(window), real, start, self._memory, slots))
