"""The RNN-T loss with its exact gradient, and a plain slow reference beside it. Knows nothing of models."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

NOTHING = -1e30  # log of zero, finite so that differences stay numbers


def rnnt_loss(logits: Tensor, labels: Tensor, frames: Tensor, label_lengths: Tensor, fast_emit: float = 0.0) -> Tensor:
    """-log P(labels) of each row under a transducer (Graves 2012); blank is the last logit.

    logits (B, T, U + 1, V + 1) float32, labels (B, U), frames (B,) and label_lengths (B,) give each row's rectangle;
    what lies outside has no influence. `fast_emit` scales the gradient of emissions by 1 + lambda (FastEmit, Yu 2021).
    """
    loss: Tensor = _Transducer.apply(logits, labels, frames, label_lengths, fast_emit)
    return loss


class _Transducer(torch.autograd.Function):
    """Forward and backward variables over the lattice in float64, the gradient with respect to logits at once."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, labels: Tensor, frames: Tensor, label_lengths: Tensor, fast_emit: float
    ) -> Tensor:
        norm = logits.logsumexp(-1)
        index = label_index(labels, logits.shape[1])
        blank = logits[..., -1] - norm
        emit = logits.gather(-1, index)[..., 0] - norm
        logp, by_blank, by_emit = ways(blank, emit, frames, label_lengths, fast_emit)
        ctx.save_for_backward(logits, norm, by_blank.to(logits.dtype), by_emit.to(logits.dtype), index)
        return -logp.to(logits.dtype)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None, None, None, None]:
        logits, norm, by_blank, by_emit, index = ctx.saved_tensors
        gradient = (logits - norm[..., None]).exp_().mul_((by_blank + by_emit)[..., None])
        gradient[..., -1] -= by_blank
        gradient.scatter_add_(-1, index, -by_emit[..., None])
        return gradient.mul_(slopes[0][:, None, None, None]), None, None, None, None


def label_index(labels: Tensor, frames: int) -> Tensor:
    """Labels (B, U) as an index into logits (B, frames, U + 1, V + 1), for the label that comes next at each place."""
    return torch.nn.functional.pad(labels, (0, 1))[:, None, :, None].expand(-1, frames, -1, 1)


def ways(
    blank: Tensor, emit: Tensor, frames: Tensor, label_lengths: Tensor, fast_emit: float = 0.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probability of each row (B,), and the share of its ways that leave each cell by blank and by its label.

    blank and emit (B, T, U + 1): log-probabilities of both at each cell; all is computed and returned in float64.
    """
    at_end, inside = _outline(blank, frames, label_lengths)
    emit = emit.double().masked_fill(~(inside & ~_last_label(blank, label_lengths)), NOTHING)
    blank = blank.double().masked_fill(~inside, NOTHING)
    alpha, beta = _alphas(blank, emit), _betas(blank, emit, at_end)
    logp = beta[:, 0, 0]
    through = alpha - logp[:, None, None]
    later = torch.nn.functional.pad(beta[:, 1:], (0, 0, 0, 1), value=NOTHING).masked_fill(at_end, 0.0)
    further = torch.nn.functional.pad(beta[:, :, 1:], (0, 1), value=NOTHING)
    return logp, (through + blank + later).exp(), (through + emit + further).exp() * (1.0 + fast_emit)


def _outline(cells: Tensor, frames: Tensor, label_lengths: Tensor) -> tuple[Tensor, Tensor]:
    """(B, T, U + 1) bool each: the cell whose blank ends the row, and the cells of the row's rectangle."""
    t = torch.arange(cells.shape[1], device=cells.device)[None, :, None]
    u = torch.arange(cells.shape[2], device=cells.device)[None, None, :]
    at_end = (t == frames[:, None, None] - 1) & (u == label_lengths[:, None, None])
    return at_end, (t < frames[:, None, None]) & (u <= label_lengths[:, None, None])


def _last_label(cells: Tensor, label_lengths: Tensor) -> Tensor:
    """(B, 1, U + 1) bool: places where all labels have been emitted."""
    return torch.arange(cells.shape[2], device=cells.device)[None, None, :] >= label_lengths[:, None, None]


def _sums(emit: Tensor) -> Tensor:
    """(B, T, U + 1): log-probability of emitting the first u labels at frame t, the impossible ones left out."""
    real = emit.masked_fill(emit <= NOTHING / 2, 0.0)
    return torch.nn.functional.pad(real.cumsum(-1)[..., :-1], (1, 0))


def _alphas(blank: Tensor, emit: Tensor) -> Tensor:
    """alpha[t, u]: log-probability of all ways to cell (t, u). One logcumsumexp over u for each frame:

    alpha[t, u] = E[t, u] + log sum over k <= u of exp(alpha[t-1, k] + blank[t-1, k] - E[t, k]), E sums of emissions.
    """
    sums = _sums(emit)
    rows = [sums[:, 0]]
    for t in range(1, blank.shape[1]):
        rows.append(sums[:, t] + torch.logcumsumexp(rows[-1] + blank[:, t - 1] - sums[:, t], dim=-1))
    return torch.stack(rows, 1)


def _betas(blank: Tensor, emit: Tensor, at_end: Tensor) -> Tensor:
    """beta[t, u]: log-probability of all ways from cell (t, u) to the end of its row."""
    sums = _sums(emit)
    ends = blank.masked_fill(~at_end, NOTHING)
    later = torch.full_like(blank[:, 0], NOTHING)
    rows = []
    for t in range(blank.shape[1] - 1, -1, -1):
        leave = torch.logaddexp(later + blank[:, t], ends[:, t]).clamp(min=NOTHING)
        later = (torch.logcumsumexp((leave + sums[:, t]).flip(-1), dim=-1).flip(-1) - sums[:, t]).clamp(min=NOTHING)
        rows.append(later)
    return torch.stack(rows[::-1], 1)


def slow_rnnt_loss(logits: Tensor, labels: Tensor, frames: Tensor, label_lengths: Tensor) -> Tensor:
    """The definition, cell by cell; autograd gives its gradient. For tests."""
    logp = logits.log_softmax(-1)
    losses = []
    for row in range(len(logits)):
        t_count, u_count = int(frames[row]), int(label_lengths[row])
        alpha: dict[tuple[int, int], Tensor] = {(0, 0): logits.new_zeros(())}
        for t in range(t_count):
            for u in range(u_count + 1):
                ways = []
                if t:
                    ways.append(alpha[t - 1, u] + logp[row, t - 1, u, -1])
                if u:
                    ways.append(alpha[t, u - 1] + logp[row, t, u - 1, labels[row, u - 1]])
                if ways:
                    alpha[t, u] = torch.logsumexp(torch.stack(ways), 0)
        losses.append(-(alpha[t_count - 1, u_count] + logp[row, t_count - 1, u_count, -1]))
    return torch.stack(losses)
