"""What is read ahead of the device: recordings, in their order, as samples in files that vanish once they are used.

Bounded: so many groups are being read, so many windows wait. Knows nothing of models or words.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from streamer.commands import CommandError
from streamer.commands.hands import Read, Wanted, read

T = TypeVar("T")
GROUP_S = 120.0  # of audio that one call reads: calls cost, and what is read waits for all of its group
GROUP_FILES = 32  # where they are short ...
UNKNOWN_S = 15.0  # ... and how long one is taken for that does not say
MOST_BYTES = 2 << 30  # of samples that wait for their turn, nine hours: above it no group more is read
SHARED = Path("/dev/shm")  # memory with a name, on Linux
SHARED_BYTES = 8 << 30  # that must be free there, or the files go where all such files go: containers often have 64 MB


class Stored:
    """A recording whose samples lie in a group's file."""

    def __init__(self, wanted: Wanted, done: Read, file: _File, offset: int) -> None:
        assert done.samples is not None, "samples: got None, expected a recording that can be heard"
        self.wanted, self.error, self.samples = wanted, done.error, done.samples
        self._file, self._offset = file, offset

    def copy_to(self, out: NDArray[np.float32]) -> None:
        """Write all samples to `out` [samples], once: the file goes when its last recording has been copied."""
        self._file.read(self._offset, out)
        self.drop()

    def drop(self) -> None:
        """Nobody will ask for the samples."""
        self._file.release()


class _File:
    def __init__(self, path: Path, recordings: int) -> None:
        self._path, self._left = path, recordings
        self._file = path.open("rb", buffering=0)

    def read(self, offset: int, out: NDArray[np.float32]) -> None:
        self._file.seek(offset * out.itemsize)
        view = out.data.cast("B")
        while len(view):
            count = self._file.readinto(view)
            assert count, f"{self._path}: got fewer samples than were written, expected {len(view)} more bytes"
            view = view[count:]

    def release(self) -> None:
        self._left -= 1
        if self._left <= 0:
            self._file.close()
            self._path.unlink(missing_ok=True)


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder for the samples that are on their way, in memory where there is room."""
    shared = os.path.isdir(SHARED) and shutil.disk_usage(SHARED).free >= SHARED_BYTES and os.access(SHARED, os.W_OK)
    with tempfile.TemporaryDirectory(prefix="streamer-", dir=SHARED if shared else None) as folder:
        yield Path(folder)


@dataclass(frozen=True, slots=True)
class Shelf:
    """Who reads, where to, and how many groups at once."""

    hands: Executor
    folder: Path
    root: Path
    groups: int

    def stored(self, wanted: Sequence[Wanted], fail: Callable[[Wanted, str], None]) -> Iterator[Stored]:
        """The recordings in their order; what cannot be read is told to `fail` and left out."""
        waiting: deque[_Group] = deque()
        try:
            for number, group in enumerate(grouped(wanted)):
                while waiting and (len(waiting) >= self.groups or sum(map(_bytes, waiting)) >= MOST_BYTES):
                    yield from self._taken(*waiting.popleft(), fail)
                path = self.folder / f"{number}.f32"
                waiting.append((group, path, self.hands.submit(read, self.root, group, path)))
            while waiting:
                yield from self._taken(*waiting.popleft(), fail)
        finally:
            for _, _, coming in waiting:
                coming.cancel()

    def _taken(
        self, group: Sequence[Wanted], path: Path, coming: Future[list[Read]], fail: Callable[[Wanted, str], None]
    ) -> Iterator[Stored]:
        try:
            done = coming.result()
        except OSError as error:  # of the file of samples; what is wrong with a recording comes as a value
            raise CommandError(f"{path}: samples cannot be kept there ({error.strerror or error})") from None
        file = _File(path, max(1, sum(each.samples is not None for each in done)))
        offset, good = 0, False
        for wanted, each in zip(group, done, strict=True):
            if each.samples is None:
                fail(wanted, each.error or "")
                continue
            good = True
            yield Stored(wanted, each, file, offset)
            offset += each.samples
        if not good:
            file.release()


_Group = tuple[Sequence[Wanted], Path, "Future[list[Read]]"]


def _bytes(group: _Group) -> int:
    """Of the samples of a group so far; it may not have begun."""
    try:
        return group[1].stat().st_size
    except OSError:
        return 0


def grouped(wanted: Sequence[Wanted]) -> Iterator[Sequence[Wanted]]:
    """Neighbours that are read in one call: some minutes by what their manifest says, or as many as there may be."""
    group: list[Wanted] = []
    seconds = 0.0
    for each in wanted:
        group.append(each)
        seconds += each.part.duration_s or UNKNOWN_S
        if seconds >= GROUP_S or len(group) >= GROUP_FILES:
            yield group
            group, seconds = [], 0.0
    if group:
        yield group


def windows(recordings: Iterator[T], size: Callable[[T], int], first: int, most: int) -> Iterator[list[T]]:
    """Neighbours that are put into batches together: `first` in size, so that work begins, then up to `most`."""
    window: list[T] = []
    total, wanted = 0, first
    for recording in recordings:
        window.append(recording)
        total += size(recording)
        if total >= wanted:
            yield window
            window, total, wanted = [], 0, min(2 * wanted, most)
    if window:
        yield window
