"""One tile of the joint at a time: its logits, what they say of blank and label, and the way back. In PyTorch.

A tile is some rows x frames x labels whose logits fit. Knows nothing of how tiles follow from a batch, nor of alphas.

In half precision hidden values, weights and logits are bfloat16 and every product is summed in float32; but the two
logits of a cell that the loss is made of, blank's and the next label's, and their part of the gradients never leave
float32. They are two of V + 1 columns, cost a few passes over (cells, H), and without them a gradient would be no
better than its roundings: 3e-3 instead of 5e-4, and 1e-2 where the model is sure of itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.training.losses import ways

RUN = 1024  # cells of one product: their hidden values are made anew for each, and never held for a whole tile
BLOCK = 256  # cells whose V + 1 numbers stay in the processor's cache from one operation to the next
ON_A_GPU = 16_384  # of both there, where a launch costs more

aten = torch.ops.aten
# activation -> itself in place; and gradient from the gradient of its value and the value, in place of the first
ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]] = {
    "relu": (torch.relu_, lambda slope, value: aten.threshold_backward(slope, value, 0, grad_input=slope)),
    "sigmoid": (torch.sigmoid_, lambda slope, value: aten.sigmoid_backward(slope, value, grad_input=slope)),
    "tanh": (torch.tanh_, lambda slope, value: aten.tanh_backward(slope, value, grad_input=slope)),
}


@dataclass(frozen=True, slots=True)
class Tile:
    """Of the joint's inputs: enc (R, S, H), pred (R, U + 1, H), and the label that comes next at each place (R, U + 1).

    The last place's label is any: nothing is emitted there.
    """

    enc: Tensor
    pred: Tensor
    labels: Tensor

    def part(self, span: slice) -> Tile:
        """Some of its frames."""
        return Tile(self.enc[:, span], self.pred, self.labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """R, S, U + 1."""
        return (*self.enc.shape[:2], self.pred.shape[1])

    @property
    def cells(self) -> int:
        """Their product."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Outcomes:
    """(R, S, U + 1) each: log-probabilities of blank and of the next label, and the log of the softmax's sum."""

    blank: Tensor
    emit: Tensor
    norm: Tensor


@dataclass(frozen=True, slots=True)
class Shares:
    """(R, S, U + 1) each: weighted shares of a row's ways that leave a cell by blank, and by its label."""

    blank: Tensor
    emit: Tensor


@dataclass(frozen=True, slots=True)
class Sums:
    """Gradients so far: of a tile's enc and pred (views, shaped as they are), of weight (V + 1, H) and bias (V + 1)."""

    enc: Tensor
    pred: Tensor
    weight: Tensor
    bias: Tensor


class TorchTiles:
    """Memory for a tile of at most `room` cells, used again and again.

    `outcomes`, or `fill` where they are known; then `descend`, once, for the same tile. A tile's logits lie run by run.
    """

    ways = staticmethod(ways)

    def __init__(self, weight: Tensor, bias: Tensor, activation: str, half: bool, room: int) -> None:
        self._act, self._slope = ACTIVATIONS[activation]
        self._half = half
        self._weight, self._bias = weight, bias
        self._product = weight.bfloat16() if half else weight  # as the products have it
        self._run, self._block = (RUN, BLOCK) if weight.device.type == "cpu" else (ON_A_GPU, ON_A_GPU)
        self.logits = self._product.new_empty(room, len(weight))
        self._space: dict[str, Tensor] = {}

    def fill(self, tile: Tile) -> None:
        """The tile's logits; those of the tile before are gone."""
        for span, cells in self._spans(tile):
            self._fill(self._hidden(tile.part(span)), self.logits[cells])

    def outcomes(self, tile: Tile) -> Outcomes:
        """The tile's logits, and what they say."""
        found = []
        for span, cells in self._spans(tile):
            part = tile.part(span)
            hidden = self._hidden(part)
            self._fill(hidden, self.logits[cells])
            found.append(self._outcomes(part, hidden, self.logits[cells]))
        return Outcomes(*torch.cat(found, 2))

    def descend(self, tile: Tile, found: Outcomes, shares: Shares, sums: Sums) -> None:
        """Adds the tile's gradients to `sums`: softmax x share of all ways, less the share of what was taken."""
        every = shares.blank + shares.emit
        blank, emit = (every * x.exp() - y for x, y in ((found.blank, shares.blank), (found.emit, shares.emit)))
        for span, cells in self._spans(tile):
            part, hidden = tile.part(span), self._hidden(tile.part(span))
            slopes = self._slopes(part, self.logits[cells], found.norm[:, span], every[:, span], sums)
            factor = self._factor(hidden)
            out = self._buffer("by_weight", self._weight.shape, like=factor)
            sums.weight.add_(torch.mm(slopes.T, factor, out=out))
            own = (blank[:, span], emit[:, span])
            self._own_slopes(part, hidden, own, sums)
            back = self._buffer("back", hidden.shape, like=hidden)
            product = torch.mm(slopes, self._product, out=factor if self._half else back)
            if self._half:
                back.copy_(product)
            self._back(part, hidden, back, own, Sums(sums.enc[:, span], sums.pred, sums.weight, sums.bias))

    def _spans(self, tile: Tile) -> Iterator[tuple[slice, slice]]:
        """The runs of a tile: their frames, and where their logits lie."""
        rows, frames, places = tile.shape
        step = max(1, self._run // (rows * places))
        for start in range(0, frames, step):
            stop = min(start + step, frames)
            yield slice(start, stop), slice(rows * places * start, rows * places * stop)

    def _hidden(self, part: Tile) -> Tensor:
        """(cells, H) in the wide type."""
        shape = (*part.shape, self._weight.shape[1])
        hidden = self._buffer("hidden", (part.cells, shape[-1]), like=self._weight)
        torch.add(part.enc[:, :, None], part.pred[:, None], out=hidden.view(shape))
        return self._act(hidden)

    def _factor(self, hidden: Tensor) -> Tensor:
        """Hidden values as the products have them."""
        return self._buffer("factor", hidden.shape, like=self._product).copy_(hidden) if self._half else hidden

    def _fill(self, hidden: Tensor, logits: Tensor) -> None:
        """In half precision without the bias, which would be rounded with them."""
        if self._half:
            torch.mm(self._factor(hidden), self._product.T, out=logits)
        else:
            torch.addmm(self._bias, hidden, self._product.T, out=logits)

    def _outcomes(self, part: Tile, hidden: Tensor, logits: Tensor) -> Tensor:
        """(3, R, S, U + 1): blank, emit, norm."""
        labels = _each(part)
        found = hidden.new_empty(3, len(labels))
        own = self._own_logits(part, hidden) if self._half else None
        for block in self._blocks(len(labels)):
            values = self._values(logits[block])
            if own is None:
                blank = values[:, -1].clone()
            else:
                blank = own[0][block]
                values[:, -1] = blank
                values.scatter_(1, labels[block, None], own[1][block, None])
            logp = torch.log_softmax(values, -1, out=self._buffer("logp", values.shape, like=values))
            found[0, block] = logp[:, -1]
            found[1, block] = logp.gather(1, labels[block, None])[:, 0]
            found[2, block] = blank - logp[:, -1]
        return found.view(3, *part.shape)

    def _slopes(self, part: Tile, logits: Tensor, norm: Tensor, every: Tensor, sums: Sums) -> Tensor:
        """(cells, V + 1) in the logits' place, 0 in the columns that are a cell's own."""
        labels, norm, every = _each(part), norm.reshape(-1, 1), every.reshape(-1, 1)
        for block in self._blocks(len(labels)):
            slope = self._values(logits[block]).sub_(norm[block]).exp_().mul_(every[block])
            slope[:, -1] = 0.0
            slope.scatter_(1, labels[block, None], 0.0)
            sums.bias.add_(slope.sum(0))
            if self._half:
                logits[block] = slope
        return logits

    def _values(self, logits: Tensor) -> Tensor:
        """Logits with their bias, in the wide type; in single precision they are the tile's own."""
        if not self._half:
            return logits
        return torch.add(logits, self._bias, out=self._buffer("values", logits.shape, like=self._weight))

    def _own_logits(self, part: Tile, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """(cells,) each: the logits of blank and of the next label, in the wide type."""
        weight, shape = self._weight, (*part.shape, hidden.shape[1])
        product = self._buffer("back", hidden.shape, like=hidden).view(shape)
        torch.mul(hidden.view(shape), weight[part.labels][:, None], out=product)
        emit = product.sum(-1) + self._bias[part.labels][:, None]
        return torch.mv(hidden, weight[-1]) + self._bias[-1], emit.flatten()

    def _own_slopes(self, part: Tile, hidden: Tensor, own: tuple[Tensor, Tensor], sums: Sums) -> None:
        """The two columns that the products were spared: of weight and bias."""
        by_blank, by_emit = own
        sums.weight[-1].add_(torch.mv(hidden.T, by_blank.flatten()))
        product = self._buffer("back", hidden.shape, like=hidden).view(*part.shape, hidden.shape[1])
        torch.mul(hidden.view_as(product), by_emit[..., None], out=product)
        labels = part.labels.flatten()
        sums.weight.index_add_(0, labels, product.sum(1).flatten(0, 1))
        sums.bias[-1].add_(by_blank.sum())
        sums.bias.index_add_(0, labels, by_emit.sum(1).flatten())

    def _back(self, part: Tile, hidden: Tensor, back: Tensor, own: tuple[Tensor, Tensor], sums: Sums) -> None:
        """And of what goes into the joint; then through the activation to both of its inputs."""
        slope = back.view(*part.shape, hidden.shape[1])
        slope.addcmul_(own[0][..., None], self._weight[-1])
        slope.addcmul_(own[1][..., None], self._weight[part.labels][:, None])
        slope = self._slope(slope, hidden.view_as(slope))
        sums.enc.add_(slope.sum(2))
        sums.pred.add_(slope.sum(1))

    def _blocks(self, cells: int) -> Iterator[slice]:
        return (slice(start, start + self._block) for start in range(0, cells, self._block))

    def _buffer(self, name: str, shape: Sequence[int], like: Tensor) -> Tensor:
        """(rows, columns) of memory kept under a name: fresh memory each time costs as much as products."""
        (rows, columns), kept = shape, self._space.get(name)
        if kept is None or kept.numel() < rows * columns:
            kept = self._space[name] = like.new_empty(rows * columns)
        return kept[: rows * columns].view(rows, columns)


def _each(part: Tile) -> Tensor:
    """The next label of each cell, (cells,)."""
    return part.labels[:, None].expand(part.shape).reshape(-1)
