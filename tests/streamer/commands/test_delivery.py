"""Claims about delivery: results come in the order of the input whatever is ready first, and nothing is held back."""

from __future__ import annotations

from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest

from streamer.commands.delivery import Delivery
from streamer.commands.hands import Wanted
from streamer.commands.listening import Said
from streamer.commands.results import InTurn, Job, Lines
from streamer.recordings import WHOLE
from streamer.transcript.words import Word


class Desk:
    """A delivery to stdout, and its input."""

    def __init__(self) -> None:
        self.ticks = 0
        self.delivery = Delivery(InTurn(Lines(titled=False, whole=True)), self._tick)

    def _tick(self) -> None:
        self.ticks += 1

    def expect(self, *places: int, error: str | None = None) -> Future[Any]:
        coming: Future[Any] = Future()
        chosen = [SimpleNamespace(wanted=Wanted(Job(f"{place}.wav", place), WHOLE), error=error) for place in places]
        self.delivery.expect(chosen, coming)
        return coming


def said(text: str) -> Said:
    return Said(0, (Word(text, 0.0, 0.1, 1.0),), (), 1.0, 1.0, True)


def test_results_wait_for_their_turn(capsys: pytest.CaptureFixture[str]) -> None:
    desk = Desk()
    late, early = desk.expect(3, 0), desk.expect(2, 1)
    late.set_result(["three", "zero"])
    desk.expect(5).set_result(["five"])
    assert capsys.readouterr().out == "zero\n"
    early.set_result(["two", "one"])
    desk.expect(4).set_result(["four"])
    desk.delivery.finish()
    assert capsys.readouterr().out == "one\ntwo\nthree\nfour\nfive\n"
    assert desk.ticks == 6


def test_words_go_to_the_writers_in_turn_over_what_was_not_heard(capsys: pytest.CaptureFixture[str]) -> None:
    desk = Desk()
    desk.delivery.failed(Wanted(Job("1.wav", 1), WHOLE), "1.wav: no such file")
    desk.expect(2).set_result([said("two")])
    desk.expect(0).set_result([said("zero")])
    desk.delivery.finish()
    out, err = capsys.readouterr()
    assert out == "zero\ntwo\n"
    assert err == "streamer: 1.wav: no such file\n"
    assert desk.delivery.errors == ["1.wav: no such file"]
    assert desk.ticks == 3


def test_what_was_heard_before_an_error_is_given_out_and_the_error_said(capsys: pytest.CaptureFixture[str]) -> None:
    desk = Desk()
    desk.expect(0, error="0.wav: cut off").set_result([said("half")])
    desk.delivery.finish()
    out, err = capsys.readouterr()
    assert (out, err) == ("half\n", "streamer: 0.wav: cut off\n")
    assert desk.delivery.errors == ["0.wav: cut off"]
