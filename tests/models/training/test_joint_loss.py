"""All forms of the joint's RNN-T loss are the definition, in value and in every gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from models.training import joint_loss as module
from models.training.joint_loss import ACTIVATIONS, Batched, Form, Output, SampleWise, Targets, Tiled, joint_loss
from models.training.losses import slow_rnnt_loss

FORMS: tuple[Form, ...] = (Batched(), SampleWise(), Tiled(1), Tiled(7), Tiled(40), Tiled(10_000))
NAMES = ("enc", "pred", "weight", "bias")
LABELS = torch.tensor([[0, 3, 3], [2, 1, 0], [3, 0, 0], [1, 2, 3]])
TARGETS = Targets(LABELS, frames=torch.tensor([6, 4, 2, 9]), label_lengths=torch.tensor([3, 2, 0, 3]))


def inputs(seed: int = 0, dtype: torch.dtype = torch.double) -> list[Tensor]:
    """enc, pred, weight, bias of a small joint: H = 6, V = 4 and blank."""
    generator = torch.Generator().manual_seed(seed)
    shapes = ((4, 9, 6), (4, 4, 6), (5, 6), (5,))
    made = [torch.randn(*shape, generator=generator, dtype=torch.double).to(dtype) for shape in shapes]
    return [tensor.requires_grad_() for tensor in made]


def definition(made: list[Tensor], activation: str, row_weights: Tensor) -> Tensor:
    enc, pred, weight, bias = made
    logits = ACTIVATIONS[activation][0](enc[:, :, None] + pred[:, None]) @ weight.T + bias
    return (slow_rnnt_loss(logits, TARGETS.labels, TARGETS.frames, TARGETS.label_lengths) * row_weights).sum()


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_each_form_is_the_definition(form: Form, activation: str) -> None:
    row_weights = torch.tensor([1.0, 0.25, 2.0, -1.0], dtype=torch.double)
    made = inputs()
    loss = joint_loss(*made[:2], Output(*made[2:], activation), TARGETS, form, row_weights=row_weights)
    wanted = definition(made, activation, row_weights)
    torch.testing.assert_close(loss, wanted, rtol=1e-9, atol=1e-12)
    got = torch.autograd.grad(3 * loss, made)
    for name, grad, right in zip(NAMES, got, torch.autograd.grad(3 * wanted, made), strict=True):
        torch.testing.assert_close(grad, right, rtol=1e-6, atol=1e-9, msg=lambda text, n=name: f"{n}: {text}")


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_half_precision_stays_near(form: Form) -> None:
    made = inputs(1)
    wanted = definition(made, "relu", torch.ones(4, dtype=torch.double))
    rights = torch.autograd.grad(wanted, made)
    rounded = [tensor.detach().bfloat16().float().requires_grad_() for tensor in made]
    near = definition(rounded, "relu", torch.ones(4))
    loss = joint_loss(*rounded[:2], Output(*rounded[2:]), TARGETS, form, half=True)
    assert loss.item() == pytest.approx(near.item(), rel=1e-2)
    for grad, right in zip(torch.autograd.grad(loss, rounded), rights, strict=True):
        assert (grad - right).norm() < 0.03 * right.norm()


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


@pytest.mark.parametrize(("form", "cells"), [(SampleWise(), 9 * 4), (Tiled(50), 2 * 6 * 4), (Tiled(7), 2 * 3)], ids=str)
def test_no_more_logits_are_held_than_the_form_says(form: Form, cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    def watched(hidden: Tensor, *rest: Any) -> Tensor:
        sizes.append(hidden[..., 0].numel())
        return linear(hidden, *rest)

    linear = module._linear
    monkeypatch.setattr(module, "_linear", watched)
    made = inputs()
    joint_loss(*made[:2], Output(*made[2:]), TARGETS, form).backward()
    assert max(sizes) == cells
