"""Claims about `streamer bench capacity`: what it shows, keeps and measures again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from streamer.backends.fake import CONFIG, FakeBackend
from streamer.bench.capacity import table
from streamer.cli import main
from streamer.commands import FAILED, OK
from streamer.engine import costs as engine_costs
from streamer.engine.capacity import Admission
from streamer.engine.costs import Costs
from streamer.engine.kept import FORMAT, name_of
from streamer.engine.results import EngineSettings
from tests.shell import failing

COSTS = Costs({1: ((1, 0.004), (9, 0.008)), 7: ((1, 0.02), (8, 0.09))})


def capacity(file: Path, *words: str) -> int:
    return main(["bench", "capacity", "model.backend=fake", "model.threads=2", f"engine.capacity_file={file}", *words])


def keep(file: Path, slots: int) -> None:
    """A table that no machine of today measures."""
    costs = {str(chunk): [[1, 0.02], [2, 0.03]] for chunk in CONFIG.chunks}
    tables = {name_of(FakeBackend(slots), 2): {"measured": "2026-01-01", "slots": slots, "costs": costs}}
    file.write_text(json.dumps({"format": FORMAT, "tables": tables}))


def test_the_table_has_milliseconds_by_rows_and_the_streams_that_fit() -> None:
    admission = Admission(COSTS, EngineSettings(max_load=0.85), 1000, lanes=3)
    lines = table(admission, 0.85, "What fits: toy", {"backend": "fake", "threads": "2"}).splitlines()
    assert lines[0] == "# What fits: toy"
    assert lines[4:11] == [
        "| rows | 80 ms | 560 ms |",
        "| ---: | ---: | ---: |",
        "| 1 | 4.00 | 20.00 |",
        "| 8 |  | 90.00 |",
        "| 9 | 8.00 |  |",
        f"| most rows of a step | {int(0.032 / 0.008 * 9)} | {int(0.16 / 0.09 * 8)} |",
        f"| **streams that fit at 85%** | **{3 * COSTS.fits(1, 0.85)}** | **{3 * COSTS.fits(7, 0.85)}** |",
    ]
    assert lines[12:14] == ["- backend: fake", "- threads: 2"]
    assert lines[14].startswith("- machine: ")


def test_it_measures_and_keeps_what_the_daemon_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "capacity.json"
    keep(file, 2)
    assert capacity(file, "engine.slots=2", "--out", str(tmp_path)) == OK
    (own,) = json.loads(file.read_text())["tables"].values()
    assert own["costs"]["1"][0][1] < 0.02, "what was kept was not measured again"
    assert (tmp_path / "capacity-fake.md").read_text() == capsys.readouterr().out


def test_what_is_kept_is_shown_without_measuring(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "capacity.json"
    keep(file, 2)
    before = file.read_text()
    assert capacity(file, "engine.slots=2", "--kept") == OK
    assert "| 2 | 30.00 | 30.00 | 30.00 | 30.00 |" in capsys.readouterr().out
    assert file.read_text() == before


def test_a_busy_machines_figures_are_shown_and_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(engine_costs.Stopwatch, "disturbed", 2.5)
    file = tmp_path / "capacity.json"
    assert capacity(file, "engine.slots=2") == FAILED
    assert "streams that fit" in capsys.readouterr().out
    assert not file.exists()


def test_a_wrong_option_is_refused_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    code, err = failing(capsys, "bench", "capacity", "engine.slot=3")
    assert (code, "engine.slots" in err) == (2, True)
