"""Every kernel compiles for the H200 and keeps its numbers in registers; and what says whether kernels can run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import models.kernels
from models.kernels import trial, why_not
from models.kernels.dialect import interpreting

ROOT = Path(__file__).resolve().parents[3]
MOST_SHARED = 227 * 1024  # bytes that one block can have on sm_90


def compiling() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}


def test_every_kernel_compiles_for_hopper_without_spills() -> None:
    pytest.importorskip("triton", reason="the package triton is not installed")
    command = [sys.executable, "-m", "tests.models.kernels.aot"]
    done = subprocess.run(command, cwd=ROOT, env=compiling(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert len(found) > 15
    assert {name: values["error"] for name, values in found.items() if "error" in values} == {}
    # A launch that allocates cannot be in the body of a graph's loop.
    assert {name: values for name, values in found.items() if values["scratch"] > 0} == {}
    # Products in float32 have no tensor cores: they are there for parity, and may spill a little.
    assert {name: values for name, values in found.items() if values["local"] > 80 * ("fp32" in name)} == {}
    assert {name: values for name, values in found.items() if values["shared"] > MOST_SHARED} == {}


def test_the_kernels_import_where_triton_is_missing() -> None:
    code = (
        "import sys; sys.modules['triton'] = None\n"
        "import torch, models.kernels as k\n"
        "from models.kernels import convolution, norm, ring, search, subsampling\n"
        "print(k.why_not(torch.device('cuda')))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "kernels: the package triton is not installed", done.stderr


def test_what_keeps_kernels_from_running_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models.kernels, "triton", object())
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert why_not(torch.device("cpu")) is None
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    assert why_not(torch.device("cpu")) == "kernels: got a cpu device, expected cuda (or TRITON_INTERPRET=1, for tests)"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: (7, 5))
    assert why_not(torch.device("cuda")) == "kernels: compute capability 7.5, expected 8.0 or newer"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: (9, 0))
    monkeypatch.setattr(models.kernels, "failure", lambda device: f"{device}: no C compiler")
    assert why_not(torch.device("cuda")) == "cuda: no C compiler"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_first_kernel_that_fails_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def __getitem__(self, _grid: tuple[int, ...]) -> Broken:
            return self

        def __call__(self, *_tensors: torch.Tensor, **_constants: int) -> None:
            raise RuntimeError("Failed to find C compiler.\n  Please specify via CC")

    monkeypatch.setattr(trial, "trial_kernel", Broken())
    said = trial.failure.__wrapped__(torch.device("cpu"))
    assert said == "kernels: a first one failed with RuntimeError: Failed to find C compiler. Please specify via CC"


@pytest.mark.skipif(not interpreting(), reason="TRITON_INTERPRET is not set")
def test_a_first_kernel_is_run_and_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton", reason="the package triton is not installed")
    assert trial.failure.__wrapped__(torch.device("cpu")) is None
    monkeypatch.setattr(trial, "trial_kernel", {(1,): lambda *_tensors, **_constants: None})
    assert str(trial.failure.__wrapped__(torch.device("cpu"))).startswith("kernels: a first one wrote [0, 0")
