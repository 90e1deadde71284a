"""All forms of the joint's RNN-T loss are what Graves wrote, in value and in every gradient."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from models.training import loss_tiles
from models.training.joint_loss import ACTIVATIONS, Batched, Form, Output, SampleWise, Targets, Tiled, joint_loss
from models.training.loss_reference import graves
from models.training.loss_tiles import Outcomes, Tile, TorchTiles

FORMS: tuple[Form, ...] = (Batched(), SampleWise(), Tiled(1), Tiled(7), Tiled(40), Tiled(10_000), Tiled(20, 10_000))
NAMES = ("enc", "pred", "weight", "bias")
LABELS = torch.tensor([[0, 3, 3], [2, 1, 0], [3, 0, 0], [1, 2, 3]])
TARGETS = Targets(LABELS, frames=torch.tensor([6, 4, 2, 9]), label_lengths=torch.tensor([3, 2, 0, 3]))


def inputs(seed: int = 0) -> list[Tensor]:
    """enc, pred, weight, bias of a small joint: H = 6, V = 4 and blank."""
    generator = torch.Generator().manual_seed(seed)
    shapes = ((4, 9, 6), (4, 4, 6), (5, 6), (5,))
    made = [torch.randn(*shape, generator=generator, dtype=torch.double) for shape in shapes]
    return [tensor.requires_grad_() for tensor in made]


def wide_inputs(hidden: int = 640, words: int = 512) -> list[Tensor]:
    """The same of a joint like those that are trained; all numbers are bfloat16's."""
    generator = torch.Generator().manual_seed(1)
    shapes = ((4, 9, hidden), (4, 4, hidden), (words + 1, hidden), (words + 1,))
    made = [torch.randn(*shape, generator=generator) for shape in shapes]
    made[2] *= hidden**-0.5
    made[3][-1] += 3.0
    return [tensor.bfloat16().float().requires_grad_() for tensor in made]


def paper(
    made: list[Tensor], activation: str = "relu", row_weights: Tensor | None = None
) -> tuple[float, list[Tensor]]:
    """Loss and gradients of the four inputs: the paper's as far as the logits, then float64's through the joint."""
    wide = [tensor.detach().double().requires_grad_() for tensor in made]
    hidden = ACTIVATIONS[activation](wide[0][:, :, None] + wide[1][:, None])
    logits = hidden @ wide[2].T + wide[3]
    losses, slopes = graves(logits.detach(), TARGETS.labels, TARGETS.frames, TARGETS.label_lengths)
    weights = torch.ones(4, dtype=torch.double) if row_weights is None else row_weights
    found = torch.autograd.grad(logits, wide, weights[:, None, None, None] * slopes)
    return (weights * losses).sum().item(), list(found)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_each_form_is_the_paper_s(form: Form, activation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss_tiles, "RUN", 17)  # several products for a tile, and several blocks for a product
    monkeypatch.setattr(loss_tiles, "BLOCK", 3)
    row_weights = torch.tensor([1.0, 0.25, 2.0, -1.0], dtype=torch.double)
    made = inputs()
    loss = joint_loss(*made[:2], Output(*made[2:], activation), TARGETS, form, row_weights=row_weights)
    value, slopes = paper(made, activation, row_weights)
    assert loss.item() == pytest.approx(value, rel=1e-9)
    for name, got, wanted in zip(NAMES, torch.autograd.grad(3 * loss, made), slopes, strict=True):
        assert (got - 3 * wanted).norm() <= 1e-9 * 3 * wanted.norm(), name
        torch.testing.assert_close(got, 3 * wanted, rtol=1e-6, atol=1e-9, msg=lambda text, n=name: f"{n}: {text}")


@pytest.mark.parametrize("form", [Batched(), SampleWise(), Tiled(70), Tiled(10_000)], ids=str)
def test_half_precision_stays_within_a_thousandth(form: Form) -> None:
    made = wide_inputs()
    loss = joint_loss(*made[:2], Output(*made[2:]), TARGETS, form, half=True)
    value, slopes = paper(made)
    assert loss.item() == pytest.approx(value, rel=1e-4)
    for name, got, wanted in zip(NAMES, torch.autograd.grad(loss, made), slopes, strict=True):
        assert (got - wanted).norm() <= 1e-3 * wanted.norm(), f"{name}: {(got - wanted).norm() / wanted.norm():.1e}"


@pytest.mark.parametrize("form", FORMS[1:], ids=str)
def test_fast_emit_is_that_of_the_reference(form: Form) -> None:
    made = inputs(2)
    plain, pushed = (
        torch.autograd.grad(joint_loss(*made[:2], Output(*made[2:]), TARGETS, each, fast_emit=0.3), made)
        for each in (Batched(), form)
    )
    for one, other in zip(plain, pushed, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("form", FORMS[1:], ids=str)
def test_what_lies_outside_a_row_has_no_influence(form: Form) -> None:
    made = inputs(3)
    other = [tensor.detach().clone() for tensor in made]
    other[0][1, 4:], other[1][2, 1:] = 1e3, -1e3
    disturbed = [tensor.requires_grad_() for tensor in other]
    losses = [joint_loss(*each[:2], Output(*each[2:]), TARGETS, form) for each in (made, disturbed)]
    torch.testing.assert_close(*losses, rtol=1e-12, atol=0.0)
    grads = torch.autograd.grad(losses[1], disturbed)
    assert not grads[0][1, 4:].any()
    assert not grads[1][2, 1:].any()


def test_without_gradients_there_is_the_same_loss() -> None:
    made = inputs(4)
    losses = []
    for wanted in (True, False):
        with torch.set_grad_enabled(wanted):
            losses.append(joint_loss(*made[:2], Output(*made[2:]), TARGETS, Tiled(40)).item())
    assert losses[0] == losses[1]


def test_inputs_in_half_precision_get_gradients_in_it() -> None:
    made = [tensor.detach().bfloat16().requires_grad_() for tensor in wide_inputs()]
    loss = joint_loss(*made[:2], Output(*made[2:]), TARGETS, Tiled(70), half=True)
    value, slopes = paper(made)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(value, rel=1e-4)
    for got, wanted in zip(torch.autograd.grad(loss, made), slopes, strict=True):
        assert got.dtype == torch.bfloat16
        assert (got - wanted).norm() <= 4e-3 * wanted.norm()


@pytest.mark.parametrize(("form", "cells"), [(SampleWise(), 9 * 4), (Tiled(50), 2 * 6 * 4), (Tiled(7), 2 * 3)], ids=str)
def test_no_more_logits_are_held_than_the_form_says(form: Form, cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    def watched(self: TorchTiles, tile: Tile) -> Outcomes:
        sizes.append(tile.cells)
        assert len(self.logits) == cells
        return outcomes(self, tile)

    outcomes = TorchTiles.outcomes
    monkeypatch.setattr(TorchTiles, "outcomes", watched)
    made = inputs()
    joint_loss(*made[:2], Output(*made[2:]), TARGETS, form).backward()
    assert max(sizes) == cells
