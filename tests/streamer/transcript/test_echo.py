"""What a fork said ahead is not said again by the stream."""

from __future__ import annotations

from streamer.decoding import Token
from streamer.transcript.echo import LATE_FRAMES, Echoes


def said(echoes: Echoes, text: str, frame: int = 5) -> str:
    """The letters of a stream that are not dropped."""
    return "".join(c for c in text if not echoes.repeats(Token(ord(c), frame, 0.0)))


def tokens(text: str) -> list[Token]:
    return [Token(ord(c), 0, 0.0) for c in text]


def echoes(*texts: str, frames: int = 10) -> Echoes:
    result = Echoes()
    for text in texts:
        result.add(tokens(text), frames)
    return result


def test_tokens_are_dropped_while_they_equal_the_fork_s() -> None:
    assert said(echoes("ab"), "abab") == "ab"


def test_the_first_difference_ends_it() -> None:
    assert said(echoes("abc"), "axbc") == "xbc"
    assert said(echoes("abc"), "xabc") == "xabc"


def test_a_fork_that_said_nothing_drops_nothing() -> None:
    assert said(echoes(""), "ab") == "ab"


def test_of_several_forks_any_that_still_agrees_counts() -> None:
    assert said(echoes("ab", "acd"), "acde") == "e"
    assert said(echoes("ab", "acd"), "abcd") == "cd"


def test_a_later_fork_says_only_what_no_earlier_one_said_and_moves_nothing() -> None:
    first = echoes("ab")
    assert [chr(t.id) for t in first.unsaid(tokens("abcd"))] == ["c", "d"]
    assert said(first, "ab") == ""


def test_an_echo_ends_with_the_time_it_can_come_in() -> None:
    assert said(echoes("a", frames=10), "a", frame=10 + LATE_FRAMES - 1) == ""
    assert said(echoes("a", frames=10), "a", frame=10 + LATE_FRAMES) == "a"
