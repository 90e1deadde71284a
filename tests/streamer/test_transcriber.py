"""Claims about hearing recordings chunk by chunk: however their blocks are cut, and never more of them than needed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.backends.fake import LABELS, FakeBackend, Faults, spell
from streamer.transcriber import Step, Transcriber

CHUNK = 2


def heard(steps: list[Step], index: int = 0) -> str:
    return "".join(LABELS[token.id] for step in steps if step.index == index for token in step.tokens).strip()


def transcriber(slots: int = 4, tail_ms: int = 0, faults: Faults | None = None) -> Transcriber:
    return Transcriber(backend=FakeBackend(slots, faults), chunk=CHUNK, tail_ms=tail_ms)


@given(st.lists(st.integers(0, 5000), max_size=40), st.integers(0, 20_000), st.sampled_from([0, 160]))
def test_cutting_the_blocks_anywhere_changes_nothing(cuts: list[int], length: int, tail_ms: int) -> None:
    pcm = spell("some words and more")[:length]
    blocks = np.split(pcm, [place for place in np.cumsum(cuts) if place < length])
    (whole, cut) = (list(transcriber(tail_ms=tail_ms).run([recording])) for recording in ([pcm], blocks))
    assert [step.tokens for step in cut] == [step.tokens for step in whole]
    assert (cut[-1].samples, cut[-1].ended, cut[-1].last) == (len(pcm), True, True)


def test_recordings_of_any_length_share_the_slots_and_keep_their_words() -> None:
    texts = ["a", "many words in a row", "", "two words", "x y z", "the end of it all"]
    steps = list(transcriber(slots=2).run([spell(text)] for text in texts))
    assert [heard(steps, index) for index in range(len(texts))] == texts
    assert sorted(step.index for step in steps if step.last) == list(range(len(texts)))


def test_no_more_of_a_recording_is_read_than_the_next_chunk_needs() -> None:
    read = 0

    def blocks() -> Iterator[np.ndarray]:
        nonlocal read
        for _ in range(500):
            read += 1000
            yield np.full(1000, 0.5, np.float32)

    for step in transcriber().run([blocks()]):
        assert read == step.samples
        assert step.last or read <= 1280 * CHUNK * (1 + step.tokens[-1].frame // CHUNK) + 1000


def test_a_recording_that_fails_ends_alone() -> None:
    faults = Faults(on_row=lambda row: ValueError("broken") if row.slot == 1 else None)
    recordings = [[spell("first one")], [spell("other")], [spell("third one")]]
    steps = list(transcriber(faults=faults).run(recordings))
    assert (heard(steps, 0), heard(steps, 2)) == ("first one", "third one")
    (failed,) = [step for step in steps if step.index == 1]
    assert failed.last
    assert str(failed.error) == "broken"


def test_the_silence_at_the_end_is_not_the_recordings_own() -> None:
    pcm = spell("end")
    (*_, last) = transcriber(tail_ms=640).run([[pcm]])
    assert last.samples == len(pcm)


@pytest.mark.parametrize("text", ["", "a"])
def test_what_is_shorter_than_a_chunk_is_heard(text: str) -> None:
    (step,) = transcriber().run([[spell(text)]])
    assert step.last
    assert heard([step]) == text
