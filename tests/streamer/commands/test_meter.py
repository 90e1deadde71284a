"""Claims about the line below a microphone's captions."""

from __future__ import annotations

import numpy as np
import pytest

from clients.mic import Level
from streamer.commands.meter import Meter, spoken

RATE = 16000


def piece(level: float, samples: int = 320) -> bytes:
    return np.full(samples, round(level * 32768), "<i2").tobytes()


def test_only_silence_is_noticed_once_and_again_after_sound() -> None:
    meter = Meter(RATE)
    noticed = [meter.take(piece(0.0005)) for _ in range(500)]  # ten seconds at -66 dBFS
    assert [at for at, now in enumerate(noticed) if now] == [249]
    assert "only silence" in meter.line(80, False).plain
    meter.take(piece(0.1))
    assert "only silence" not in meter.line(80, False).plain
    assert sum(meter.take(piece(0)) for _ in range(300)) == 1


def test_the_level_of_all_that_was_captured_is_that_of_its_samples() -> None:
    meter = Meter(RATE)
    for level in (0.5, 0.0, 0.0, 0.0):
        meter.take(piece(level))
    assert meter.seconds == pytest.approx(0.08)
    assert meter.overall == Level(pytest.approx(-6.02, abs=0.01), pytest.approx(-12.04, abs=0.01))
    assert spoken(meter.overall) == "peak -6.0 dBFS, RMS -12.0 dBFS"
    assert spoken(Meter(RATE).overall) == "peak silence, RMS silence"


@pytest.mark.parametrize(("level", "colour"), [(0.1, "green"), (0.5, "yellow"), (0.9, "red")])
def test_the_bar_says_how_near_full_scale_the_peaks_are(level: float, colour: str) -> None:
    meter = Meter(RATE)
    meter.take(piece(level))
    line = meter.line(100, True)
    assert any(span.style == colour for span in line.spans)
    assert line.plain.count("#") == round(30 * (1 + 20 * np.log10(level) / 60))


@pytest.mark.parametrize("width", [12, 24, 40, 80, 200])
def test_the_line_fits_whatever_it_has_to_say(width: int) -> None:
    meter = Meter(1)
    meter.take(piece(0.3, 4000))
    meter.note = "no daemon: trying again until the cows come home and beyond"
    assert meter.line(width, False).cell_len + len("^C") < width
    meter.note = ""
    assert "66:40" in meter.line(width, False).plain
    assert meter.line(width, True).plain.isascii()
