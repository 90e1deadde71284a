"""Claims about the picture of a load: it is a whole SVG whatever was measured, and its axes hold what is drawn."""

from __future__ import annotations

import math
from xml.etree import ElementTree

import pytest

from streamer.bench.plot import Curve, distribution, drawn, linear
from streamer.bench.tally import Tally


def tally(count: int) -> Tally:
    found = Tally([], counted=(0, math.inf), letters=False)
    for number in range(count):
        found.chunks.add(number, 0.001 * number)
        found.first.add(number, -0.05 + 0.001 * number)
    return found


@pytest.mark.parametrize("count", [0, 1, 500])
def test_it_is_well_formed_however_little_was_seen(count: int) -> None:
    memory = linear("Memory", [Curve("resident", [(0, 5), (9, 5)])], (0, 9), (5, 5), " MiB")
    root = ElementTree.fromstring(drawn("a < b & c", tally(count), [memory]))
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "a < b & c" in texts
    assert "Memory" in texts
    assert ("chunk sent to partial" in texts) is (count > 0)


def test_axes_hold_their_curves() -> None:
    panel = distribution("t", [("x", [-0.031, 0.002, 0.117])])
    assert panel.x[0] <= -31 < 117 <= panel.x[1]
    panel = linear("t", [], (0, 100), (151.2, 152.9), " MiB")
    assert panel.y[0] <= 151.2 < 152.9 <= panel.y[1]
    assert len(panel.y_marks) <= 7
