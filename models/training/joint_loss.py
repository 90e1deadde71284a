"""The RNN-T loss from the joint's two inputs, without the joint's logits of a whole batch. Knows nothing of models.

Three forms that agree: `Batched` holds all logits at once and is the reference; `SampleWise` has one utterance's joint,
softmax, loss and gradient at a time (Braun, McDermott, Hsiao 2022); `Tiled` has as many short utterances at a time, or
as much of a long one, as hold a given number of cells (frame, label). Padding between utterances is never computed in
the second, hardly in the third.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from models.training.losses import label_index, rnnt_loss, ways

# activation -> itself, and its slope told by its value
ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "relu": (torch.relu, lambda value: (value > 0).to(value.dtype)),
    "sigmoid": (torch.sigmoid, lambda value: value * (1 - value)),
    "tanh": (torch.tanh, lambda value: 1 - value * value),
}


@dataclass(frozen=True, slots=True)
class Batched:
    """All logits at once: (B, T, U + 1, V + 1)."""


@dataclass(frozen=True, slots=True)
class SampleWise:
    """One utterance's logits at a time."""


@dataclass(frozen=True, slots=True)
class Tiled:
    """At most `cells` cells' logits at a time; those of a longer utterance are computed twice."""

    cells: int = 16_000


Form = Batched | SampleWise | Tiled


@dataclass(frozen=True, slots=True)
class Output:
    """The joint's last layer: logits = weight @ activation(enc + pred) + bias; blank is the last."""

    weight: Tensor  # (V + 1, H)
    bias: Tensor  # (V + 1,)
    activation: str = "relu"


@dataclass(frozen=True, slots=True)
class Targets:
    """What is said: labels (B, U), and each row's frames and labels (B,)."""

    labels: Tensor
    frames: Tensor
    label_lengths: Tensor


def joint_loss(
    enc: Tensor,
    pred: Tensor,
    output: Output,
    targets: Targets,
    form: Form,
    *,
    fast_emit: float = 0.0,
    row_weights: Tensor | None = None,
    half: bool = False,
) -> Tensor:
    """The sum over rows of weight x -log P(labels).

    enc (B, T, H) and pred (B, U + 1, H) are the joint's projections of encoder and predictor; `row_weights` (B,), ones
    by default. With `half` logits are products of bfloat16 numbers, summed in float32, and everything after them is
    float32, the lattice float64. Gradients reach enc, pred, weight and bias.
    """
    weights = torch.ones(len(enc), device=enc.device, dtype=enc.dtype) if row_weights is None else row_weights
    if isinstance(form, Batched):
        act, _ = ACTIVATIONS[output.activation]
        hidden = act(enc[:, :, None] + pred[:, None])
        logits = _linear(hidden, output.weight, output.bias, half)
        losses = rnnt_loss(logits, targets.labels, targets.frames, targets.label_lengths, fast_emit)
        return (losses * weights).sum()
    most = form.cells if isinstance(form, Tiled) else None
    how = _How(output.activation, targets, weights.detach(), fast_emit, half, most)
    total: Tensor = _Fused.apply(enc, pred, output.weight, output.bias, how)
    return total


@dataclass(frozen=True, slots=True)
class _How:
    activation: str
    targets: Targets
    row_weights: Tensor
    fast_emit: float
    half: bool
    most_cells: int | None  # None: one utterance at a time, however long


class _Fused(torch.autograd.Function):
    """Loss and gradients group by group: logits live no longer than their group."""

    @staticmethod
    def forward(ctx: Any, enc: Tensor, pred: Tensor, weight: Tensor, bias: Tensor, how: _How) -> Tensor:
        wanted = any(ctx.needs_input_grad[:4])
        grads = [torch.zeros_like(x, dtype=_wide(x)) for x in (enc, pred, weight, bias)] if wanted else []
        total = enc.new_zeros((), dtype=torch.double)
        targets = how.targets
        for rows in groups(targets.frames, targets.label_lengths, how.most_cells):
            part = _Part(enc, pred, weight, bias, how, rows)
            total += part.loss(grads)
        ctx.save_for_backward(*(grad.to(x.dtype) for grad, x in zip(grads, (enc, pred, weight, bias), strict=False)))
        return total.to(_wide(enc))

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        return *(grad * slopes[0].to(grad.dtype) for grad in ctx.saved_tensors), None


class _Part:
    """Some rows, cut to the longest of them."""

    def __init__(self, enc: Tensor, pred: Tensor, weight: Tensor, bias: Tensor, how: _How, rows: slice) -> None:
        targets = how.targets
        self.rows, self.how = rows, how
        self.frames, self.lengths = targets.frames[rows], targets.label_lengths[rows]
        self.most_frames, self.most_labels = int(self.frames.max()), int(self.lengths.max())
        self.enc = enc[rows, : self.most_frames]
        self.pred = pred[rows, : self.most_labels + 1]
        self.weight, self.bias = weight, bias
        self.index = label_index(targets.labels[rows, : self.most_labels], self.most_frames)
        self.act, self.slope = ACTIVATIONS[how.activation]

    def loss(self, grads: list[Tensor]) -> Tensor:
        """The rows' weighted loss; their gradients are added to `grads` (enc, pred, weight, bias), if there are any."""
        spans = self._spans()
        kept = [self._logits(span) for span in spans] if len(spans) == 1 else []
        blank, emit, norm = self._outcomes(spans, kept)
        logp, by_blank, by_emit = ways(blank, emit, self.frames, self.lengths, self.how.fast_emit)
        row_weights = self.how.row_weights[self.rows].double()
        if grads:
            scale = row_weights[:, None, None]
            shares = [(share * scale).to(norm.dtype) for share in (by_blank, by_emit)]
            for span in spans:
                self._add(grads, span, kept[0] if kept else self._logits(span), norm, shares)
        return -(logp * row_weights).sum()

    def _spans(self) -> list[slice]:
        """All frames, or as many at a time as there is room for."""
        most, width = self.how.most_cells, len(self.enc) * (self.most_labels + 1)
        step = self.most_frames if most is None else max(1, most // width)
        return [slice(at, at + step) for at in range(0, self.most_frames, step)]

    def _logits(self, span: slice) -> tuple[Tensor, Tensor]:
        """(rows, span, U + 1, H) activations and (rows, span, U + 1, V + 1) logits."""
        hidden = self.act(self.enc[:, span, None] + self.pred[:, None])
        return hidden, _linear(hidden, self.weight, self.bias, self.how.half)

    def _outcomes(self, spans: list[slice], kept: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
        """(rows, T, U + 1) each: log-probabilities of blank and of the next label, and the log of the softmax's sum."""
        parts = []
        for span in spans:
            _, logits = kept[0] if kept else self._logits(span)
            norm = logits.logsumexp(-1)
            parts.append((logits[..., -1] - norm, logits.gather(-1, self.index[:, span])[..., 0] - norm, norm))
        blank, emit, norm = (torch.cat(part, 1) for part in zip(*parts, strict=True))
        return blank, emit, norm

    def _add(
        self, grads: list[Tensor], span: slice, made: tuple[Tensor, Tensor], norm: Tensor, shares: list[Tensor]
    ) -> None:
        """softmax x share of all ways, less the share where blank or label was taken; then back through the joint."""
        hidden, logits = made
        by_blank, by_emit = (share[:, span] for share in shares)
        slope = logits.sub_(norm[:, span, :, None]).exp_().mul_((by_blank + by_emit)[..., None])
        slope[..., -1] -= by_blank
        slope.scatter_add_(-1, self.index[:, span], -by_emit[..., None])
        enc, pred, weight, bias = grads
        flat, wide = slope.flatten(0, 2), weight.dtype
        bias += flat.sum(0).to(wide)
        if self.how.half:
            flat = flat.bfloat16()
        weight += (flat.T @ hidden.flatten(0, 2).to(flat.dtype)).to(wide)
        back = (flat @ self.weight.to(flat.dtype)).to(hidden.dtype).view_as(hidden).mul_(self.slope(hidden))
        enc[self.rows, : self.most_frames][:, span] += back.sum(2).to(enc.dtype)
        pred[self.rows, : self.most_labels + 1] += back.sum(1).to(pred.dtype)


def _linear(hidden: Tensor, weight: Tensor, bias: Tensor, half: bool) -> Tensor:
    if not half:
        return F.linear(hidden, weight, bias)
    return F.linear(hidden.bfloat16(), weight.bfloat16(), bias.bfloat16()).float()


def _wide(x: Tensor) -> torch.dtype:
    """What sums are kept in."""
    return torch.double if x.dtype == torch.double else torch.float


def groups(frames: Tensor, labels: Tensor, most_cells: int | None) -> Iterator[slice]:
    """Runs of rows whose padded (frames x labels + 1) rectangles hold at most so many cells; single rows for None."""
    counts = list(zip(frames.tolist(), labels.tolist(), strict=True))
    start = 0
    while start < len(counts):
        stop, most_frames, most_labels = start + 1, *counts[start]
        while most_cells is not None and stop < len(counts):
            most_frames, most_labels = max(most_frames, counts[stop][0]), max(most_labels, counts[stop][1])
            if (stop + 1 - start) * most_frames * (most_labels + 1) > most_cells:
                break
            stop += 1
        yield slice(start, stop)
        start = stop
