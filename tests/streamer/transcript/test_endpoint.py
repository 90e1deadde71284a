"""Rules that end a segment, asked once per frame."""

from __future__ import annotations

from streamer.transcript.endpoint import Clock, Cut, Rules

RULES = Rules(silence=5, start=10, longest=20)


def test_milliseconds_are_rounded_up_to_whole_frames() -> None:
    assert Rules.of_ms(800, 801, 79) == Rules(10, 11, 1)


def test_silence_after_speech_ends_a_segment_when_it_is_long_enough() -> None:
    clock = Clock(began=0, spoke=7)
    assert clock.cut(RULES, 11, words=1) is None
    assert clock.cut(RULES, 12, words=1) is Cut.SILENCE


def test_silence_without_speech_restarts_the_clock_and_nothing_else() -> None:
    clock = Clock()
    assert clock.cut(RULES, 8, words=0) is None
    assert clock.cut(RULES, 9, words=0) is Cut.RESTART
    clock.restart(10)
    assert clock.cut(RULES, 18, words=0) is None
    assert clock.cut(RULES, 19, words=0) is Cut.RESTART


def test_a_long_segment_is_cut_once_it_has_two_words() -> None:
    clock = Clock(began=0, spoke=19)
    assert clock.cut(RULES, 18, words=2) is None
    assert clock.cut(RULES, 19, words=1) is None
    assert clock.cut(RULES, 19, words=2) is Cut.LENGTH


def test_a_word_without_end_is_cut_after_twice_the_length() -> None:
    clock = Clock(began=0, spoke=39)
    assert clock.cut(RULES, 38, words=1) is None
    assert clock.cut(RULES, 39, words=1) is Cut.OVERLONG


def test_switched_off_only_the_length_still_ends_a_segment() -> None:
    off = Rules(silence=5, start=10, longest=20, enabled=False)
    clock = Clock(began=0, spoke=3)
    assert clock.cut(off, 18, words=2) is None
    assert clock.cut(off, 19, words=2) is Cut.LENGTH
