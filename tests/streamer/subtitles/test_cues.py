"""Claims about cues: every word once and in order, within the lengths, times and gaps that the style asks for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise, zip_longest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.protocols.events import Word
from streamer.subtitles import joints
from streamer.subtitles.cues import Cue, Cutter, Style

STYLE = Style()
GAP_MS = 80

TEXTS = st.one_of(
    st.sampled_from(
        ["the", "of", "and", "because", "Well,", "yes.", "Mr.", "no!", "said;", "\u201cgo.\u201d", "--", "3.14", "I."]
    ),
    st.text(st.characters(categories=("L", "N", "P", "S")), min_size=1, max_size=60).filter(
        lambda text: text == "".join(text.split())
    ),
)
STEPS = st.one_of(st.just(0.0), st.floats(0, 0.7), st.floats(0, 12))  # seconds, often none


@st.composite
def speech(draw: st.DrawFn) -> list[Word]:
    """Words as a transcript gives them: times never go back, and may stand still."""
    words, now = [], 0.0
    for _ in range(draw(st.integers(0, 60))):
        start = now + draw(STEPS)
        now = start + draw(STEPS)
        words.append(Word(word=draw(TEXTS), start=start, end=now, confidence=1.0))
        now = words[-1].end
    return words


STYLES = st.builds(
    Style,
    line_length=st.integers(4, 60),
    lines=st.integers(1, 3),
    characters_per_s=st.floats(5, 40),
    shortest_s=st.floats(0.1, 2),
    longest_s=st.floats(2, 10),
)


def cut(words: Sequence[Word], style: Style = STYLE) -> list[Cue]:
    cutter = Cutter(style)
    return cutter.add(words) + cutter.end()


def said(text: str, start: float = 0.0, each_s: float = 0.3, pause_s: float = 0.0) -> list[Word]:
    """Words of equal length, `pause_s` between them."""
    step = each_s + pause_s
    return [
        Word(word=word, start=start + i * step, end=start + i * step + each_s, confidence=0.9)
        for i, word in enumerate(text.split())
    ]


@given(speech(), STYLES)
def test_every_word_is_said_once_and_in_order(words: list[Word], style: Style) -> None:
    assert [text for cue in cut(words, style) for line in cue.lines for text in line.split(" ")] == [
        word.word for word in words
    ]


@given(speech(), STYLES)
def test_lines_are_short_and_few_and_a_longer_word_stands_alone(words: list[Word], style: Style) -> None:
    for cue in cut(words, style):
        assert len(cue.lines) <= style.lines
        assert all(len(line) <= style.line_length for line in cue.lines) or (
            len(cue.lines) == 1 and " " not in cue.lines[0]
        )


@given(speech(), STYLES)
def test_cues_never_overlap_and_two_frames_lie_between_them(words: list[Word], style: Style) -> None:
    cues = cut(words, style)
    for before, after in pairwise(cues):
        assert after.start_ms - before.end_ms >= GAP_MS
    assert all(GAP_MS <= cue.end_ms - cue.start_ms <= round(style.longest_s * 1000) for cue in cues)


@given(speech(), STYLES)
def test_a_cue_never_begins_before_its_first_word(words: list[Word], style: Style) -> None:
    place = 0
    for cue in cut(words, style):
        assert cue.start_ms >= round(words[place].start * 1000)
        place += sum(len(line.split(" ")) for line in cue.lines)


@given(speech(), STYLES)
def test_a_cue_is_long_enough_to_read_where_the_next_one_leaves_the_time(words: list[Word], style: Style) -> None:
    cues = cut(words, style)
    for cue, after in zip_longest(cues, cues[1:]):
        length = sum(map(len, cue.lines)) + len(cue.lines) - 1
        wanted_ms = min(1000 * max(style.shortest_s, length / style.characters_per_s), 1000 * style.longest_s)
        room_ms = after.start_ms - GAP_MS - cue.start_ms if after else wanted_ms
        assert cue.end_ms - cue.start_ms >= min(wanted_ms, room_ms) - 1  # half a millisecond is rounded at each end


@given(speech(), STYLES, st.integers(0, 60))
def test_what_is_out_does_not_depend_on_what_comes_later(words: list[Word], style: Style, known: int) -> None:
    out = Cutter(style).add(words[:known])
    assert cut(words, style)[: len(out)] == out


@given(speech(), STYLES, st.lists(st.integers(0, 60)), st.floats(0, 30))
def test_hearing_that_nothing_was_said_changes_no_cue(
    words: list[Word], style: Style, told: list[int], silence: float
) -> None:
    cutter, cues = Cutter(style), []
    for number, word in enumerate(words):
        cues += cutter.add([word])
        after = words[number + 1].start if number + 1 < len(words) else word.end + silence
        if number in told:
            cues += cutter.heard(min(after, word.end + silence))
    assert cues + cutter.end() == cut(words, style)


def test_no_word_at_all_settles_everything() -> None:
    cutter = Cutter(STYLE)
    cutter.add(said("that is all"))
    assert [cue.lines for cue in cutter.heard(math.inf)] == [("that is all",)]
    assert cutter.heard(math.inf) == []


def test_hours_without_a_pause_wait_for_no_more_than_two_cues() -> None:
    cutter = Cutter(STYLE)
    for second in range(0, 3600, 3):
        cutter.add(said("on and on it goes and goes and goes and on", start=second))
        assert cutter.waiting_s is None or second + 3 - cutter.waiting_s < 2 * STYLE.longest_s + 3


# Where cues end.


def test_a_cue_ends_with_the_sentence() -> None:
    cues = cut(said("It was late in the evening. They went home, and slept."))
    assert [cue.lines for cue in cues] == [("It was late in the evening.",), ("They went home, and slept.",)]


def test_a_very_short_sentence_stays_with_the_next() -> None:
    assert [cue.lines for cue in cut(said("Yes. They went home."))] == [("Yes. They went home.",)]


def test_a_small_word_between_two_pauses_stands_with_what_it_leans_on() -> None:
    def texts(lone: str, pause_s: float) -> list[str]:
        before, behind = said("they went", start=0.0), said("town", start=1.8 + pause_s)
        cutter = Cutter(Style())
        cues = [*cutter.add([*before, *said(lone, start=1.5), *behind]), *cutter.end()]
        return [" ".join(cue.lines) for cue in cues]

    assert texts("to", 0.8) == texts("to", 1.19) == ["they went", "to town"]
    assert texts("to", 1.2) == ["they went", "to", "town"]
    assert texts("yes", 0.8) == ["they went", "yes", "town"]


def test_a_long_pause_ends_a_cue_and_a_short_one_does_not() -> None:
    words = said("over the hills") + said("and far away", start=1.6)
    assert [cue.lines for cue in cut(words)] == [("over the hills and far away",)]
    words = said("over the hills") + said("and far away", start=1.7)
    assert [cue.lines for cue in cut(words)] == [("over the hills",), ("and far away",)]


@pytest.mark.parametrize(
    ("text", "ends"),
    [
        ("He met Mr. Smith. He met him on the 3.5 mile road by J. Miller.", ["Smith.", "Miller."]),
        (
            "\u201cIs it late?\u201d \u201cIt is.\u201d \u2026and on it went for a while",
            ["late?\u201d", "is.\u201d", "while"],
        ),
        ("It was version 2. and so on. \u00c9tait-il l\u00e0\uff1f Oui.", ["on.", "l\u00e0\uff1f", "Oui."]),
    ],
)
def test_what_ends_a_sentence(text: str, ends: list[str]) -> None:
    words = text.split()
    assert [word for word, after in pairwise([*words, "Z"]) if joints.ends_sentence(word, after)] == [
        end for end in ends if end != "while"
    ]


# How lines break.


def test_lines_break_at_a_clause_and_the_lower_one_may_be_longer() -> None:
    (cue,) = cut(said("If it rains tomorrow, we shall stay at home and read", each_s=0.2))
    assert cue.lines == ("If it rains tomorrow,", "we shall stay at home and read")


def test_lines_break_before_a_conjunction_rather_than_behind_it() -> None:
    (cue,) = cut(said("the boy sat down on the bank and the priest went home", each_s=0.25))
    assert cue.lines == ("the boy sat down on the bank", "and the priest went home")


LEANING = st.sampled_from(["the", "of", "a", "with", "and", "to"])


@given(
    st.lists(st.tuples(LEANING, st.text("xyz", min_size=2, max_size=7)), min_size=2, max_size=40),
    st.builds(Style, line_length=st.integers(26, 60), lines=st.integers(1, 3)),
)
def test_no_line_ends_in_an_article_or_a_preposition(pairs: list[tuple[str, str]], style: Style) -> None:
    words = said(" ".join(f"{small} {noun}" for small, noun in pairs), each_s=0.1)
    lines = [line for cue in cut(words, style) for line in cue.lines]
    assert not [line for line in lines if line.rpartition(" ")[2] in {"the", "of", "a", "with", "and", "to"}]


def test_one_line_is_enough_for_what_fits_one() -> None:
    assert len("he came along the river to see if it rains") == STYLE.line_length
    (cue,) = cut(said("he came along the river to see if it rains", each_s=0.2))
    assert len(cue.lines) == 1
    (cue,) = cut(said("he came along the rivers to see if it rains", each_s=0.2))
    assert len(cue.lines) == 2


# How long cues stay.


def test_a_short_cue_stays_as_long_as_it_takes_to_read() -> None:
    first, last = cut(said("no") + said("unquestionably yes indeed", start=10, each_s=0.1))
    assert (first.start_ms, first.end_ms) == (0, 1000)
    assert (last.start_ms, last.end_ms) == (10_000, 10_000 + round(25 / 17 * 1000))


def test_a_cue_leaves_two_frames_before_the_next_and_closes_small_holes() -> None:
    close, _ = cut(said("It was late in the evening.") + said("They went home.", start=2.0))
    assert close.end_ms == 1920
    apart, _ = cut(said("It was late in the evening.") + said("They went home.", start=2.5))
    assert apart.end_ms == 1800


def test_words_that_share_a_moment_still_make_cues_one_after_the_other() -> None:
    words = [Word(word=f"{'x' * 41}{n}", start=1.0, end=1.0, confidence=1.0) for n in range(4)]
    style = Style(lines=1)
    assert [(cue.start_ms, cue.end_ms) for cue in cut(words, style)][:3] == [(1000, 1080), (1160, 1240), (1320, 1400)]
