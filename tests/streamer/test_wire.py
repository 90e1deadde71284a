"""Claims about the frames between fronts and engine: what is written is read, in any pieces; all else is a sentence."""

from __future__ import annotations

import json
import math
import random
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.actions import Heard
from streamer.decoding import Token
from streamer.engine.wire import (
    HEAD,
    INLINE,
    MOST_BYTES,
    WORK_HEAD,
    Frames,
    Kind,
    Verb,
    WireError,
    ask,
    read_heard,
    read_note,
    read_work,
    write_heard,
    write_note,
    write_work,
)

READERS = {Kind.WORK: read_work, Kind.HEARD: read_heard, Kind.NOTE: read_note}


def frames_of(data: bytes, pieces: int) -> list[tuple[Kind, bytes]]:
    """All frames, read in pieces of so many bytes."""
    frames, found = Frames(), []
    for at in range(0, len(data), pieces):
        piece = data[at : at + pieces]
        frames.space()[: len(piece)] = piece
        found += [(kind, bytes(body)) for kind, body in frames.read(len(piece))]
    return found


ASKS = st.lists(
    st.tuples(st.sampled_from(Verb), st.integers(0, 2**32 - 1), st.integers(0, 40), st.integers(-1, 2**31 - 1)),
    max_size=20,
)


@given(ASKS, st.floats(-1e9, 1e9), st.integers(1, 97))
def test_asks_are_read_as_they_were_written_in_any_pieces(
    asked: list[tuple[Verb, int, int, int]], came: float, pieces: int
) -> None:
    rows = [ask(*one) for one in asked]
    sounds = [np.arange(size, dtype=np.float32) + stream for verb, stream, size, _ in asked if verb <= Verb.FINISH]
    data = write_note("before") + write_work(came, rows, sounds) + write_note("after", n=3)
    first, (kind, body), last = frames_of(data, pieces)
    assert (read_note(memoryview(first[1])), read_note(memoryview(last[1]))) == (
        {"kind": "before"},
        {"kind": "after", "n": 3},
    )
    assert kind is Kind.WORK
    got_came, got, pcm = read_work(memoryview(body))
    assert (got_came, got) == (came, rows)
    assert np.array_equal(pcm, np.concatenate([np.zeros(0, np.float32), *sounds]))


TOKENS = st.builds(Token, st.integers(0, 2**31 - 1), st.integers(0, 2**32 - 1), st.floats(-1e3, 0))
HEARD = st.builds(
    Heard,
    st.lists(TOKENS, max_size=5).map(tuple),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**62),
    st.none() | st.integers(-1, 2**62),
    st.booleans(),
)


@given(st.lists(st.tuples(st.integers(0, 2**32 - 1), HEARD, st.floats(0, 1e9)), max_size=10), st.integers(1, 97))
def test_what_was_heard_is_read_as_it_was_written(told: list[tuple[int, Heard, float]], pieces: int) -> None:
    ((kind, body),) = frames_of(write_heard(told), pieces)
    assert kind is Kind.HEARD
    assert read_heard(memoryview(body)) == told


def test_a_frame_longer_than_a_read_arrives_whole() -> None:
    pcm = np.arange(1_000_000, dtype=np.float32)
    data = write_work(1.0, [ask(Verb.FEED, 1, len(pcm))], [pcm])
    for pieces in (60_000, 65_536):
        ((_, body),) = frames_of(data, pieces)
        assert np.array_equal(read_work(memoryview(body))[2], pcm)


ROW = struct.pack("<IIIi", 0, 1, 2, 0)


def work(came: float = 1.0, count: int = 1, row: bytes = ROW, samples: int = 2, at: int = INLINE) -> bytes:
    return WORK_HEAD.pack(came, at, count) + row + bytes(4 * samples)


@pytest.mark.parametrize(
    ("kind", "body", "words"),
    [
        (Kind.WORK, b"", "work: got 0 bytes, expected at least 20"),
        (Kind.WORK, work(count=5), "work: got 5 asks"),
        (Kind.WORK, work(count=2**32 - 1), "work: got 4294967295 asks"),
        (Kind.WORK, work(came=math.nan), "work: got 1 asks of nan"),
        (Kind.WORK, work() + b"x", "work: got 1 asks"),
        (Kind.WORK, work(samples=3), r"work: got 12 bytes of samples, expected the 8"),
        (Kind.WORK, work(row=struct.pack("<IIIi", 6, 1, 2, 0)), "work.verb: got 6, expected at most 5"),
        (Kind.WORK, work(row=struct.pack("<IIIi", 0, 1, 2**32 - 1, 0)), "of samples, expected the 17179869180"),
        (Kind.WORK, work(at=0), "work: got 8 bytes of samples, expected the 8 that its asks bring, here or"),
        (Kind.WORK, work(at=0, samples=0), "work.samples: got 2 at 0, expected a place in the ring"),
        (Kind.HEARD, b"1234567", "heard: got 7 bytes, expected at least 8"),
        (Kind.HEARD, struct.pack("<II", 1, 0), "heard: got 1 results and 0 tokens in 8 bytes"),
        (Kind.HEARD, struct.pack("<II", 1, 0) + struct.pack("<IIIIqdq", 1, 2, 0, 0, 0, 0, 0), "heard.tokens: got 2"),
        (Kind.NOTE, b"{", "note: got JSONDecodeError, expected JSON"),
        (Kind.NOTE, b"\xff\xff", "note: got UnicodeDecodeError, expected JSON"),
        (Kind.NOTE, b"[" * 100_000, "note: got RecursionError, expected JSON"),
        (Kind.NOTE, b"[]", "note: got list, expected an object"),
        (Kind.NOTE, json.dumps({"kind": 3}).encode(), "note: got dict, expected an object with its kind"),
    ],
)
def test_a_body_that_is_none_is_a_sentence(kind: Kind, body: bytes, words: str) -> None:
    with pytest.raises(WireError, match=words):
        READERS[kind](memoryview(body))


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (HEAD.pack(MOST_BYTES + 1, 1), f"frame: got {MOST_BYTES + 1} bytes, expected at most {MOST_BYTES}"),
        (HEAD.pack(0, 0), "frame: got kind 0"),
        (HEAD.pack(0, 9), "frame: got kind 9"),
        (b"GET / HT", "frame: got"),
    ],
)
def test_a_frame_that_is_none_is_a_sentence(head: bytes, words: str) -> None:
    with pytest.raises(WireError, match=words):
        frames_of(head, 8)


def test_damaged_frames_end_in_words_and_nothing_else() -> None:
    rng = random.Random(0)
    sounds = [np.ones(30, np.float32)]
    good = [
        write_work(1.0, [ask(Verb.FEED, 1, 30), ask(Verb.OPEN, 2, 7, -1)], sounds),
        write_heard([(1, Heard((Token(1, 2, -0.5),), 3, 4), 5.0)]),
        write_note("hello", text="x"),
    ]
    refused = 0
    for _ in range(3000):
        data = bytearray(rng.choice(good))
        for _ in range(rng.randrange(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        try:
            for kind, body in frames_of(bytes(data), 1000):
                READERS[kind](memoryview(body))
        except WireError:
            refused += 1
    assert 300 < refused < 3000, "either everything or nothing was noticed"
