"""Refusals read as sentences."""

from __future__ import annotations

import pytest

from streamer.errors import Refusal, one_of, shown


def test_a_refusal_says_where_got_and_expected() -> None:
    assert str(Refusal("sample_rate", 7000, "8000 to 48000")) == "sample_rate=7000: expected 8000 to 48000"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("pcm_s16", "pcm_s16"),
        ("two words", "'two words'"),
        (True, "true"),
        (None, "null"),
        (1.5, "1.5"),
        ("\ud800\n", "'\\ud800\\n'"),
        ([1], "[1]"),
    ],
)
def test_wrong_values_are_shown_plainly_and_what_is_not_plain_is_quoted(value: object, text: str) -> None:
    assert shown(value) == text


def test_a_value_nested_deeper_than_python_can_write_is_shown_all_the_same() -> None:
    nested: list[object] = []
    for _ in range(100_000):
        nested = [nested]
    assert shown(nested) == "[[[[...]]]]"


def test_a_long_wrong_value_is_cut_short() -> None:
    assert len(shown("x" * 100_000)) < 100


def test_an_unknown_name_is_answered_with_the_nearest_known_one() -> None:
    assert one_of(("latency", "language"), "latancy").endswith("(did you mean latency?)")
    assert one_of(("latency", "language"), "zzz") == "one of latency, language"


def test_a_code_outside_the_list_is_a_bug() -> None:
    with pytest.raises(AssertionError, match="code: got 'oops'"):
        Refusal("a", 1, "b", code="oops")
