"""The toy hears loudness as letters, keeps a backend's promises, and breaks only on order."""

from __future__ import annotations

import numpy as np
import pytest

from streamer.backends import load_backend
from streamer.backends.base import BackendError, Row, State, samples_needed
from streamer.backends.fake import FakeBackend, Faults, dead_from, failing, spell
from streamer.decoding import Token


def hear(backend: FakeBackend, slot: int, pcm: np.ndarray, chunk: int, *, open_: bool = True) -> list[Token]:
    if open_:
        backend.open(slot)
    tokens: list[Token] = []
    index = 0
    while True:
        part, pcm = pcm[: samples_needed(index, chunk)], pcm[samples_needed(index, chunk) :]
        last = len(part) < samples_needed(index, chunk)
        (heard,) = backend.collect(backend.launch(chunk, [Row(slot, part, last)]))
        assert isinstance(heard, list), heard
        tokens, index = tokens + heard, index + 1
        if last:
            return tokens


@pytest.mark.parametrize("chunk", [1, 2, 7, 14])
def test_what_is_spelled_is_heard_at_every_latency(chunk: int) -> None:
    backend = FakeBackend(4)
    tokens = hear(backend, 0, spell("hello world"), chunk)
    assert backend.tokenizer.decode([token.id for token in tokens]) == " hello world"
    assert tokens == hear(backend, 1, spell("hello world"), 7)


def test_neighbours_change_nothing() -> None:
    pcm = spell("abcdefg hij klm")[: samples_needed(0, 7)]
    alone = FakeBackend(4)
    alone.open(2)
    (expected,) = alone.collect(alone.launch(7, [Row(2, pcm)]))
    company = FakeBackend(4)
    for slot in range(4):
        company.open(slot)
    rows = [Row(0, pcm * 0), Row(2, pcm), Row(3, pcm[::-1].copy())]
    assert company.collect(company.launch(7, rows))[1] == expected


def test_a_state_goes_on_in_another_slot_of_another_backend() -> None:
    pcm, first = spell("taken and put elsewhere"), samples_needed(0, 7)
    whole = hear(FakeBackend(1), 0, pcm, 7)
    here, there = FakeBackend(1), FakeBackend(4)
    here.open(0)
    (head,) = here.collect(here.launch(7, [Row(0, pcm[:first])]))
    there.put(3, State.from_bytes(here.take(0).to_bytes()))
    tail: list[Token] = []
    at = first
    while True:
        part = pcm[at : at + samples_needed(1, 7)]
        last = len(part) < samples_needed(1, 7)
        (heard,) = there.collect(there.launch(7, [Row(3, part, last)]))
        assert isinstance(heard, list)
        tail, at = tail + heard, at + len(part)
        if last:
            break
    assert isinstance(head, list)
    assert head + tail == whole


def test_a_bad_row_is_an_exception_and_its_neighbour_is_heard() -> None:
    backend = FakeBackend(3)
    for slot in range(3):
        backend.open(slot)
    good = spell("abcdefg")[: samples_needed(0, 1)]
    bad = good.copy()
    bad[5] = np.nan
    results = backend.collect(backend.launch(1, [Row(0, bad), Row(1, good), Row(2, good[:-1])]))
    assert isinstance(results[0], BackendError)
    assert "NaN" in str(results[0])
    assert results[1] == hear(FakeBackend(1), 0, good, 1)
    assert isinstance(results[2], BackendError)


def test_faults_come_when_ordered() -> None:
    row = Row(0, np.zeros(200, np.float32))
    backend = FakeBackend(1, failing(1))
    for launch in range(3):
        backend.open(0)
        if launch == 1:
            with pytest.raises(RuntimeError, match="as ordered"):
                backend.launch(1, [row])
        else:
            assert backend.collect(backend.launch(1, [row])) == [[]]
    dead = FakeBackend(1, dead_from(0))
    dead.open(0)
    with pytest.raises(RuntimeError, match="dead device"):
        dead.launch(1, [row])
    refusing = FakeBackend(1, Faults(on_row=lambda row: ValueError(f"slot {row.slot}")))
    refusing.open(0)
    (heard,) = refusing.collect(refusing.launch(1, [row]))
    assert isinstance(heard, ValueError)


def test_a_slot_that_was_not_opened_and_a_state_of_another_model_are_refused() -> None:
    backend = FakeBackend(1)
    (heard,) = backend.collect(backend.launch(1, [Row(0, np.zeros(200, np.float32))]))
    assert isinstance(heard, BackendError)
    with pytest.raises(BackendError):
        backend.take(0)
    with pytest.raises(BackendError, match=r"state\.model"):
        backend.put(0, State("other", "fake", "fp32", {}))
    with pytest.raises(BackendError, match="no slot twice"):
        backend.launch(1, [Row(0, np.zeros(200, np.float32))] * 2)


def test_what_a_device_forbids_while_a_launch_is_under_way_is_refused() -> None:
    row, other = Row(0, np.zeros(200, np.float32)), Row(1, np.zeros(200, np.float32))
    backend = FakeBackend(3, depth=2)
    for slot in range(3):
        backend.open(slot)
    first, second = backend.launch(1, [row]), backend.launch(1, [other])
    with pytest.raises(BackendError, match=r"launches under way, expected fewer than 2"):
        backend.launch(1, [Row(2, row.pcm)])
    with pytest.raises(BackendError, match="oldest launch under way"):
        backend.collect(second)
    for touch in (lambda: backend.open(0), lambda: backend.fork(2, 1), lambda: backend.fork(1, 2)):
        with pytest.raises(BackendError, match="no launch under way"):
            touch()
    assert backend.collect(first) == [[]]
    backend.open(0)
    with pytest.raises(BackendError, match="no launch under way"):
        backend.launch(1, [other])


def test_it_is_found_by_name() -> None:
    assert load_backend("fake", "", slots=3).slots == 3
