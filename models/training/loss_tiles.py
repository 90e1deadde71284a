"""One tile of the joint at a time: its logits, what they say of blank and label, and the way back. In PyTorch.

A tile is some rows x frames x labels whose logits fit. Knows nothing of how tiles follow from a batch, nor of alphas.

In half precision hidden values, weights and logits are bfloat16 and every product is summed in float32; but the two
logits of a cell that the loss is made of, blank's and the next label's, and their part of the gradients never leave
float32. They are two of V + 1 columns, cost a few passes over (cells, H), and without them a gradient would be no
better than its roundings: 3e-3 instead of 5e-4, and 1e-2 where the model is sure of itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from models.training.losses import ways

BLOCK = 1024  # cells whose V + 1 numbers stay in the processor's cache from one operation to the next

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

    @property
    def shape(self) -> tuple[int, int, int]:
        """R, S, U + 1."""
        return (*self.enc.shape[:2], self.pred.shape[1])


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
    """Memory for one tile, used again and again. `fill`, then `outcomes`; then `descend`, once, for the same tile."""

    ways = staticmethod(ways)

    def __init__(self, weight: Tensor, bias: Tensor, activation: str, half: bool) -> None:
        self._act, self._slope = ACTIVATIONS[activation]
        self._half = half
        self._weight, self._bias = weight, bias
        self._product = weight.bfloat16() if half else weight  # as the products have it
        self._wide = weight.new_empty(0)
        self._space: dict[str, Tensor] = {}

    def fill(self, tile: Tile) -> None:
        """Hidden values and logits of a tile; those of the tile before are gone."""
        count, hidden = tile.enc[..., 0].numel() * tile.shape[2], self._weight.shape[1]
        self.hidden = self._buffer("hidden", count, hidden)
        torch.add(tile.enc[:, :, None], tile.pred[:, None], out=self.hidden.view(*tile.shape, hidden))
        self._act(self.hidden)
        narrow = self._buffer("logits", count, len(self._weight), self._product.dtype)
        if self._half:
            self.factor = self._buffer("factor", count, hidden, self._product.dtype).copy_(self.hidden)
            self.logits = torch.mm(self.factor, self._product.T, out=narrow)
        else:
            self.factor = self.hidden
            self.logits = torch.addmm(self._bias, self.factor, self._product.T, out=narrow)

    def outcomes(self, tile: Tile) -> Outcomes:
        """What the tile's logits say."""
        labels = _each(tile.labels, tile.shape)
        found = self.hidden.new_empty(3, len(labels))
        own = self._own_logits(tile) if self._half else None
        for block in _blocks(len(labels)):
            logits = self._values(block)
            if own is None:
                norm_of = logits[:, -1].clone()
            else:
                norm_of = own[0][block]
                logits[:, -1] = norm_of
                logits.scatter_(1, labels[block, None], own[1][block, None])
            logp = torch.log_softmax(logits, -1, out=self._buffer("logp", len(logits), logits.shape[1]))
            found[0, block] = logp[:, -1]
            found[1, block] = logp.gather(1, labels[block, None])[:, 0]
            found[2, block] = norm_of - logp[:, -1]
        return Outcomes(*found.view(3, *tile.shape))

    def descend(self, tile: Tile, found: Outcomes, shares: Shares, sums: Sums) -> None:
        """Adds the tile's gradients to `sums`: softmax x share of all ways, less the share of what was taken."""
        labels = _each(tile.labels, tile.shape)
        every = shares.blank + shares.emit
        own = tuple((every * x.exp() - y) for x, y in ((found.blank, shares.blank), (found.emit, shares.emit)))
        norm, scale = found.norm.reshape(-1, 1), every.reshape(-1, 1)
        for block in _blocks(len(labels)):
            slope = self._values(block).sub_(norm[block]).exp_().mul_(scale[block])
            slope[:, -1] = 0.0
            slope.scatter_(1, labels[block, None], 0.0)
            sums.bias.add_(slope.sum(0))
            if self._half:
                self.logits[block] = slope
        out = self._buffer("by_weight", len(self._weight), self._weight.shape[1], self._product.dtype)
        sums.weight.add_(torch.mm(self.logits.T, self.factor, out=out))
        self._own_slopes(tile, own, sums)
        back = torch.mm(self.logits, self._product, out=self.factor if self._half else self._buffer_like_hidden())
        self._back(tile, back, own, sums)

    def _values(self, block: slice) -> Tensor:
        """(block, V + 1) logits with their bias, in the wide type; in single precision they are the tile's own."""
        if not self._half:
            return self.logits[block]
        logits = self.logits[block]
        return torch.add(logits, self._bias, out=self._buffer("values", *logits.shape))

    def _own_logits(self, tile: Tile) -> tuple[Tensor, Tensor]:
        """(cells,) each: the logits of blank and of the next label, in the wide type."""
        weight, shape = self._weight, (*tile.shape, self._weight.shape[1])
        blank = torch.mv(self.hidden, weight[-1]) + self._bias[-1]
        product = self._buffer_like_hidden().view(shape)
        torch.mul(self.hidden.view(shape), weight[tile.labels][:, None], out=product)
        return blank, (product.sum(-1) + self._bias[tile.labels][:, None]).flatten()

    def _own_slopes(self, tile: Tile, own: tuple[Tensor, ...], sums: Sums) -> None:
        """The two columns that the products were spared: of weight and bias."""
        by_blank, by_emit = own
        hidden = self._weight.shape[1]
        sums.weight[-1].add_(torch.mv(self.hidden.T, by_blank.flatten()))
        product = self._buffer_like_hidden().view(*tile.shape, hidden)
        torch.mul(self.hidden.view_as(product), by_emit[..., None], out=product)
        labels = tile.labels.flatten()
        sums.weight.index_add_(0, labels, product.sum(1).flatten(0, 1))
        sums.bias[-1].add_(by_blank.sum())
        sums.bias.index_add_(0, labels, by_emit.sum(1).flatten())

    def _back(self, tile: Tile, back: Tensor, own: tuple[Tensor, ...], sums: Sums) -> None:
        """And of what goes into the joint; then through the activation to both of its inputs."""
        rows, frames, places = tile.shape
        shape = (*tile.shape, self._weight.shape[1])
        wide, hidden, back = self._buffer_like_hidden().view(shape), self.hidden.view(shape), back.view(shape)
        at_blank, at_label = self._weight[-1], self._weight[tile.labels][:, None]
        step = max(1, BLOCK // (rows * places))
        for start in range(0, frames, step):
            part = slice(start, start + step)
            slope = wide[:, part]
            if self._half:
                slope.copy_(back[:, part])
            slope.addcmul_(own[0][:, part, :, None], at_blank)
            slope.addcmul_(own[1][:, part, :, None], at_label)
            slope = self._slope(slope, hidden[:, part])
            sums.enc[:, part] += slope.sum(2)
            sums.pred.add_(slope.sum(1))

    def _buffer_like_hidden(self) -> Tensor:
        return self._buffer("back", *self.hidden.shape)

    def _buffer(self, name: str, rows: int, columns: int, dtype: torch.dtype | None = None) -> Tensor:
        """(rows, columns) of memory kept under a name: fresh memory for each tile costs as much as products."""
        kept = self._space.get(name)
        if kept is None or kept.numel() < rows * columns:
            kept = self._space[name] = self._wide.new_empty(rows * columns, dtype=dtype or self._wide.dtype)
        return kept[: rows * columns].view(rows, columns)


def _each(labels: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """The next label of each cell, (cells,)."""
    return labels[:, None].expand(shape).reshape(-1)


def _blocks(cells: int) -> Iterator[slice]:
    return (slice(start, start + BLOCK) for start in range(0, cells, BLOCK))
