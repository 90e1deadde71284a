"""The RNN-T loss from the joint's two inputs, in forms that differ in what they hold. Knows nothing of models.

`Batched` holds the logits of the whole batch and is the reference. `SampleWise` has one utterance's joint, softmax,
loss and gradients at a time, without padding (Braun, McDermott, Hsiao 2022). `Tiled` has as many short utterances at a
time, or as much of a long one, as hold a given number of cells (frame, label). `Kernels` does the same in Triton, for a
GPU: no logit is ever written to memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from models.training.loss_crew import dealt, hands, together
from models.training.loss_kernels import KernelTiles
from models.training.loss_tiles import Outcomes, Shares, Sums, Tile, TorchTiles
from models.training.losses import rnnt_loss

AT_ONCE = 16_000  # cells that sample-wise threads are counted by
ACTIVATIONS = {"relu": torch.relu, "sigmoid": torch.sigmoid, "tanh": torch.tanh}


@dataclass(frozen=True, slots=True)
class Batched:
    """All logits at once: (B, T, U + 1, V + 1)."""


@dataclass(frozen=True, slots=True)
class SampleWise:
    """One utterance's logits at a time; on a CPU each of up to four threads has one."""


@dataclass(frozen=True, slots=True)
class Tiled:
    """At most `cells` cells' logits at a time; of a longer utterance all but the last tile are computed twice.

    On a CPU threads share the cells: 8 000 are two tiles of 4 000, side by side.
    `lattice`: so many cells' alphas and betas at once, if that is more: fewer and longer steps, which a GPU wants, for
    a joint that is computed twice.
    """

    cells: int = 8_000
    lattice: int = 0


@dataclass(frozen=True, slots=True)
class Kernels:
    """The same on a GPU, where hidden values and slopes of at most `cells` cells are in memory at a time."""

    cells: int = 131_072
    lattice: int = 8_000_000


Tiles = TorchTiles | KernelTiles
Form = Batched | SampleWise | Tiled | Kernels


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
    by default. With `half` products are of bfloat16 numbers, summed in float32 (see loss_tiles.py for what is spared),
    and everything after them is float32, the lattice float64; the reference has no halves. Gradients reach enc, pred,
    weight and bias.
    """
    weights = torch.ones(len(enc), device=enc.device, dtype=_wide(enc)) if row_weights is None else row_weights
    if isinstance(form, Batched):
        last = Output(output.weight.to(_wide(enc)), output.bias.to(_wide(enc)), output.activation)
        logits = all_logits(enc.to(_wide(enc)), pred.to(_wide(enc)), last)
        losses = rnnt_loss(logits, targets.labels, targets.frames, targets.label_lengths, fast_emit)
        return (losses * weights).sum()
    cells = AT_ONCE if isinstance(form, SampleWise) else form.cells
    crew = hands(cells) if enc.device.type == "cpu" and not isinstance(form, Kernels) else 1
    how = _How(output.activation, targets, weights.detach(), fast_emit, half, form, crew)
    total: Tensor = _Fused.apply(enc, pred, output.weight, output.bias, how)
    return total


def all_logits(enc: Tensor, pred: Tensor, output: Output) -> Tensor:
    """(B, T, U + 1, V + 1)."""
    hidden = ACTIVATIONS[output.activation](enc[:, :, None] + pred[:, None])
    return F.linear(hidden, output.weight, output.bias)


@dataclass(frozen=True, slots=True)
class _How:
    activation: str
    targets: Targets
    row_weights: Tensor
    fast_emit: float
    half: bool
    form: SampleWise | Tiled | Kernels
    hands: int  # threads with groups of their own

    @property
    def most_cells(self) -> int | None:
        """Of a tile; None: one utterance, however long."""
        return None if isinstance(self.form, SampleWise) else max(1, self.form.cells // self.hands)

    @property
    def group_cells(self) -> int | None:
        """Of rows whose lattices are computed together."""
        return None if isinstance(self.form, SampleWise) else max(self.form.cells // self.hands, self.form.lattice)


class _Fused(torch.autograd.Function):
    """Loss and gradients group by group: logits live no longer than their tile."""

    @staticmethod
    def forward(ctx: Any, enc: Tensor, pred: Tensor, weight: Tensor, bias: Tensor, how: _How) -> Tensor:
        given, wanted = (enc, pred, weight, bias), any(ctx.needs_input_grad[:4])
        by_enc, by_pred = (torch.zeros_like(x, dtype=_wide(x)) if wanted else None for x in (enc, pred))
        found = list(groups(how.targets.frames, how.targets.label_lengths, how.group_cells))
        room = max(_Group(enc, pred, how, rows).room for rows in found)
        make = KernelTiles if isinstance(how.form, Kernels) else TorchTiles

        def share(indices: list[int]) -> tuple[Tensor, Tensor, Tensor]:
            """A thread's part of the loss, and of the gradients of weight and bias; rows are its own."""
            work = make(weight.to(_wide(weight)), bias.to(_wide(bias)), how.activation, how.half, room)
            own = [torch.zeros_like(x, dtype=_wide(x)) for x in (weight, bias)]
            sums = None if by_enc is None or by_pred is None else Sums(by_enc, by_pred, *own)
            total = enc.new_zeros((), dtype=torch.double)
            for index in indices:
                total += _Group(enc, pred, how, found[index]).loss(work, sums)
            return total, own[0], own[1]

        sizes = [(rows.stop - rows.start) * int(how.targets.frames[rows].max()) for rows in found]
        parts = together(share, dealt(sizes, max(1, min(how.hands, len(found)))))
        total, by_weight, by_bias = (sum(column[1:], column[0]) for column in zip(*parts, strict=True))
        if by_enc is not None and by_pred is not None:
            grads = (by_enc, by_pred, by_weight, by_bias)
            ctx.save_for_backward(*(grad.to(x.dtype) for grad, x in zip(grads, given, strict=True)))
        return total.to(_wide(enc))

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        return *(grad * slopes[0].to(grad.dtype) for grad in ctx.saved_tensors), None


class _Group:
    """Some rows, cut to the longest of them."""

    def __init__(self, enc: Tensor, pred: Tensor, how: _How, rows: slice) -> None:
        targets = how.targets
        self.rows, self.how = rows, how
        self.frames, self.lengths = targets.frames[rows], targets.label_lengths[rows]
        most_frames, most_labels = int(self.frames.max()), int(self.lengths.max())
        self.enc, self.pred = enc[rows, :most_frames], pred[rows, : most_labels + 1]
        self.labels = F.pad(targets.labels[rows, :most_labels], (0, 1))

    @property
    def room(self) -> int:
        """Cells of its largest tile."""
        first = self._spans()[0]
        return (first.stop - first.start) * self.pred[..., 0].numel()

    def loss(self, work: Tiles, sums: Sums | None) -> Tensor:
        """The rows' weighted loss; their gradients are added to `sums`, if there are any."""
        spans = self._spans()
        found = self._outcomes(work, spans)
        logp, by_blank, by_emit = work.ways(found.blank, found.emit, self.frames, self.lengths, self.how.fast_emit)
        row_weights = self.how.row_weights[self.rows].double()
        if sums is not None:
            scale = row_weights[:, None, None]
            shares = Shares(*((share * scale).to(found.norm.dtype) for share in (by_blank, by_emit)))
            for span in reversed(spans):  # the last tile is still there
                self._descend(work, span, found, shares, sums, again=span is not spans[-1])
        return -(logp * row_weights).sum()

    def _spans(self) -> list[slice]:
        """All frames, or as many at a time as there is room for."""
        most, width = self.how.most_cells, self.pred[..., 0].numel()
        frames = self.enc.shape[1]
        step = frames if most is None else max(1, most // width)
        return [slice(at, min(at + step, frames)) for at in range(0, frames, step)]

    def _tile(self, span: slice) -> Tile:
        return Tile(self.enc[:, span].to(_wide(self.enc)), self.pred.to(_wide(self.pred)), self.labels)

    def _outcomes(self, work: Tiles, spans: list[slice]) -> Outcomes:
        """Of all frames, (rows, T, U + 1)."""
        parts = [work.outcomes(self._tile(span)) for span in spans]
        return Outcomes(*(torch.cat([getattr(p, name) for p in parts], 1) for name in ("blank", "emit", "norm")))

    def _descend(self, work: Tiles, span: slice, found: Outcomes, shares: Shares, sums: Sums, *, again: bool) -> None:
        tile = self._tile(span)
        if again:
            work.fill(tile)
        enc = sums.enc[self.rows, : self.enc.shape[1]][:, span]
        pred = sums.pred[self.rows, : self.pred.shape[1]]
        here = Outcomes(found.blank[:, span], found.emit[:, span], found.norm[:, span])
        there = Shares(shares.blank[:, span], shares.emit[:, span])
        work.descend(tile, here, there, Sums(enc, pred, sums.weight, sums.bias))


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
