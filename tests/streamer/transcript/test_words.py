"""Tokens to words: what is spelled, when it was said, how sure."""

from __future__ import annotations

import math
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.tokenizer import Tokenizer
from streamer.decoding import Token
from streamer.transcript.utterance import Utterance
from streamer.transcript.words import Bounds, Group, Speller, timed
from tests.streamer.toy import ID, PIECES, Pieces, token

SPELLER = Speller(Pieces(), (ID["<EOU>"], ID["<EOB>"], None))
LONG = 1000.0  # seconds of audio: no bound


def words(tokens: list[Token], audio_s: float = LONG, delay_s: float = 0.0) -> list[tuple[str, float, float]]:
    utterance = Utterance(SPELLER, delay_s)
    for one in tokens:
        utterance.add(one)
    return [(w.text, round(w.start_s, 3), round(w.end_s, 3)) for w in utterance.cut(audio_s).words]


def test_a_word_begins_at_its_mark_and_lasts_to_its_last_token_s_frame() -> None:
    tokens = [token("\u2581v1", 1), token("a", 3), token("\u2581v2", 10)]
    assert words(tokens) == [("v1a", 0.08, 0.32), ("v2", 0.8, 0.88)]


def test_a_word_ends_where_the_next_one_starts() -> None:
    assert words([token("\u2581v1", 1), token("a", 5), token("\u2581v2", 5)]) == [("v1a", 0.08, 0.4), ("v2", 0.4, 0.48)]


def test_words_that_share_a_frame_share_it_in_order() -> None:
    tokens = [token("\u2581v1", 5), token("\u2581v2", 5), token("\u2581v3", 5), token("\u2581v4", 5)]
    assert words(tokens) == [("v1", 0.4, 0.42), ("v2", 0.42, 0.44), ("v3", 0.44, 0.46), ("v4", 0.46, 0.48)]


def test_no_word_lasts_beyond_the_audio() -> None:
    assert words([token("\u2581v1", 1), token("\u2581v2", 5)], audio_s=0.39) == [("v1", 0.08, 0.16), ("v2", 0.39, 0.39)]


def test_the_emission_delay_is_subtracted_and_never_goes_below_zero() -> None:
    assert words([token("\u2581v1", 1), token("\u2581v2", 10)], delay_s=0.2) == [("v1", 0.0, 0.0), ("v2", 0.6, 0.68)]


def test_a_continuation_piece_at_the_beginning_starts_a_word() -> None:
    assert words([token("a", 2), token("b", 3)]) == [("ab", 0.16, 0.32)]


def test_a_bare_mark_makes_no_word_and_the_word_starts_with_its_first_letter() -> None:
    assert words([token("\u2581v1", 1), token("\u2581", 4), token("a", 9)]) == [("v1", 0.08, 0.16), ("a", 0.72, 0.8)]
    assert words([token("\u2581", 4)]) == []
    assert words([token("\u2581", 4), token("\u2581", 5), token("\u2581v1", 6)]) == [("v1", 0.48, 0.56)]


def test_language_tags_and_end_of_utterance_are_hidden() -> None:
    tokens = [token("\u2581v1", 1), token("\u2581<en-US>", 2), token("<EOU>", 3), token("a", 4), token("<EOB>", 5)]
    assert words(tokens) == [("v1a", 0.08, 0.4)]


def test_a_language_tag_spelled_in_several_pieces_is_hidden_too() -> None:
    speller = Speller(Tokenizer.from_labels([*"abc <>-enUS"]))
    tokens = [Token(speller._tokenizer.pieces.index(c), i, 0.0) for i, c in enumerate("ab <en-US> c")]
    assert speller.text(tokens) == "ab c"


def test_confidence_is_the_exponential_of_the_mean_log_probability() -> None:
    group = SPELLER.group([token("\u2581v1", 1, -0.5), token("a", 2, -1.5)])
    assert group is not None
    assert group.confidence == pytest.approx(math.exp(-1))
    certain = SPELLER.group([token("\u2581v1", 1, 1e-7)])
    assert certain is not None
    assert certain.confidence == 1.0


def test_a_character_model_s_words_are_parted_by_its_space_label() -> None:
    labels = [*"abc "]
    speller = Speller(Tokenizer.from_labels(labels))
    utterance = Utterance(speller)
    for i, c in enumerate(" ab  c "):
        utterance.add(Token(labels.index(c), i, 0.0))
    said = utterance.cut(LONG).words
    assert [(w.text, round(w.start_s / 0.08), round(w.end_s / 0.08)) for w in said] == [("ab", 1, 3), ("c", 5, 6)]


def test_an_unknown_piece_inside_a_word_parts_it_as_its_text_does() -> None:
    speller = Speller(Pieces(["\u2581a", " \u2047 ", "b"]))
    group = speller.group([Token(0, 3, 0.0), Token(1, 3, 0.0), Token(2, 4, 0.0)])
    assert group is not None
    assert group.texts == ("a", "\u2047", "b")
    spans = timed([group], Bounds(floor_s=0.0, audio_s=LONG))
    assert [round(w.start_s, 4) for w in spans] == [0.24, 0.2667, 0.2933]


tokens_in_order = st.lists(st.tuples(st.sampled_from(PIECES), st.integers(0, 3), st.floats(-9, 0)), max_size=30).map(
    lambda parts: [token(p, sum(gap for _, gap, _ in parts[: i + 1]), logp) for i, (p, _, logp) in enumerate(parts)]
)


@given(tokens_in_order, st.floats(0, 8), st.floats(0, 0.5))
def test_the_words_joined_are_the_text_and_their_times_never_go_back(
    tokens: list[Token], audio_s: float, delay_s: float
) -> None:
    utterance = Utterance(SPELLER, delay_s)
    for one in tokens:
        utterance.add(one)
    said = utterance.cut(audio_s).words
    assert " ".join(w.text for w in said) == SPELLER.text(tokens)
    times = [t for w in said for t in (w.start_s, w.end_s)]
    assert times == sorted(times)
    assert all(0 <= t <= audio_s for t in times)
    assert all(0 <= w.confidence <= 1 for w in said)


@pytest.mark.parametrize("name", ["eou_bpe", "rnnt_bpe_bn128"])
def test_with_a_real_vocabulary_the_words_joined_are_the_tokenizer_s_own_text(golden: Path, name: str) -> None:
    with tarfile.open(golden / "models" / name / f"{name}.nemo") as tar:
        member = next(m for m in tar.getmembers() if m.name.endswith("tokenizer.model"))
        file = tar.extractfile(member)
        assert file is not None
        tokenizer = Tokenizer.from_sentencepiece(file.read())
    ids = tokenizer.encode("the other one was with them and they all went to the river again")
    utterance = Utterance(Speller(tokenizer))
    for frame, id_ in enumerate(ids):
        utterance.add(Token(id_, frame, 0.0))
    assert " ".join(w.text for w in utterance.cut(LONG).words) == tokenizer.decode(ids)


def test_group_is_a_value() -> None:
    assert SPELLER.group([token("\u2581v1", 1)]) == Group(("v1",), 1, 2, 1.0)
