"""Claims about captions on terminals of every size."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.text import Text

from streamer.commands.captions import Captions, _View
from streamer.protocols.events import Error, Final, Partial, Word

TEXT = "every day luigi led his flock to graze on the road that leads from palestrina to borgo"
WORDS = tuple(Word(word=word, start=float(at), end=at + 0.5, confidence=0.9) for at, word in enumerate(TEXT.split()))


def partial(count: int = len(WORDS)) -> Partial:
    words = WORDS[:count]
    text = " ".join(word.word for word in words)
    return Partial(segment=0, start=0.0, text=text, words=words, stable_words=count - 1)


def drawn(width: int, height: int, event: Partial) -> list[str]:
    view = _View(lambda columns, _ascii: Text("m" * (columns - 1)))
    view.partial = event
    out = io.StringIO()
    Console(file=out, width=width, height=height, force_terminal=False).print(view)
    return out.getvalue().splitlines()


@pytest.mark.parametrize(("width", "height"), [(80, 24), (40, 10), (20, 4), (9, 3)])
def test_what_is_rewritten_fits_the_terminal_and_shows_the_newest_words(width: int, height: int) -> None:
    lines = drawn(width, height, partial())
    assert len(lines) < height
    assert lines[-1] == "m" * (width - 1)
    assert all(len(line) <= width for line in lines)
    assert lines[-2].split()[-1] == "borgo"


def test_further_lines_begin_below_the_words_and_not_below_the_time() -> None:
    lines = drawn(80, 24, partial())[:-1]
    assert [line[:18].strip() for line in lines] == ["", ""]
    assert " ".join(" ".join(lines).split()) == TEXT
    first, second, _ = drawn(40, 24, partial(8))
    assert (first.rstrip(), second.rstrip()) == (" " * 9 + "every day luigi led his flock", " " * 9 + "to graze")


def test_a_terminal_that_got_narrower_made_more_lines_of_what_was_drawn() -> None:
    view = _View(lambda columns, _ascii: Text("m" * (columns - 1)))
    view.partial = partial()
    Console(file=io.StringIO(), width=80, height=24).print(view)  # 76, 45 and 79 columns
    assert view.wrapped(80) == 0
    assert view.wrapped(50) == 2
    assert view.wrapped(30) == 2 + 2 + 1


def test_without_a_terminal_only_what_is_settled_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    final = Final(segment=0, start=0.0, end=1.5, text="every day", words=WORDS[:2], reason="close")
    with Captions(footer=lambda *_: Text("meter")) as captions:
        captions.show(partial())
        captions.refresh()
        captions.show(final)
        captions.line(1.5, 31.5, "[30.0 s not heard]")
        captions.show(Error(code="internal", message="it broke"))
    out, err = capsys.readouterr()
    assert out == "   0.00 -   1.50  every day\n   1.50 -  31.50  [30.0 s not heard]\n"
    assert err == "streamer: it broke (internal)\n"
