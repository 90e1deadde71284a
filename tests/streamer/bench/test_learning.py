"""Claims about learning curves: minutes count on over stages and runs, and the last rate is where the picture ends."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from streamer.bench.learning import drawn, read
from streamer.cli import main

FIRST = """\
09:00:00 1.20 h, 60 utterances, 0 left out
09:00:30 ctc 0.5 min, step 20, epoch 0 (19/90): loss 5.300, norm 2.08, lr 1.70e-04, 45 s of audio a second
09:02:00 ctc 2.0 min, step 80, epoch 0 (79/90): loss 4.300, norm 2.08, lr 1.70e-04, 45 s of audio a second
09:02:09 dev WER ctc 0.910 (an4 0.984, tc5 0.920)
  a text -> another dev text
09:03:09 rnnt 1.0 min, step 100, epoch 1 (9/90): loss 3.300, norm 2.08, lr 1.70e-04, 45 s of audio a second
09:03:10 dev WER ctc 0.800 (an4 0.984, tc5 0.920)
09:03:10 dev WER rnnt at 80 ms 0.700 (an4 0.984, tc5 0.920)
"""


def test_minutes_go_on_from_stage_to_stage() -> None:
    run = read("first", FIRST.splitlines())
    assert run.minutes == 3.0
    assert run.losses == [(0.5, 5.3), (2.0, 4.3), (3.0, 3.3)]
    assert run.rates == {"ctc": [(2.0, 91.0), (3.0, 80.0)], "rnnt at 80 ms": [(3.0, 70.0)]}


def test_runs_stand_one_after_another() -> None:
    first, second = read("first", FIRST.splitlines()), read("second", FIRST.replace("0.700", "0.350").splitlines())
    root = ElementTree.fromstring(drawn("a & b", [first, second]))
    space = "{http://www.w3.org/2000/svg}"
    texts = {element.text for element in root.iter(f"{space}text")}
    assert {"a & b", "ctc", "rnnt at 80 ms", "first", "second", "minutes", "100 %"} <= texts
    streamed = [element.get("d", "") for element in root.iter(f"{space}path") if element.get("fill") == "none"]
    ends = [points for d in streamed if len(points := d.removeprefix("M").split("L")) == 2]
    (x1, y1), (x2, y2) = ([float(part) for part in point.split()] for point in ends[0])
    assert 1.9 < (x2 - 64) / (x1 - 64) < 2.1  # three of six minutes, then all of them
    assert y2 > y1  # fewer words wrong lie lower


def test_the_command_writes_a_picture_or_says_why_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "one.log").write_text(FIRST)
    (tmp_path / "odd.log").write_text("nothing\n")
    out = ["--out", str(tmp_path / "curves.svg")]
    assert main(["bench", "learning", str(tmp_path / "one.log"), *out]) == 0
    assert "3 minutes of 1 runs" in capsys.readouterr().err
    assert "<svg" in (tmp_path / "curves.svg").read_text()
    assert main(["bench", "learning", str(tmp_path / "odd.log"), *out]) == 1
    assert "odd: got no line of a training run, expected what streamer train printed" in capsys.readouterr().err
    assert main(["bench", "learning", str(tmp_path / "none.log"), *out]) == 1
    assert "none.log: No such file" in capsys.readouterr().err
