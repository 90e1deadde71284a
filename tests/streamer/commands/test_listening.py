"""Claims about hearing recordings word by word: what comes out early is what the whole would have said."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streamer.backends.fake import FakeBackend, Faults, spell
from streamer.commands.listening import Chunks, Opened, _Speaker
from streamer.decoding import Token
from streamer.recordings import Unreadable
from streamer.transcriber import Step, Transcriber
from streamer.transcript.utterance import Utterance
from streamer.transcript.words import Speller
from tests.streamer.toy import PIECES, Pieces, token

CHUNK = 2  # encoder frames
SPELLER = Speller(Pieces(), (PIECES.index("<EOU>"),))


@st.composite
def spoken(draw: st.DrawFn) -> tuple[list[Token], int]:
    """Tokens in the order of their frames, several in some, and the samples of the audio they were heard in."""
    places = draw(st.lists(st.tuples(st.integers(0, 2), st.sampled_from(PIECES), st.floats(-3, 0)), max_size=30))
    frame, tokens = 0, []
    for step, piece, logp in places:
        frame += step
        tokens.append(token(piece, frame, logp))
    return tokens, 1280 * frame + draw(st.integers(200, 1280 * 4))


@given(spoken())
def test_words_that_come_early_are_those_of_the_whole(heard: tuple[list[Token], int]) -> None:
    tokens, samples = heard
    whole = Utterance(SPELLER)
    for each in tokens:
        whole.add(each)
    speaker, words = _Speaker(SPELLER, CHUNK), []
    chunks = max(1, -(-(samples + 1080) // (1280 * CHUNK)))
    for chunk in range(chunks + 1):
        last = chunk == chunks
        first, behind = CHUNK * chunk, CHUNK * (chunk + 1)
        said = tuple(each for each in tokens if first <= each.frame and (last or each.frame < behind))
        taken = min(samples, 1280 * behind - 1080)
        step = Step(0, said, samples if last else taken, last or taken == samples, last)
        words += speaker.hear(step).words
    assert tuple(words) == whole.cut(samples / 16000).words


@given(spoken())
def test_no_word_begins_in_what_was_called_quiet(heard: tuple[list[Token], int]) -> None:
    tokens, samples = heard
    speaker, quiet_s = _Speaker(SPELLER, CHUNK), 0.0
    for chunk in range(tokens[-1].frame // CHUNK + 1 if tokens else 1):
        said = tuple(each for each in tokens if each.frame // CHUNK == chunk)
        words = speaker.hear(Step(0, said, samples, False, False))
        assert all(word.start_s >= quiet_s for word in words.words)
        quiet_s = words.quiet_s
    last = speaker.hear(Step(0, (), samples, True, True))
    assert all(word.start_s >= min(quiet_s, samples / 16000) for word in last.words)


SLOWLY = spell((" " * 15).join(["one", "two", "three", "four", "five", " " * 30]))  # a step takes fourteen letters


def listener(faults: Faults | None = None) -> Chunks:
    return Chunks(Transcriber(backend=FakeBackend(4, faults), chunk=CHUNK), 160)


def test_words_come_out_while_the_recording_is_still_read() -> None:
    read = 0

    def blocks() -> Iterator[np.ndarray]:
        nonlocal read
        for block in np.array_split(SLOWLY, 140):
            read += 1
            yield block

    at = {word.text: read for said in listener().follow([blocks()]) for word in said.words}
    assert list(at) == ["one", "two", "three", "four", "five"]
    assert at["one"] < at["three"] < at["four"] < 140


def test_a_recording_that_fails_keeps_what_was_said_before() -> None:
    class Late:
        launches = 0

        def __call__(self, _row: object) -> Exception | None:
            self.launches += 1
            return ValueError("broken") if self.launches > 4 else None

    *early, last = listener(Faults(on_row=Late())).follow([[SLOWLY]])
    assert [word.text for said in early for word in said.words][:2] == ["one", "two"]
    assert (last.error, last.last) == ("broken", True)


def test_a_transcript_is_all_that_was_said() -> None:
    short, long = listener().hear([spell("a b"), spell("some more words")])
    assert (short.index, short.text) == (0, "a b")
    assert (long.index, long.text, len(long.tokens)) == (1, "some more words", len(" some more words"))


def test_what_cannot_be_opened_is_passed_over() -> None:
    def gone() -> int:
        raise Unreadable("gone: no such file")

    opened = Opened([lambda: 1, gone, lambda: 3])
    assert list(opened) == [1, 3]
    assert (opened.positions, opened.failed) == ([0, 2], 1)
