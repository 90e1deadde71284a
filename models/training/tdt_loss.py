"""The loss of a token-and-duration transducer (Xu et al. 2023). Knows nothing of models.

Every step emits a label or blank, and says how many frames it moves on; a blank moves on at least one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

NOTHING = -1e30  # log of zero, finite so that differences stay numbers


def tdt_loss(
    blank: Tensor, emit: Tensor, steps: Tensor, durations: Sequence[int], frames: Tensor, label_lengths: Tensor
) -> Tensor:
    """-log P(labels) of each row (B,), in float64; autograd gives its gradient.

    blank and emit (B, T, U + 1): log-probabilities of both at each cell; steps (B, T, U + 1, D) of each duration;
    frames and label_lengths (B,) give each row's rectangle. What lies outside has no influence: no way out of it leads
    to the row's end.
    """
    blank, emit, steps = blank.double(), emit.double(), steps.double()
    moving = [(place, frame) for place, frame in enumerate(durations) if frame > 0]
    staying = [place for place, frame in enumerate(durations) if frame == 0]
    start = torch.full_like(blank[:, 0], NOTHING)
    start[:, 0] = 0.0
    alphas: list[Tensor] = []
    for t in range(blank.shape[1]):
        ways = [start] if t == 0 else []
        for place, count in moving:
            if count <= t:
                left = alphas[t - count] + steps[:, t - count, :, place]
                ways += [left + blank[:, t - count], _further(left + emit[:, t - count])]
        here = torch.logsumexp(torch.stack(ways), 0) if ways else torch.full_like(start, NOTHING)
        if staying:  # labels one after the other on the same frame: one logcumsumexp over u
            sums = (emit[:, t] + steps[:, t, :, staying[0]])[:, :-1].cumsum(-1)
            sums = torch.nn.functional.pad(sums, (1, 0))
            here = sums + torch.logcumsumexp(here - sums, -1)
        alphas.append(here)
    return -_ended(torch.stack(alphas, 1) + blank, steps, moving, frames, label_lengths)


def _further(ways: Tensor) -> Tensor:
    """(B, U + 1): one label more."""
    return torch.nn.functional.pad(ways[:, :-1], (1, 0), value=NOTHING)


def _ended(
    blanks: Tensor, steps: Tensor, moving: list[tuple[int, int]], frames: Tensor, label_lengths: Tensor
) -> Tensor:
    """(B,): all ways that leave a row's last label by a blank which moves exactly to its end."""
    rows = torch.arange(len(frames), device=frames.device)
    ways = []
    for place, count in moving:
        at = (frames - count).clamp(min=0)
        way = blanks[rows, at, label_lengths] + steps[rows, at, label_lengths, place]
        ways.append(way.masked_fill(frames < count, NOTHING))
    return torch.logsumexp(torch.stack(ways), 0)
