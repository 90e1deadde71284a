"""Claims about `streamer bench peers`: what is measured, what is kept, and what the tables say of it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamer.bench import peer_report, peer_sockets_report, peers
from streamer.bench.machine import cpu_name
from streamer.bench.peer_step import Order, measure, order_text
from streamer.bench.peers import PEER, Book, Cell, PeerError, Plan
from streamer.cli import main
from tests.shell import failing

CELL = Cell("small", "int8", 80, 8, 1)


def runs(*cpu_s: float) -> list[dict[str, Any]]:
    figures = {"audio_s": 10.0, "step_ms_p50": 2.0, "step_ms_p95": 3.0, "tokens": 160, "rss_mb": 90.0, "peak_mb": 95.0}
    return [{**figures, "cpu_s": one, "version": "engine 1"} for one in cpu_s]


def record(ours: tuple[float, ...], theirs: tuple[float, ...]) -> dict[str, Any]:
    return {"machine": cpu_name(), "date": "2026-11-22", "ours": runs(*ours), PEER: runs(*theirs)}


def plan(out: Path, python: str = sys.executable, rounds: int = 3) -> Plan:
    return Plan(
        out, python, lambda size, precision: out / f"{size}-{precision}", np.zeros(1600, np.float32), 1, rounds, out
    )


class Counter:
    """An engine that keeps what it was given."""

    version, first_samples = "counter 1", 200

    def __init__(self) -> None:
        self.steps: list[list[np.ndarray]] = []

    def step(self, pieces: Any) -> None:
        self.steps.append(list(pieces))

    def tokens(self) -> int:
        return 10 * len(self.steps)


def test_a_measurement_feeds_whole_chunks_from_different_places_and_counts_no_warm_up() -> None:
    engine, audio = Counter(), np.arange(50_000, dtype=np.float32)
    order = Order("ours", "", "fp32", chunk=2, streams=2, threads=1, warm=3, steps=5, audio="")
    result = measure(engine, audio, order)
    assert [len(step[0]) for step in engine.steps] == [200] + 7 * [2560]
    heard = [np.concatenate([step[row] for step in engine.steps]) for row in (0, 1)]
    for row, first in zip(heard, (0, 25_000), strict=True):
        assert np.array_equal(row, (first + np.arange(len(row))) % 50_000), "every sample once, going round"
    assert result["tokens"] == 50
    assert result["audio_s"] == pytest.approx(5 * 0.16)
    assert json.loads(order_text(order))["chunk"] == 2


def test_a_ratio_is_theirs_over_ours_and_streams_are_those_of_a_core() -> None:
    one = record((2.0, 1.0, 4.0), (6.0, 8.0, 5.0))
    assert peers.ratio(one) == 5.0
    assert peers.ratio(one, peers.middle) == 3.0
    assert peers.streams_per_core(one["ours"], 8) == 80.0


def test_of_many_streams_less_is_heard_of_each_but_never_too_few_steps() -> None:
    assert Cell("large", "fp32", 80, 8, 1).steps(10) == (70, 125)
    assert Cell("large", "fp32", 80, 32, 1).steps(10) == (70, 32)
    assert Cell("large", "fp32", 1120, 32, 1).steps(10) == (5, peers.LEAST_STEPS)


def test_rounds_take_turns_in_going_first_and_what_was_measured_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def measured(order: Order, _: Plan) -> dict[str, Any]:
        asked.append(order.engine)
        return runs(1.0)[0]

    monkeypatch.setattr(peers, "measured", measured)
    assert peers.run([CELL], plan(tmp_path), Book(tmp_path), lambda _: None, again=False) == 0
    assert asked == ["ours", PEER, PEER, "ours", "ours", PEER]
    said: list[str] = []
    assert peers.run([CELL], plan(tmp_path), Book(tmp_path), said.append, again=False) == 0
    assert len(asked) == 6
    assert said[0].endswith("done before")
    peers.run([CELL], plan(tmp_path), Book(tmp_path), said.append, again=True)
    assert len(asked) == 12


def test_a_measurement_that_fails_is_a_sentence_in_the_table_and_the_next_goes_on(tmp_path: Path) -> None:
    book, said = Book(tmp_path), list[str]()
    cells = [CELL, Cell("small", "int8", 160, 1, 1)]
    assert peers.run(cells, plan(tmp_path), book, said.append, again=False) == 2
    assert "got exit code 1, expected 0" in said[0]
    assert "artefact.json" in said[1]
    assert "| 80 ms | 1 | 8 | failed: ours, small-int8" in peer_report.save(book, tmp_path).read_text("utf-8")


def test_the_table_has_every_cell_and_says_what_was_not_run(tmp_path: Path) -> None:
    book = Book(tmp_path)
    book.section("cells")[CELL.name] = record((1.0, 2.0), (4.0, 4.0))
    book.section("floor")["small/int8/80ms/8"] = {"seconds": 0.001}
    peer_report.aim(book, "small/*/1t=3")
    peer_report.aim(book, "*/80ms/8/*=5")
    text = peer_report.save(book, tmp_path).read_text("utf-8")
    [line] = [line for line in text.splitlines() if line.startswith("| 80 ms | 1 | 8 | 80.0 |")]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[3:9] == ["80.0", "20.0", "**4.00** (2.67)", "5: missed", "640", "8.0"]
    assert cells[9:] == ["2.0 / 3.0"] * 2 + ["90 (95)"] * 2 + ["2.0"] * 2
    assert text.partition("## Floors")[0].count("| not run |") == 2 * 2 * 4 * 3 * 2 - 1
    assert "engine 1" in text
    assert Book(tmp_path).kept == book.kept


def test_what_is_wrong_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(PeerError, match="expected a number"):
        peer_report.aim(Book(tmp_path), "large/*=x")
    (tmp_path / peers.FILE).write_text("{", "utf-8")
    with pytest.raises(PeerError, match=r"cpu.json: got JSONDecodeError"):
        Book(tmp_path)
    assert "--peers: expected the folder" in failing(capsys, "bench", "peers", "--out", str(tmp_path / "new"))[1]
    assert main(["bench", "peers", "--report", "--out", str(tmp_path / "new")]) == 0
    written = capsys.readouterr().out.split()
    assert written == [str(tmp_path / "new" / name) for name in (peer_report.NAME, peer_sockets_report.NAME)]
