"""Claims about the TDT loss: it is the sum over all ways, with its gradient, whatever lies beside a row."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor

from models.training.tdt_loss import tdt_loss


def by_ways(blank: Tensor, emit: Tensor, steps: Tensor, durations: tuple[int, ...], t_end: int, u_end: int) -> Tensor:
    """The definition: every way from the first cell to the end, one after the other."""

    @functools.cache
    def rest(t: int, u: int) -> Tensor:
        found = [blank.new_tensor(-1e30)]
        for place, count in enumerate(durations):
            if count and t + count == t_end and u == u_end:
                found.append(blank[t, u] + steps[t, u, place])
            if t + count < t_end:
                if count:
                    found.append(blank[t, u] + steps[t, u, place] + rest(t + count, u))
                if u < u_end:
                    found.append(emit[t, u] + steps[t, u, place] + rest(t + count, u + 1))
        return torch.logsumexp(torch.stack(found), 0)

    return -rest(0, 0)


@pytest.mark.parametrize("durations", [(0, 1, 2, 3, 4), (0, 1), (1, 2), (0, 2)])
def test_the_loss_is_the_sum_over_all_ways(durations: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    frames, lengths = torch.tensor([6, 4]), torch.tensor([2, 3])
    logits = torch.randn(2, 6, 4, 5, dtype=torch.double)
    moves = torch.randn(2, 6, 4, len(durations), dtype=torch.double)
    inputs = [x.requires_grad_() for x in (logits, moves)]
    logp, steps = logits.log_softmax(-1), moves.log_softmax(-1)
    got = tdt_loss(logp[..., -1], logp[..., 0], steps, durations, frames, lengths)
    parts = [(logp[row, ..., -1], logp[row, ..., 0], steps[row]) for row in range(2)]
    wanted = torch.stack(
        [by_ways(*part, durations, int(frames[row]), int(lengths[row])) for row, part in enumerate(parts)]
    )
    assert bool((wanted < 1e6).all())
    torch.testing.assert_close(got, wanted, rtol=1e-9, atol=0)
    slopes = [torch.autograd.grad(x.sum(), inputs, retain_graph=True) for x in (got, wanted)]
    for ours, theirs in zip(*slopes, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-12)
        assert not ours[1, 4:].any(), "what lies beside a row has no part in its loss"
