"""The transducer's loss and gradient as Graves wrote them (2012, section 2.4), cell by cell. Knows nothing of speed.

Plain loops over Python's numbers, which are float64: what every other form is held against.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

Logs = list[list[float]]
NEVER = -math.inf


def graves(logits: Tensor, labels: Tensor, frames: Tensor, label_lengths: Tensor) -> tuple[Tensor, Tensor]:
    """-log P(labels) of each row (B,), and its gradient with respect to logits (B, T, U + 1, V + 1), both float64.

    Blank is the last logit; labels (B, U), frames (B,) and label_lengths (B,) give each row's rectangle.
    """
    losses, slopes = logits.new_zeros(len(logits), dtype=torch.double), torch.zeros_like(logits, dtype=torch.double)
    for row, (count, length) in enumerate(zip(frames.tolist(), label_lengths.tolist(), strict=True)):
        logp = logits[row, :count, : length + 1].double().log_softmax(-1)
        spoken = labels[row, :length].tolist()
        losses[row], by_logp = _row(logp, spoken)
        slopes[row, :count, : length + 1] = by_logp - logp.exp() * by_logp.sum(-1, keepdim=True)  # through the softmax
    return losses, slopes


def _row(logp: Tensor, spoken: list[int]) -> tuple[float, Tensor]:
    """A row's loss, and its gradient with respect to the log-probabilities (T, U + 1, V + 1)."""
    blank: Logs = logp[..., -1].tolist()  # the paper's null output
    label: Logs = [[logp[t, u, k].item() for u, k in enumerate(spoken)] for t in range(len(logp))]
    alpha, beta = forward_variables(blank, label), backward_variables(blank, label)
    frames, places = len(blank), len(blank[0])
    log_p = beta[0][0]
    by_logp = torch.zeros_like(logp)
    for t, u in _cells(frames, places):
        last = t == frames - 1 and u == places - 1
        after_blank = 0.0 if last else beta[t + 1][u] if t + 1 < frames else NEVER
        by_logp[t, u, -1] = -math.exp(alpha[t][u] + blank[t][u] + after_blank - log_p)
        if u + 1 < places:
            by_logp[t, u, spoken[u]] = -math.exp(alpha[t][u] + label[t][u] + beta[t][u + 1] - log_p)
    return -log_p, by_logp


def forward_variables(blank: Logs, label: Logs) -> Logs:
    """alpha(t, u): the log-probability of having said u labels when frame t is reached."""
    frames, places = len(blank), len(blank[0])
    alpha = [[NEVER] * places for _ in range(frames)]
    alpha[0][0] = 0.0
    for t, u in _cells(frames, places):
        if t:
            alpha[t][u] = _plus(alpha[t][u], alpha[t - 1][u] + blank[t - 1][u])
        if u:
            alpha[t][u] = _plus(alpha[t][u], alpha[t][u - 1] + label[t][u - 1])
    return alpha


def backward_variables(blank: Logs, label: Logs) -> Logs:
    """beta(t, u): the log-probability of saying the rest from frame t on, u labels being said."""
    frames, places = len(blank), len(blank[0])
    beta = [[NEVER] * places for _ in range(frames)]
    beta[-1][-1] = blank[-1][-1]
    for t, u in reversed(list(_cells(frames, places))):
        if t + 1 < frames:
            beta[t][u] = _plus(beta[t][u], beta[t + 1][u] + blank[t][u])
        if u + 1 < places:
            beta[t][u] = _plus(beta[t][u], beta[t][u + 1] + label[t][u])
    return beta


def _cells(frames: int, places: int) -> Iterator[tuple[int, int]]:
    return ((t, u) for t in range(frames) for u in range(places))


def _plus(a: float, b: float) -> float:
    """log(exp a + exp b)."""
    most = max(a, b)
    return most if most == NEVER else most + math.log(math.exp(a - most) + math.exp(b - most))
