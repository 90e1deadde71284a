"""Claims about the figures of a load: quantiles, which words count as other ones, what a load that is well has."""

from __future__ import annotations

import math
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from streamer.bench.live import drawn
from streamer.bench.notes import Ended, Notes, read
from streamer.bench.tally import Delays, Tally, differences, spread


def tally(*ended: dict[str, Any], letters: bool = False) -> Tally:
    """Of streams that said "a b c d"."""
    found = Tally([["a", "b", "c", "d"]], counted=(0, math.inf), letters=letters)
    ends = [Ended(**{"recording": 0, "how": "closed", "words": ["a", "b", "c", "d"], **one}) for one in ended]
    found.add(0, read(Notes(ended=ends).line(1.0)))
    return found


def test_quantiles_are_values_that_were_met() -> None:
    assert spread([0.001 * value for value in range(1, 101)]) == {
        "p50": 50.0,
        "p95": 95.0,
        "p99": 99.0,
        "max": 100.0,
        "count": 100,
    }
    assert spread([]) == {"count": 0}


def test_delays_of_a_part_of_the_time() -> None:
    delays = Delays()
    for second in range(10):
        delays.add(second, second / 1000)
    assert delays.between(2, 5).milliseconds()["max"] == 4.0
    assert delays.between(2, 5).milliseconds()["count"] == 3


@pytest.mark.parametrize(
    ("got", "expected", "count"),
    [("a b c", "a b c", 0), ("a x c", "a b c", 1), ("a c", "a b c", 1), ("a b b c", "a b c", 1), ("", "a b", 2)],
)
def test_differences_are_changes_of_words(got: str, expected: str, count: int) -> None:
    assert differences(got.split(), expected.split()) == count


def test_a_blank_inside_a_word_counts_unless_letters_do() -> None:
    assert differences(["a", "bc"], ["ab", "c"]) == 2
    assert differences(["a", "bc"], ["ab", "c"], letters=True) == 0
    assert differences(["a", "bd"], ["ab", "c"], letters=True) == 2


def test_a_load_is_well_when_every_word_came_of_every_stream() -> None:
    assert tally({}, {"how": "dropped", "words": ["a", "b"]}).well


@pytest.mark.parametrize(
    "ended",
    [
        {"words": ["a", "b", "x", "d"]},
        {"words": ["a", "b", "c"]},
        {"how": "dropped", "words": ["a", "c"]},
        {"how": "failed", "words": []},
        {"how": "refused", "words": []},
        {"owed": 1},
        {"broken": 1},
    ],
)
def test_a_load_is_not_well_otherwise(ended: dict[str, Any]) -> None:
    assert not tally({}, ended).well


def test_what_was_final_before_a_line_broke_is_compared() -> None:
    found = tally({"how": "dropped", "words": ["a", "b"]}, {"how": "failed", "words": ["a", "x"], "error": "gone"})
    assert (found.words, found.different) == (4, 1)
    assert found.errors == {"gone": 1}


def test_errors_that_differ_in_numbers_alone_are_one() -> None:
    found = tally(*({"how": "failed", "words": [], "error": error} for error in ("no", "7 streams", "8 streams")))
    assert found.errors == {"7 streams": 2, "no": 1}


def test_delays_outside_of_the_time_that_counts_are_left_out() -> None:
    found = Tally([], counted=(5.0, 10.0), letters=False)
    found.add(0, Notes(chunks=[(4.9, 9.0), (5.0, 0.1), (10.1, 9.0)], words=[(1.0, 9, 9, 9), (7.0, 0.1, 0.2, 0.3)]))
    assert found.chunks.milliseconds()["max"] == 100.0
    assert (len(found.first.at), list(found.stable.seconds), list(found.final.seconds)) == (1, [0.2], [0.3])


def test_notes_are_told_once() -> None:
    notes = Notes(open=2, sent=3, audio_s=0.1, late=[0.001], chunks=[(1.0, 0.1)])
    first, second = read(notes.line(1.0)), read(notes.line(2.0))
    assert (first.sent, first.late, first.chunks) == (3, [0.001], [[1.0, 0.1]])
    assert (second.open, second.sent, second.late, second.chunks) == (2, 0, [], [])


def test_the_live_view_fits_a_terminal_and_has_what_is_seen() -> None:
    found = tally({}, {"words": ["a"]})
    found.add(0, Notes(at=9.0, open=3, sent=40, received=7, chunks=[(1.0, 0.012)]))
    console = Console(width=80, record=True, file=StringIO())
    console.print(drawn("3 streams", found, 150 << 20))
    text = console.export_text()
    for line in ("3 streams", "9 s: 3 streams, 40 messages out, 7 in, the daemon holds 150 MiB", "8 words, 3 other"):
        assert line in text
    assert max(map(len, text.splitlines())) <= 80
