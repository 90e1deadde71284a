"""The open segment: what is stable stays, and a cut loses nothing."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streamer.decoding import Token
from streamer.transcript.utterance import Utterance
from streamer.transcript.words import Speller
from tests.streamer.toy import PIECES, Pieces, token

SPELLER = Speller(Pieces())
LONG = 1000.0


def test_all_but_the_last_word_of_a_draft_are_stable() -> None:
    utterance = Utterance(SPELLER)
    assert (utterance.draft(LONG).words, utterance.draft(LONG).stable) == ((), 0)
    for piece, stable in (("\u2581v1", 0), ("a", 0), ("\u2581v2", 1), ("\u2581", 1), ("b", 2)):
        utterance.add(token(piece, 5))
        assert utterance.draft(LONG).stable == stable


def test_a_cut_before_the_last_word_keeps_that_word_for_the_next_segment() -> None:
    utterance = Utterance(SPELLER)
    for i, piece in enumerate(["\u2581v1", "a", "\u2581v2", "\u2581v3", "b"]):
        utterance.add(token(piece, i))
    assert utterance.last_word_frame() == 3
    first = utterance.cut_before_last(LONG)
    second = utterance.cut(LONG)
    assert [w.text for w in first.words] == ["v1a", "v2"]
    assert [w.text for w in second.words] == ["v3b"]
    assert (first.index, second.index, first.end_s, second.start_s) == (0, 1, 0.24, 0.24)


def test_a_cut_before_the_last_word_takes_a_bare_mark_after_it_along() -> None:
    utterance = Utterance(SPELLER)
    for i, piece in enumerate(["\u2581v1", "\u2581", "\u2581v2", "a", "\u2581", "\u2581"]):
        utterance.add(token(piece, i))
    assert [w.text for w in utterance.cut_before_last(LONG).words] == ["v1"]
    utterance.add(token("b", 9))
    assert [w.text for w in utterance.cut(LONG).words] == ["v2a", "b"]


def test_a_segment_without_words_lies_at_the_end_of_the_last_final_word() -> None:
    utterance = Utterance(SPELLER)
    utterance.add(token("\u2581v1", 3))
    utterance.cut(LONG)
    empty = utterance.cut(LONG)
    assert (empty.index, empty.words, empty.start_s, empty.end_s) == (1, (), 0.32, 0.32)


def test_a_later_segment_never_begins_before_the_one_before_it_ended() -> None:
    utterance = Utterance(SPELLER)
    utterance.add(token("\u2581v1", 10))
    end_s = utterance.cut(0.85).end_s
    utterance.add(token("\u2581v2", 9))
    assert utterance.draft(0.5).words[0].start_s == end_s == 0.85


# Frames with their tokens, in order; sometimes a draft is asked for, sometimes a cut made between frames.
what = st.sampled_from(["", "", "draft", "draft", "cut", "length"])
frames = st.lists(st.tuples(st.lists(st.sampled_from(PIECES), max_size=4), what), max_size=30)


@given(frames, st.floats(0, 0.3), st.floats(0, 0.2))
def test_stable_words_never_change_and_the_tokens_of_all_segments_are_all_tokens(
    parts: list[tuple[list[str], str]], delay_s: float, short_s: float
) -> None:
    utterance, segments, everything = Utterance(SPELLER, delay_s), [], list[Token]()
    stable = ()
    for frame, (pieces, what) in enumerate(parts):
        for i, piece in enumerate(pieces):
            everything.append(token(piece, frame, -0.1 * i))
            utterance.add(everything[-1])
        audio_s = max(0.0, (frame + 1) * 0.08 - short_s)
        if what == "draft":
            draft = utterance.draft(audio_s)
            assert draft.words[: len(stable)] == stable
            stable = draft.words[: draft.stable]
        elif what == "cut" or (what == "length" and utterance.words > 1):
            segment = utterance.cut(audio_s) if what == "cut" else utterance.cut_before_last(audio_s)
            assert segment.words[: len(stable)] == stable
            stable = ()
            segments.append(segment)
    segments.append(utterance.cut(LONG))
    assert [t for s in segments for t in s.tokens] == everything
    assert [s.index for s in segments] == list(range(len(segments)))
    times = [t for s in segments for w in s.words for t in (w.start_s, w.end_s)]
    assert times == sorted(times)


@given(frames)
def test_drafts_on_the_way_do_not_change_what_is_said(parts: list[tuple[list[str], str]]) -> None:
    quiet, asked = Utterance(SPELLER), Utterance(SPELLER)
    for frame, (pieces, what) in enumerate(parts):
        for piece in pieces:
            quiet.add(token(piece, frame))
            asked.add(token(piece, frame))
        if what:
            asked.draft(LONG)
    assert quiet.cut(LONG) == asked.cut(LONG)
