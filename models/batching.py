"""Which recordings are heard together, and how their samples reach the device. Knows nothing of layers or words.

Batches hold recordings of nearly one length; rows go from long to short, so that those that have ended are a suffix.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

T = TypeVar("T")
PADDING = 0.05  # of a batch's frames that may belong to no recording ...
SMALL = 8  # ... where the batch is more than this part of what fits: below it a fuller batch is worth more
PIECE = 512  # frames: recordings longer than that may be heard in pieces, so more of them fit
WHOLE = 16  # times the frames of a batch, at most, whose samples lie on the device while they are heard in pieces
BUFFERS = 2  # one is filled while the other one is on its way to the device
AHEAD = 2  # batches on their way while one is heard


class Recording(Protocol):
    """Samples at 16 kHz that lie somewhere."""

    samples: int

    def copy_to(self, out: NDArray[np.float32]) -> None:
        """Write them all to `out` [samples]."""


class InMemory:
    """A recording that is an array."""

    def __init__(self, pcm: NDArray[np.float32]) -> None:
        self._pcm, self.samples = pcm, len(pcm)

    def copy_to(self, out: NDArray[np.float32]) -> None:
        np.copyto(out, self._pcm)


@dataclass(frozen=True, slots=True)
class Budget:
    """What a batch may take. `frames` counts encoder frames with their padding; `squares` the sum of squared lengths,
    None where memory grows with the length alone."""

    frames: int
    squares: int | None = None

    def holds(self, rows: int, longest: int) -> bool:
        """Whether so many rows of this length fit; without `squares` long ones come in pieces."""
        if self.squares is not None:
            return rows * longest <= self.frames and rows * longest**2 <= self.squares
        return rows * min(longest, PIECE) <= self.frames and rows * longest <= WHOLE * self.frames


def batches(lengths: Sequence[int], budget: Budget) -> list[list[int]]:
    """Indices of recordings of so many frames, longest first; each batch has one at least, whatever fits."""
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    made: list[list[int]] = []
    heard = 0  # frames of the open batch that are somebody's
    for index in order:
        if made and _joins(lengths, made[-1], heard + lengths[index], budget):
            made[-1].append(index)
            heard += lengths[index]
        else:
            made.append([index])
            heard = lengths[index]
    return made


def _joins(lengths: Sequence[int], batch: list[int], heard: int, budget: Budget) -> bool:
    rows, longest = len(batch) + 1, lengths[batch[0]]
    if not budget.holds(rows, longest):
        return False
    places = rows * longest
    return places - heard <= PADDING * places or places <= budget.frames // SMALL


@dataclass(frozen=True, slots=True)
class Batch:
    """pcm (B, n) float32 on the device, zero behind each row's samples; `samples` from many to few.

    `arrived` is None where it is there already.
    """

    pcm: Tensor
    samples: tuple[int, ...]
    arrived: torch.cuda.Event | None = None

    def wait(self) -> None:
        """What is launched from here on, on the current stream, finds the batch on the device."""
        if self.arrived is not None:
            current = torch.cuda.current_stream(self.pcm.device)
            current.wait_event(self.arrived)
            self.pcm.record_stream(current)  # its memory was another stream's


class Staging:
    """Brings batches to the device. On CUDA through pinned buffers and a stream of its own, beside what runs there."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._buffers: list[Tensor] = [torch.zeros(0)] * BUFFERS
        self._gone: list[torch.cuda.Event | None] = [None] * BUFFERS
        self._next = 0
        self._copies = torch.cuda.Stream(device) if device.type == "cuda" else None

    def load(self, recordings: Sequence[Recording], tail: int = 0) -> Batch:
        """The recordings, each with `tail` zero samples behind it; the first one is the longest."""
        samples = tuple(recording.samples + tail for recording in recordings)
        shape = (len(samples), max(samples))
        if self._copies is None:
            pcm = torch.empty(shape)
            _fill(pcm, recordings)
            return Batch(pcm, samples)
        buffer = self._pinned(shape)
        _fill(buffer, recordings)
        with torch.cuda.stream(self._copies):
            pcm = buffer.to(self._device, non_blocking=True)
            arrived = self._gone[self._next] = self._copies.record_event()
        self._next = (self._next + 1) % BUFFERS
        return Batch(pcm, samples, arrived)

    def _pinned(self, shape: tuple[int, int]) -> Tensor:
        """The next buffer, once the copy that last used it has been made."""
        if (gone := self._gone[self._next]) is not None:
            gone.synchronize()
        needed = shape[0] * shape[1]
        if self._buffers[self._next].numel() < needed:  # pinning is slow: with room to spare it is done rarely
            self._buffers[self._next] = torch.empty(1 << (needed - 1).bit_length(), pin_memory=True)
        return self._buffers[self._next][:needed].view(shape)


def _fill(pcm: Tensor, recordings: Sequence[Recording]) -> None:
    rows: NDArray[np.float32] = pcm.numpy()
    for row, recording in zip(rows, recordings, strict=True):
        recording.copy_to(row[: recording.samples])
        row[recording.samples :] = 0.0


def prepared(items: Iterator[T], depth: int) -> Iterator[T]:
    """The same items, the next `depth` of which are made by a thread while one is used."""
    end = object()
    thread = ThreadPoolExecutor(1)
    try:
        coming = deque(thread.submit(next, items, end) for _ in range(depth))
        while (item := coming.popleft().result()) is not end:
            coming.append(thread.submit(next, items, end))
            yield item  # type: ignore[misc]  # it is no end
    finally:
        thread.shutdown(cancel_futures=True)
