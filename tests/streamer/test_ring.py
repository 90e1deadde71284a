"""Claims about samples in shared memory: what is placed is read, once, in order, before it is written over."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamer.engine import ring
from streamer.engine.ring import HEAD_BYTES, Ring, create
from streamer.engine.wire import INLINE, WORK_HEAD, Frames, Verb, WireError, ask, read_work, write_work

SAMPLES = 1000  # of the rings here


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ring, "BYTES", HEAD_BYTES + 4 * SAMPLES)
        yield


def ends() -> tuple[Ring, Ring]:
    file = create()
    if file is None:
        pytest.skip("no memory files on this system")
    made = Ring(file), Ring(file)
    os.close(file)
    return made


@settings(deadline=None)
@given(st.lists(st.one_of(st.lists(st.integers(0, 400), max_size=3), st.just("read")), max_size=60))
def test_what_is_placed_is_read_and_nothing_unread_is_written_over(story: list[list[int] | str]) -> None:
    front, engine = ends()
    under_way: deque[tuple[int, np.ndarray]] = deque()
    number = 0
    for turn in [*story, *["read"] * len(story)]:
        if isinstance(turn, list):
            sounds = [np.arange(size, dtype=np.float32) + 1000 * (number := number + 1) for size in turn]
            whole = np.concatenate([np.zeros(0, np.float32), *sounds])
            at = front.place(sounds)
            if at is not None:
                under_way.append((at, whole))
            else:
                assert len(whole) + sum(len(other) for _, other in under_way) > SAMPLES / 2, "there was room"
        elif under_way:
            at, whole = under_way.popleft()
            got = engine.look(at, len(whole))
            assert got is not None
            assert np.array_equal(got, whole)
            engine.done()


def test_a_place_is_looked_at_once_and_lies_inside() -> None:
    front, engine = ends()
    at = front.place([np.ones(600, np.float32)])
    assert at == 0
    assert engine.look(500, 501) is None
    assert engine.look(0, 600) is not None
    assert engine.look(0, 600) is None
    assert engine.look(2**62, SAMPLES + 1) is None


def test_without_room_the_samples_go_in_the_frame_itself() -> None:
    front, engine = ends()
    sizes, places = (600, 600, 2000, 5), []
    data = [write_work(1.0, [ask(Verb.FEED, 1, size)], [np.full(size, size, np.float32)], front) for size in sizes]
    for size, frame in zip(sizes, data, strict=True):
        frames = Frames()
        frames.space()[: len(frame)] = frame
        ((_, body),) = frames.read(len(frame))
        places.append(WORK_HEAD.unpack_from(body)[1])
        assert read_work(body, engine)[2].tolist() == [size] * size
    assert [at == INLINE for at in places] == [False, True, True, False]


def test_a_place_that_is_none_is_a_sentence() -> None:
    front, engine = ends()
    frame = memoryview(write_work(1.0, [ask(Verb.FEED, 1, 10)], [np.ones(10, np.float32)], front))[8:]
    read_work(frame, engine)
    for end in (engine, None):
        with pytest.raises(WireError, match=r"work\.samples: got 10 at 0, expected a place in the ring"):
            read_work(frame, end)
