"""Parts as processes: what is kept of one that ends, fails, hangs or was done before; what the report shows."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pip._vendor.packaging.specifiers import SpecifierSet

from streamer.cli import main
from streamer.gpu_check import pack, parts, provide, report, runner
from streamer.gpu_check.job import NOT_RUN, SMALL, Job
from streamer.gpu_check.parts import NAMES, PARTS, Part
from streamer.gpu_check.record import CUT, DONE, FAILED, Records
from tests.conftest import ROOT

ODD = '''"""A part that does what its argument says."""
import os, time
from streamer.gpu_check.job import Job

def run(job: Job, what: str) -> None:
    job.note(begun=1)
    if what == "fail":
        raise ValueError("frames: got 3, expected 4")
    if what == "die":
        print("the driver has gone", flush=True)
        os._exit(3)
    if what == "hang":
        time.sleep(60)
    job.note(ended=2)
'''


@pytest.fixture
def odd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package beside ours whose part ends as it is told; processes of parts find it in the same place."""
    code = f"""import runpy, sys, types
module = types.ModuleType("streamer.gpu_check.odd")
exec({ODD!r}, module.__dict__)
sys.modules["streamer.gpu_check.odd"] = module
from streamer.gpu_check import parts
parts.PARTS = tuple(parts.Part(what, what, "odd", 0.1, (what,)) for what in ("end", "fail", "die", "hang"))
parts.NAMES = tuple(part.name for part in parts.PARTS)
from streamer.cli import main
sys.exit(main(sys.argv[1:]))
"""
    script = tmp_path / "odd.py"
    script.write_text(code, "utf-8")
    begun = subprocess.Popen

    def popen(command: list[str], **rest: Any) -> subprocess.Popen[bytes]:
        return begun([command[0], str(script), *command[3:]], **rest)  # in place of -m streamer

    monkeypatch.setattr(subprocess, "Popen", popen)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return tmp_path


def part(what: str) -> Part:
    return Part(what, what, "odd", 0.1, (what,))


def plan(folder: Path, **changes: Any) -> runner.Plan:
    return replace(runner.Plan("cpu", "toy", folder, "small", 20.0), **changes)


def test_ends_failures_and_deaths_are_kept_with_a_sentence_and_the_next_part_goes_on(odd: Path) -> None:
    said: list[str] = []
    some = [part("fail"), part("die"), part("end")]
    assert runner.run_all(some, plan(odd), said.append, again=False) == 2
    kept = Records(odd / "gpu.json").read()
    assert [kept[one.name]["status"] for one in some] == [FAILED, FAILED, DONE]
    assert kept["fail"]["error"] == "ValueError: frames: got 3, expected 4"
    assert "code 3" in kept["die"]["error"]
    assert "the driver has gone" in kept["die"]["error"]
    assert kept["end"]["error"] is None
    assert kept["end"]["figures"] == {"begun": 1, "ended": 2}
    assert kept["fail"]["figures"] == kept["die"]["figures"] == {"begun": 1}
    assert {record["machine"] for record in kept.values()} == {"toy"}
    assert any("frames: got 3" in line for line in said)


def test_a_part_that_hangs_is_ended_and_keeps_what_it_noted(odd: Path) -> None:
    began = time.monotonic()
    record = runner.run_one(part("hang"), plan(odd, limit_s=6.0))
    assert time.monotonic() - began < 55
    assert record["status"] == CUT
    assert record["error"] == "it took longer than 6 s"
    assert record["figures"] == {"begun": 1}


def test_what_was_done_on_this_machine_is_left_alone_unless_asked_for(odd: Path) -> None:
    records, done = Records(odd / "gpu.json"), {"status": DONE, "machine": "toy", "figures": {"old": 1}}
    records.put("end", done)
    assert runner.run_all([part("end")], plan(odd), lambda _: None, again=False) == 0
    assert records.read()["end"] == done
    assert runner.run_all([part("end")], plan(odd), lambda _: None, again=True) == 0
    assert "old" not in records.read()["end"]["figures"]
    assert not records.finished("end", "another GPU")
    records.put("end", done | {"status": FAILED})
    assert not records.finished("end", "toy")


def test_the_file_says_of_each_part_that_nobody_ran_that_it_was_not_run(tmp_path: Path) -> None:
    records = Records(tmp_path / "gpu.json")
    records.put("parity", {"status": DONE, "machine": "toy", "figures": {}})
    report.save(records, tmp_path)
    kept = records.read()
    assert list(kept["parity"]) == ["status", "machine", "figures"]
    assert {name for name, record in kept.items() if record == {"status": NOT_RUN}} == {*NAMES} - {"parity"}


def test_a_record_beside_a_damaged_file_begins_a_new_one(tmp_path: Path) -> None:
    (tmp_path / "gpu.json").write_text('{"parts": ', "utf-8")
    records = Records(tmp_path / "gpu.json")
    assert records.read() == {}
    records.put("end", {"status": DONE})
    assert json.loads((tmp_path / "gpu.json").read_text("utf-8")) == {"parts": {"end": {"status": DONE}}}


def test_without_a_gpu_it_says_so_in_a_sentence_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["bench", "gpu", "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"streamer: gpu-check: torch {torch.__version__} finds no GPU, expected one")
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(Path("/dev/nvidia0").exists(), reason="there is a GPU, and the whole check would run")
def test_make_gpu_check_without_a_gpu_is_that_sentence() -> None:
    make = ["make", "gpu-check", f"PYTHON={sys.executable}"]
    done = subprocess.run(
        make, cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ, "MAKEFLAGS": ""}
    )
    assert done.returncode != 0
    assert "gpu-check: torch" in done.stderr
    assert "finds no GPU" in done.stderr


def test_an_unknown_part_is_named_with_those_that_are_known(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "gpu", "--part", "sped"]) == 1
    assert "expected one of environment, parity" in capsys.readouterr().err


def test_the_whole_check_is_not_for_a_cpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "gpu", "--device", "cpu"]) == 1
    assert "expected --size small" in capsys.readouterr().err


def test_the_report_of_nothing_marks_every_figure_as_not_run() -> None:
    text = report.render({})
    for one in PARTS:
        assert f"| {one.name} | {one.about} | {NOT_RUN} |" in text
    figures = [line for line in text.splitlines() if line.startswith(("| 80 ms", "| 4,096", "| 0.6b, from memory"))]
    assert len(figures) == 2 + 9 + 1
    assert all(NOT_RUN in line for line in figures)
    assert "| 5,000 |" in text
    assert "| 15,000 |" in text
    assert "2.5 ms at most at batch 1" in text


def test_the_report_that_is_kept_is_what_its_figures_give() -> None:
    folder = ROOT / "docs" / "benchmarks"
    assert (folder / "gpu.md").read_text("utf-8") == report.render(Records(folder / "gpu.json").read())


def test_the_guide_names_every_part() -> None:
    text = (ROOT / "docs" / "gpu.md").read_text("utf-8")
    kinds = {
        name.split("-")[0] if name.startswith(("speed", "profile", "streams", "sockets")) else name for name in NAMES
    }
    assert all(f"`{kind}" in text for kind in kinds)


def test_figures_of_a_toy_are_marked_so() -> None:
    record = {"status": DONE, "machine": "cpu", "size": SMALL.name, "figures": {}}
    assert "done, with toys: no figures" in report.render({"parity": record})


def test_a_jobs_time_runs_on_its_clock() -> None:
    now = [100.0]
    job = Job("cpu", SMALL, 10.0, clock=lambda: now[0])
    assert job.has(10.0)
    now[0] = 104.0
    assert job.left_s == 6.0
    assert not job.has(6.5)


def test_only_wheels_of_what_is_missing_or_too_old_are_taken(tmp_path: Path) -> None:
    names = ("numpy-9.9-cp312-x.whl", "no_such_package-1.0-py3-none-any.whl", "prometheus_client-9.9-py3-none-any.whl")
    wheels = [tmp_path / name for name in names]
    assert provide.missing(wheels, {}) == wheels[1:2]
    assert provide.missing(wheels, {"prometheus-client": SpecifierSet(">=5000")}) == wheels[1:]


def test_the_check_knows_what_versions_the_project_asks_for() -> None:
    wanted = provide.bounds()
    assert not wanted["websockets"].contains("10.4")
    assert wanted["websockets"].contains("15.0")
    assert not wanted["pyyaml"].contains("5.3")


def test_a_python_without_torch_is_told_which_one_to_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(provide, "find_spec", lambda _name: None)
    assert provide.main() == 2
    assert "has no torch; expected one with torch for CUDA: make gpu-check PYTHON=..." in capsys.readouterr().out


def test_a_part_ends_with_the_check_that_started_it(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "streamer", "bench", "gpu", "--device", "cpu", "--size", "small"]
    check = subprocess.Popen(
        [*command, "--part", "parity", "--out", str(tmp_path)], cwd=ROOT, stderr=subprocess.DEVNULL
    )
    children = Path(f"/proc/{check.pid}/task/{check.pid}/children")
    while not (started := children.read_text().split()):
        time.sleep(0.05)
    check.kill()
    check.wait()
    deadline = time.monotonic() + 30
    while Path(f"/proc/{started[0]}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{started[0]}").exists()


def test_the_pack_is_the_commit_with_the_wheels_in_it(tmp_path: Path) -> None:
    wheel, commit = tmp_path / "some-1.0-py3-none-any.whl", io.BytesIO()
    wheel.write_bytes(b"wheel")
    with tarfile.open(fileobj=commit, mode="w") as tar:
        tar.add(ROOT / "Makefile", f"{pack.TOP}/Makefile")
    out = tmp_path / "pack.tar.gz"
    pack.packed(commit.getvalue(), [wheel], out)
    with tarfile.open(out) as tar:
        made = tar.extractfile("gpu-check/Makefile")
        assert made is not None
        assert made.read() == (ROOT / "Makefile").read_bytes()
        assert "gpu-check/.gpu/wheels/some-1.0-py3-none-any.whl" in tar.getnames()


def test_what_is_too_large_goes_in_pieces_that_make_it_whole_again(tmp_path: Path) -> None:
    whole, content = tmp_path / "rtx.tar.xz", bytes(range(250))
    whole.write_bytes(content)
    assert pack.pieces(whole, 250) == [whole]
    made = pack.pieces(whole, 100)
    assert [piece.name for piece in made] == ["rtx.tar.xz.0", "rtx.tar.xz.1", "rtx.tar.xz.2"]
    assert b"".join(piece.read_bytes() for piece in made) == content
    assert not whole.exists()


def test_the_limit_leaves_ten_minutes_for_a_part_and_its_process() -> None:
    assert parts.LIMIT_S < 600
    assert all(one.minutes * 60 < parts.LIMIT_S for one in PARTS)
