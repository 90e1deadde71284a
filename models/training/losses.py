"""The RNN-T loss of logits with its exact gradient, and the lattice below it. Knows nothing of models.

`loss_reference.py` has the same as Graves wrote it, cell by cell.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
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
    """The gradient with respect to logits at once: softmax x share of all ways, less what was taken."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, labels: Tensor, frames: Tensor, label_lengths: Tensor, fast_emit: float
    ) -> Tensor:
        logp = logits.log_softmax(-1)
        index = F.pad(labels, (0, 1))[:, None, :, None].expand(-1, logits.shape[1], -1, 1)  # what comes next
        found, by_blank, by_emit = ways(logp[..., -1], logp.gather(-1, index)[..., 0], frames, label_lengths, fast_emit)
        ctx.save_for_backward(logp, by_blank.to(logits.dtype), by_emit.to(logits.dtype), index)
        return -found.to(logits.dtype)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None, None, None, None]:
        logp, by_blank, by_emit, index = ctx.saved_tensors
        gradient = logp.exp().mul_((by_blank + by_emit)[..., None])
        gradient[..., -1] -= by_blank
        gradient.scatter_add_(-1, index, -by_emit[..., None])
        return gradient.mul_(slopes[0][:, None, None, None]), None, None, None, None


def ways(
    blank: Tensor, emit: Tensor, frames: Tensor, label_lengths: Tensor, fast_emit: float = 0.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probability of each row (B,), and the share of its ways that leave each cell by blank and by its label.

    blank and emit (B, T, U + 1): log-probabilities of both at each cell; all is computed and returned in float64.
    """
    at_end, inside = _outline(blank, frames, label_lengths)
    done = torch.arange(blank.shape[2], device=blank.device) >= label_lengths[:, None, None]
    emit = emit.double().masked_fill(~inside | done, NOTHING)
    blank = blank.double().masked_fill(~inside, NOTHING)
    alpha, beta = _alphas_and_betas(blank, emit, frames, label_lengths)
    logp = beta[:, 0, 0]
    through = alpha - logp[:, None, None]
    later = F.pad(beta[:, 1:], (0, 0, 0, 1), value=NOTHING).masked_fill(at_end, 0.0)
    further = F.pad(beta[:, :, 1:], (0, 1), value=NOTHING)
    return logp, (through + blank + later).exp(), (through + emit + further).exp() * (1.0 + fast_emit)


def _outline(cells: Tensor, frames: Tensor, label_lengths: Tensor) -> tuple[Tensor, Tensor]:
    """(B, T, U + 1) bool each: the cell whose blank ends the row, and the cells of the row's rectangle."""
    t = torch.arange(cells.shape[1], device=cells.device)[None, :, None]
    u = torch.arange(cells.shape[2], device=cells.device)[None, None, :]
    at_end = (t == frames[:, None, None] - 1) & (u == label_lengths[:, None, None])
    return at_end, (t < frames[:, None, None]) & (u <= label_lengths[:, None, None])


def _turned(cells: Tensor, frames: Tensor, label_lengths: Tensor) -> Tensor:
    """Each row's rectangle in (B, T, U + 1) turned by half a circle; turned again it is as before."""
    _, count, places = cells.shape
    t = frames[:, None] - 1 - torch.arange(count, device=cells.device)
    u = label_lengths[:, None] - torch.arange(places, device=cells.device)
    index = t.clamp(min=0)[:, :, None] * places + u.clamp(min=0)[:, None, :]
    turned = cells.flatten(1).gather(1, index.flatten(1)).view_as(cells)
    return turned.masked_fill_((t < 0)[:, :, None] | (u < 0)[:, None, :], NOTHING)


def _alphas_and_betas(blank: Tensor, emit: Tensor, frames: Tensor, label_lengths: Tensor) -> tuple[Tensor, Tensor]:
    """alpha[t, u] and beta[t, u]: log-probability of all ways to a cell, and from it to the row's end.

    One anti-diagonal after the other, all rows at once. Betas are the alphas of the lattice turned round, where a step
    costs what its destination says instead of its origin, and run beside them as rows of their own.
    """
    rows, count, places = blank.shape
    steps = count + places - 1
    by_blank, by_emit = blank.new_full((2, steps, 2 * rows, places), NOTHING)  # what it costs to arrive so at a cell
    arrive, say = _slanted(by_blank, count), _slanted(by_emit, count)
    arrive[:rows, 1:], say[:rows, :, 1:] = blank[:, :-1], emit[:, :, :-1]
    arrive[:rows, 0, 0] = 0.0
    arrive[rows:], say[rows:] = (_turned(cells, frames, label_lengths) for cells in (blank, emit))
    sums = blank.new_full((steps + 1, 2 * rows, places + 1), NOTHING)  # a place more to the left of all
    sums[0, :, 1] = 0.0
    for step in range(steps):
        before, now = sums[step], sums[step + 1]
        torch.logaddexp(before[:, 1:] + by_blank[step], before[:, :-1] + by_emit[step], out=now[:, 1:])
    found = _slanted(sums[1:, :, 1:], count)
    return found[:rows], _turned(found[rows:], frames, label_lengths)


def _slanted(diagonals: Tensor, frames: int) -> Tensor:
    """(steps, rows, places) seen as (rows, frames, places): cell (t, u) lies in diagonal t + u at place u."""
    _, rows, places = diagonals.shape
    step, row, place = diagonals.stride()
    return diagonals.as_strided((rows, frames, places), (row, step, step + place), diagonals.storage_offset())
