"""Claims about `streamer bench loss`: all forms compute one loss, a process of its own answers, the table's ratios."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from streamer.bench import loss
from streamer.bench.loss import Line, Trial, rate, table
from streamer.bench.loss_order import Order
from streamer.cli import main

ORDER = Order("batched", False, rows=3, frames=10, labels=4, words=8, hidden=16, least=0.5)


def test_rows_are_evenly_long_and_padding_is_no_work() -> None:
    assert ORDER.lengths == [(5, 2), (8, 3), (10, 4)]
    assert ORDER.cells == 5 * 3 + 8 * 4 + 10 * 5
    assert ORDER.flop == 2 * ORDER.cells * 16 * 9


def test_all_forms_compute_one_loss_and_its_memory_is_known() -> None:
    pytest.importorskip("torch")
    from streamer.bench.loss_trial import Problem, Products, measured

    found = {}
    for form, half in (("batched", False), ("autocast", True), ("sample-wise", True), ("tiled", False)):
        found[form] = measured(Problem(replace(ORDER, form=form, half=half)).step, "cpu")
    assert found["tiled"]["value"] == pytest.approx(found["batched"]["value"], rel=1e-5)
    assert found["sample-wise"]["value"] == pytest.approx(found["batched"]["value"], rel=1e-3)
    assert found["autocast"]["value"] == pytest.approx(found["batched"]["value"], rel=1e-2)
    assert all(run["mib"] >= 0 and run["seconds"] > 0 for run in found.values())
    assert Products(replace(ORDER, half=True)).step() == 8192 / ORDER.cells


def test_a_form_runs_in_a_process_of_its_own_and_says_why_it_cannot() -> None:
    pytest.importorskip("torch")
    lines = [Line("tiled", replace(ORDER, form="tiled")), Line("kernels", replace(ORDER, form="kernels"))]
    for line in lines:
        trial = Trial(line)
        trial.run()
        trial.close()
    assert [len(line.runs) for line in lines] == [1, 0]
    assert lines[0].versions.startswith("torch ")
    assert lines[1].failed.startswith("kernels: ")
    assert f"| kernels | fp32 | {lines[1].failed} | | | | |" in table(lines[1:], "a title")


def ran(name: str, form: str, seconds: float, mib: float, *, half: bool = False, value: float = 1.0) -> Line:
    line = Line(name, replace(ORDER, form=form, half=half))
    line.runs = [{"seconds": seconds * factor, "mib": mib / factor, "value": value} for factor in (2, 1)]
    return line


def test_the_table_has_the_quickest_run_and_the_first_one_s_memory() -> None:
    lines = [ran("all", "batched", 8.0, 4000.0), ran("parts", "tiled", 6.0, 200.0), ran("", "products", 0.5, 0.0)]
    lines[2].runs = [run | {"value": 0.25} for run in lines[2].runs]  # a quarter of the cells in half a second
    assert rate(lines, False) == pytest.approx(3 * 0.25 * ORDER.flop / 0.5)
    text = table(lines, "CPU")
    assert text.startswith("## CPU\n")
    assert "| all | fp32 | 8.00 | 4.00 | 1.00 | 2000 | 1.0 |" in text
    assert "| parts | fp32 | 6.00 | 3.00 | 0.75 | 100 | 20.0 |" in text
    assert "keeps its logits for the way back 2.00 s" in text
    assert "Losses differ by at most 0e+00 of themselves." in text


def test_the_command_writes_what_ran_and_what_did_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    asked = []

    def measure(lines: list[Line], rounds: int, _: object) -> None:
        asked.append((rounds, [line.order.form for line in lines]))
        for line in lines:
            line.runs = [{"seconds": 1.0, "mib": 10.0, "value": 1.0}]

    monkeypatch.setattr(loss, "measure", measure)
    assert main(["bench", "loss", "--rows", "2", "--rounds", "5", "--out", str(tmp_path)]) == 0
    assert [rounds for rounds, _ in asked] == [5]
    assert "nemo" not in asked[0][1]
    written = (tmp_path / "transducer-loss.md").read_text()
    assert written == capsys.readouterr().out
    assert "| tiled | bf16 | 1.00 |" in written
    assert "| NeMo's Numba loss, batched | fp32 | not run |" in written
    assert "| Triton kernels | bf16 | not run |" in written
    assert main(["bench", "loss", "--nemo-python", str(tmp_path / "none")]) == 1
    assert "none: no such file" in capsys.readouterr().err
