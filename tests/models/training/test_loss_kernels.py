"""The joint's loss in kernels is what Graves wrote, in value and in every gradient."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from models.kernels.dialect import interpreting
from models.training import loss_kernels
from models.training.joint_loss import Kernels, Output, Targets, joint_loss
from tests.conftest import ROOT
from tests.models.kernels.device import DEVICE
from tests.models.training.test_joint_loss import NAMES, TARGETS, inputs, paper, wide_inputs


def on_device(made: list[Tensor]) -> tuple[list[Tensor], Targets]:
    moved = [tensor.detach().to(DEVICE).requires_grad_() for tensor in made]
    return moved, Targets(*(x.to(DEVICE) for x in (TARGETS.labels, TARGETS.frames, TARGETS.label_lengths)))


CASES = [  # a tile of several utterances, all at once, parts of utterances, and lattices of more than a tile
    (Kernels(50, 0), "relu", torch.double),
    (Kernels(), "tanh", torch.double),
    (Kernels(16, 0), "sigmoid", torch.float),
    (Kernels(80, 10_000), "relu", torch.float),
]


@pytest.mark.parametrize(("form", "activation", "dtype"), CASES, ids=str)
def test_the_kernels_are_the_paper_s(
    form: Kernels, activation: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss_kernels, "SPAN", 4)  # several programs for the frames, and several turns for the labels
    monkeypatch.setattr(loss_kernels, "back_tile", lambda *_: {"BU": 2, "BH": 16})
    near = 1e-9 if dtype == torch.double else 1e-5
    row_weights = torch.tensor([1.0, 0.25, 2.0, -1.0], dtype=torch.double)
    made, targets = on_device([tensor.to(dtype) for tensor in inputs()])
    loss = joint_loss(
        *made[:2], Output(*made[2:], activation), targets, form, row_weights=row_weights.to(DEVICE, dtype)
    )
    value, slopes = paper([tensor.cpu() for tensor in made], activation, row_weights)
    assert loss.item() == pytest.approx(value, rel=near)
    for name, got, wanted in zip(NAMES, torch.autograd.grad(3 * loss, made), slopes, strict=True):
        difference = (got.cpu().double() - 3 * wanted).norm()
        assert difference <= near * 3 * wanted.norm(), f"{name}: {difference / wanted.norm() / 3:.1e}"


def test_half_precision_stays_within_a_thousandth() -> None:
    made, targets = on_device(wide_inputs(96, 160))
    loss = joint_loss(*made[:2], Output(*made[2:]), targets, Kernels(), half=True)
    value, slopes = paper([tensor.cpu() for tensor in made])
    assert loss.item() == pytest.approx(value, rel=1e-4)
    for name, got, wanted in zip(NAMES, torch.autograd.grad(loss, made), slopes, strict=True):
        difference = (got.cpu() - wanted).norm() / wanted.norm()
        assert difference <= 1e-3, f"{name}: {difference:.1e}"


def test_the_kernels_compile_for_hopper_without_spills() -> None:
    command = [sys.executable, "-m", "tests.models.training.compiled_loss"]
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert len(found) == 6
    assert {name: values["error"] for name, values in found.items() if "error" in values} == {}
    assert {name: values for name, values in found.items() if values["local"] or values["scratch"]} == {}
    assert max(values["shared"] for values in found.values()) <= 227 * 1024


@pytest.mark.skipif(not interpreting(), reason="TRITON_INTERPRET is not set")
def test_what_keeps_the_kernels_from_running_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    made = inputs()
    with pytest.raises(ValueError, match="kernels: got a cpu device, expected cuda"):
        joint_loss(*made[:2], Output(*made[2:]), TARGETS, Kernels())
