"""Claims about when a word counts as seen, as stable and as final, and about which chunk a partial comes of."""

from __future__ import annotations

from typing import Any

import pytest

from streamer.bench.emission import Emission, last_sample


def said(*texts: str, stable: int = 0) -> dict[str, Any]:
    words = [{"word": text, "end": 0.08 * (place + 1)} for place, text in enumerate(texts)]
    return {"words": words, "stable_words": stable}


def test_a_word_is_first_seen_when_it_has_the_text_that_stays() -> None:
    emission = Emission()
    emission.partial(said("he"), 1.0)
    emission.partial(said("hello"), 2.0)
    emission.partial(said("hello", "world", stable=1), 3.0)
    told = emission.final(said("hello", "world"), 4.0)
    assert [(one.first, one.stable, one.final) for one in told] == [(2.0, 3.0, 4.0), (3.0, 4.0, 4.0)]
    assert emission.words == ["hello", "world"]
    assert (emission.broken, emission.revised) == (0, 1)


def test_a_word_that_no_partial_had_is_first_seen_in_its_final() -> None:
    emission = Emission()
    emission.partial(said("a", "bat", stable=1), 1.0)
    first, second = emission.final(said("a", "cat"), 2.0)
    assert (first.first, second.first, second.stable) == (1.0, 2.0, 2.0)


def test_a_word_that_waits_behind_a_cut_was_seen_before_it() -> None:
    emission = Emission()
    emission.partial(said("one", "two", stable=1), 1.0)
    emission.final(said("one"), 2.0)
    emission.partial(said("two", "three", stable=1), 3.0)
    told = emission.final(said("two", "three"), 4.0)
    assert [one.first for one in told] == [1.0, 3.0]
    assert (emission.words, emission.finals, emission.broken) == (["one", "two", "three"], 2, 0)


@pytest.mark.parametrize(
    "after",
    [said("x", "b", stable=1), said(stable=0)],
    ids=["another text", "taken back"],
)
def test_a_stable_word_that_changes_is_noticed(after: dict[str, Any]) -> None:
    emission = Emission()
    emission.partial(said("a", "b", stable=1), 1.0)
    emission.partial(after, 2.0)
    assert emission.broken == 1


def test_what_cannot_change_any_more_is_finals_and_stable_words() -> None:
    emission = Emission()
    emission.final(said("a"), 1.0)
    emission.partial(said("b", "c", "d", stable=2), 2.0)
    assert emission.certain == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("end_s", "chunk", "samples"),
    [
        (0.08, 1, 200),
        (0.16, 1, 1480),
        (0.16, 7, 7880),
        (0.56, 7, 7880),
        (0.64, 7, 16840),
        (0.092, 1, 1480),  # the audio that was heard ends inside of the frame
        (0.161, 1, 1480),  # times are rounded
    ],
)
def test_a_partial_comes_of_the_chunk_that_its_newest_word_ends_in(end_s: float, chunk: int, samples: int) -> None:
    assert last_sample(end_s, chunk) == samples
