"""The RNN-T loss of logits equals what Graves wrote, in value and gradient; and that equals the sum over all ways."""

from __future__ import annotations

from itertools import combinations_with_replacement

import pytest
import torch
from torch import Tensor

from models.training.loss_reference import graves
from models.training.losses import rnnt_loss


def lattice(seed: int = 0, rows: int = 3) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Ragged rows: the longest, a middle one, and one frame-poor row without labels."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(rows, 6, 4, 5, dtype=torch.double, generator=generator)
    labels = torch.randint(0, 4, (rows, 3), generator=generator)
    frames = torch.tensor([6, 4, 2])[:rows]
    return logits.requires_grad_(), labels, frames, torch.tensor([3, 2, 0])[:rows]


@pytest.mark.parametrize("seed", range(5))
def test_value_and_gradient_are_those_of_the_paper_on_ragged_rows(seed: int) -> None:
    logits, labels, frames, lengths = lattice(seed)
    weights = torch.tensor([1.0, 2.0, -0.5], dtype=torch.double)
    loss = rnnt_loss(logits, labels, frames, lengths)
    (gradient,) = torch.autograd.grad((weights * loss).sum(), logits)
    losses, slopes = graves(logits.detach(), labels, frames, lengths)
    torch.testing.assert_close(loss, losses, rtol=1e-12, atol=0.0)
    torch.testing.assert_close(gradient, weights[:, None, None, None] * slopes, rtol=1e-9, atol=1e-12)


def test_the_paper_sums_over_all_ways_and_its_gradient_is_the_slope_of_its_value() -> None:
    logits, labels, frames, lengths = lattice(1)
    logp = logits.detach().log_softmax(-1)
    for row, (count, length) in enumerate(zip(frames.tolist(), lengths.tolist(), strict=True)):
        chances = []
        for said_at in combinations_with_replacement(range(count), length):
            u, chance = 0, 0.0
            for t in range(count):
                while u < length and said_at[u] == t:
                    chance += logp[row, t, u, labels[row, u]].item()
                    u += 1
                chance += logp[row, t, u, -1].item()
            chances.append(chance)
        value = graves(logits.detach(), labels, frames, lengths)[0][row].item()
        assert value == pytest.approx(-torch.tensor(chances, dtype=torch.double).logsumexp(0).item(), rel=1e-12)
    step = 1e-6 * torch.randn(logits.shape, dtype=torch.double, generator=torch.Generator().manual_seed(2))
    up, down = (graves(logits.detach() + sign * step, labels, frames, lengths)[0].sum() for sign in (1, -1))
    slopes = graves(logits.detach(), labels, frames, lengths)[1]
    assert ((up - down) / 2).item() == pytest.approx((slopes * step).sum().item(), rel=1e-6)


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
    wanted, _ = graves(unlikely.detach(), labels, torch.tensor([30]), torch.tensor([100]))
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
