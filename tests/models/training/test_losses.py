"""The fast RNN-T loss equals its definition, in value and gradient."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from models.training.losses import rnnt_loss, slow_rnnt_loss


def lattice(seed: int = 0, rows: int = 3) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Ragged rows: the longest, a middle one, and one frame-poor row without labels."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(rows, 6, 4, 5, dtype=torch.double, generator=generator)
    labels = torch.randint(0, 4, (rows, 3), generator=generator)
    frames = torch.tensor([6, 4, 2])[:rows]
    return logits.requires_grad_(), labels, frames, torch.tensor([3, 2, 0])[:rows]


@pytest.mark.parametrize("seed", range(5))
def test_the_fast_loss_equals_the_definition_on_ragged_rows(seed: int) -> None:
    logits, labels, frames, lengths = lattice(seed)
    fast, slow = rnnt_loss(logits, labels, frames, lengths), slow_rnnt_loss(logits, labels, frames, lengths)
    assert torch.allclose(fast, slow, atol=1e-10), f"max difference {(fast - slow).abs().max():.2e}"


@pytest.mark.parametrize("seed", range(5))
def test_the_fast_gradient_equals_that_of_the_definition(seed: int) -> None:
    logits, labels, frames, lengths = lattice(seed)
    weights = torch.tensor([1.0, 2.0, -0.5], dtype=torch.double)
    (fast,) = torch.autograd.grad((weights * rnnt_loss(logits, labels, frames, lengths)).sum(), logits)
    (slow,) = torch.autograd.grad((weights * slow_rnnt_loss(logits, labels, frames, lengths)).sum(), logits)
    assert torch.allclose(fast, slow, atol=1e-10), f"max difference {(fast - slow).abs().max():.2e}"


def test_the_gradient_passes_gradcheck() -> None:
    logits, labels, frames, lengths = lattice()
    assert torch.autograd.gradcheck(lambda x: rnnt_loss(x, labels, frames, lengths), (logits,))


def test_what_lies_outside_a_row_has_no_influence() -> None:
    logits, labels, frames, lengths = lattice()
    disturbed = logits.detach().clone()
    disturbed[1, 4:] = 1e4
    disturbed[1, :, 3:] = -1e4
    more_labels = labels.clone()
    more_labels[1, 2:] = (labels[1, 2:] + 1) % 4
    disturbed.requires_grad_()
    after = rnnt_loss(disturbed, more_labels, frames, lengths)
    assert torch.equal(after, rnnt_loss(logits, labels, frames, lengths))
    after.sum().backward()
    assert disturbed.grad is not None
    assert not disturbed.grad[1, 4:].any()
    assert not disturbed.grad[1, :, 3:].any()


def test_a_certain_path_costs_nothing_and_a_long_unlikely_one_stays_a_number() -> None:
    sure = torch.full((1, 4, 1, 3), -50.0)
    sure[..., -1] = 50.0
    assert rnnt_loss(
        sure, torch.zeros(1, 0, dtype=torch.long), torch.tensor([4]), torch.tensor([0])
    ).item() == pytest.approx(0.0)
    unlikely = torch.zeros(1, 30, 101, 8)
    unlikely[..., -1] = 60.0
    labels = torch.arange(100)[None] % 7
    unlikely.requires_grad_()
    loss = rnnt_loss(unlikely, labels, torch.tensor([30]), torch.tensor([100]))
    wanted = slow_rnnt_loss(unlikely.detach().double(), labels, torch.tensor([30]), torch.tensor([100]))
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    loss.sum().backward()
    assert unlikely.grad is not None
    assert torch.isfinite(unlikely.grad).all()


def test_fast_emit_scales_emissions_and_leaves_the_loss() -> None:
    logits, labels, frames, lengths = lattice()
    plain, pushed = (rnnt_loss(logits, labels, frames, lengths, fast_emit) for fast_emit in (0.0, 0.1))
    assert torch.equal(plain, pushed)
    (before,) = torch.autograd.grad(plain.sum(), logits)
    (after,) = torch.autograd.grad(pushed.sum(), logits)
    label = int(labels[0, 0])
    assert after[0, 0, 0, label] < before[0, 0, 0, label], "a descent step raises the first label more"
