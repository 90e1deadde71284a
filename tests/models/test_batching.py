"""Claims about batches: everybody is in one, little of it is padding, nothing is more than memory has room for."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.batching import PADDING, PIECE, SMALL, Budget, InMemory, Staging, batches, prepared

LENGTHS = st.lists(st.integers(0, 3000), max_size=200)
FREE = Budget(4000)


@given(LENGTHS, st.sampled_from([FREE, Budget(4000, 100_000)]))
def test_every_recording_is_in_one_batch_and_rows_go_from_long_to_short(lengths: list[int], budget: Budget) -> None:
    made = batches(lengths, budget)
    assert sorted(index for batch in made for index in batch) == list(range(len(lengths)))
    ordered = [lengths[index] for batch in made for index in batch]
    assert ordered == sorted(lengths, reverse=True)


@given(LENGTHS)
def test_little_of_a_large_batch_is_padding(lengths: list[int]) -> None:
    for batch in batches(lengths, FREE):
        places = len(batch) * lengths[batch[0]]
        if places > FREE.frames // SMALL:
            assert sum(lengths[index] for index in batch) >= (1 - PADDING) * places


@given(LENGTHS)
def test_a_batch_fits_or_is_one_recording(lengths: list[int]) -> None:
    for batch in batches(lengths, FREE):
        assert len(batch) == 1 or len(batch) * min(PIECE, lengths[batch[0]]) <= FREE.frames
    for batch in batches(lengths, Budget(4000, 100_000)):
        longest = lengths[batch[0]]
        assert len(batch) == 1 or (len(batch) * longest <= 4000 and len(batch) * longest**2 <= 100_000)


def test_long_recordings_share_a_batch_where_they_come_in_pieces() -> None:
    assert batches([45_000] * 6, Budget(30_000)) == [[0, 1, 2, 3, 4, 5]]
    assert [len(batch) for batch in batches([45_000] * 20, Budget(30_000))] == [10, 10]  # their samples lie there whole
    assert [len(batch) for batch in batches([2000] * 6, Budget(4000, 10_000_000))] == [2, 2, 2]


def test_a_batch_is_the_samples_with_zeros_behind_them() -> None:
    batch = Staging(torch.device("cpu")).load([InMemory(np.full(n, 0.5, np.float32)) for n in (5, 3, 0)], tail=2)
    assert batch.samples == (7, 5, 2)
    assert batch.pcm.tolist() == [[0.5] * 5 + [0, 0], [0.5] * 3 + [0] * 4, [0] * 7]


def test_items_are_made_ahead_by_a_thread_in_order_and_no_further() -> None:
    made: list[int] = []
    enough = threading.Event()

    def items() -> Iterator[int]:
        for number in range(10):
            made.append(number)
            if number == 2:
                enough.set()
            yield number

    coming = prepared(items(), depth=2)
    assert next(coming) == 0
    assert enough.wait(10)
    assert made == [0, 1, 2]
    assert list(coming) == list(range(1, 10))


def test_what_goes_wrong_while_items_are_made_comes_out_where_they_are_used() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise OSError("broken")

    coming = prepared(items(), depth=2)
    assert next(coming) == 1
    with pytest.raises(OSError, match="broken"):
        next(coming)


class Gpu:
    """A stream that writes down what is asked of it; its copies are made when somebody waits for them."""

    def __init__(self, log: list[str]) -> None:
        self._log, self._copies = log, 0

    def record_event(self) -> SimpleNamespace:
        number, self._copies = self._copies, self._copies + 1
        self._log.append(f"copy {number}")
        return SimpleNamespace(synchronize=lambda: self._log.append(f"wait {number}"))


class Logged(InMemory):
    """A recording that writes down when it is put into a batch."""

    def __init__(self, number: int, samples: int, log: list[str]) -> None:
        super().__init__(np.full(samples, number, np.float32))
        self._number, self._log = number, log

    def copy_to(self, out: np.ndarray) -> None:
        self._log.append(f"fill {self._number}")
        super().copy_to(out)


def test_a_buffer_is_filled_again_only_when_its_copy_has_been_made(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []
    made = torch.empty

    def empty(size: int, pin_memory: bool) -> torch.Tensor:
        assert pin_memory
        log.append(f"pin {size}")
        return made(size)

    staging = Staging(torch.device("cpu"))
    staging._copies = Gpu(log)
    monkeypatch.setattr(torch, "empty", empty)
    monkeypatch.setattr(torch.cuda, "stream", lambda _stream: nullcontext())
    for number, samples in enumerate((100, 90, 120, 200)):
        batch = staging.load([Logged(number, samples, log)], tail=3)
        assert batch.pcm.tolist() == [[number] * samples + [0, 0, 0]]
        assert batch.arrived is not None
    assert log == [
        *("pin 128", "fill 0", "copy 0"),
        *("pin 128", "fill 1", "copy 1"),
        *("wait 0", "fill 2", "copy 2"),
        *("wait 1", "pin 256", "fill 3", "copy 3"),
    ]
