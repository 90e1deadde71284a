"""Launches the kernels of the joint's loss, with products of torch between them; the twin is `TorchTiles`.

Knows nothing of how tiles follow from a batch. No logit is written to memory: outcomes keep three numbers a cell, and
the slopes of a tile, which two products read, are computed with their logits once more.
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.kernels import why_not
from models.kernels.dialect import blocks, tl, up
from models.training import loss_kernel_code as code
from models.training.loss_tiles import Outcomes, Shares, Sums, Tile
from models.training.losses import NOTHING

ALIGNED = 8  # columns of slopes in half precision come in sixteens of bytes, as products want them
SPAN = 16  # frames of one program on the way back
CELLS = 1024  # of a program that only moves numbers


class KernelTiles:
    """As TorchTiles: `outcomes`, or `fill` where they are known; then `descend`, once, for the same tile."""

    def __init__(self, weight: Tensor, bias: Tensor, activation: str, half: bool, room: int) -> None:
        if (reason := why_not(weight.device)) is not None:
            raise ValueError(reason)
        self._weight, self._bias, self._activation = weight.contiguous(), bias.contiguous(), activation
        self._wide, self._narrow = weight.dtype, torch.bfloat16 if half else weight.dtype
        self._width = blocks(len(weight), ALIGNED) * ALIGNED
        self._product = weight.new_zeros(self._width, weight.shape[1], dtype=self._narrow)
        self._product[: len(weight)] = weight
        self._common = {"HIDDEN": weight.shape[1], "COLUMNS": len(weight)}
        self._tile = product_tile(self._narrow, weight.shape[1])
        self._tile["WIDE"] = self._type = tl.float64 if weight.dtype == torch.double else tl.float32
        shapes = {"hidden": weight.shape[1], "slopes": self._width}
        self._space = {name: self._product.new_empty(room * columns) for name, columns in shapes.items()}

    def fill(self, tile: Tile) -> None:
        """Hidden values of a tile and each cell's own logits; those of the tile before are gone."""
        cells = tile.enc[..., 0].numel() * tile.shape[2]
        self._labels = tile.labels.contiguous()
        self.hidden = self._buffer("hidden", cells, self._weight.shape[1])
        self._own = tile.enc.new_empty(2, cells)
        cut = hidden_tile(self._weight.shape[1])
        code.hidden_kernel[(blocks(cells, cut["BM"]),)](
            tile.enc, tile.pred, self._labels, self._weight, self._bias, self.hidden, self._own,
            cells, *tile.shape[1:], *tile.enc.stride()[:2], *tile.pred.stride()[:2],
            ACTIVATION=self._activation, **self._common, **cut,
        )  # fmt: skip

    def outcomes(self, tile: Tile) -> Outcomes:
        """The tile's hidden values, and what its logits say."""
        self.fill(tile)
        cells = len(self.hidden)
        found = tile.enc.new_empty(3, cells)
        code.outcome_kernel[(blocks(cells, self._tile["BM"]),)](
            self.hidden, self._product, self._bias, self._labels, self._own, found,
            cells, *tile.shape[1:], **self._common, **self._tile,
        )  # fmt: skip
        return Outcomes(*found.view(3, *tile.shape))

    def descend(self, tile: Tile, found: Outcomes, shares: Shares, sums: Sums) -> None:
        """Adds the tile's gradients to `sums`: softmax x share of all ways, less the share of what was taken."""
        every = shares.blank + shares.emit
        own = torch.stack([every * x.exp() - y for x, y in ((found.blank, shares.blank), (found.emit, shares.emit))])
        slopes = self._slopes(tile, found.norm.contiguous(), every, sums)
        sums.weight.add_(wide_product(slopes.T, self.hidden)[: len(self._weight)])
        back = torch.mm(slopes, self._product, out=self.hidden)
        self._back(tile, back, own, sums)

    def ways(
        self, blank: Tensor, emit: Tensor, frames: Tensor, label_lengths: Tensor, fast_emit: float = 0.0
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As `losses.ways`."""
        rows, most_frames, places = blank.shape
        sums = blank.new_empty(2, *blank.shape, dtype=torch.double)
        chance = sums.new_empty(rows)
        given = (blank, emit, frames.contiguous(), label_lengths.contiguous())
        code.lattice_kernel[(rows, 2)](
            *given, sums, chance, rows, most_frames, places, NOTHING, BLOCK=up(places, 2), num_warps=1
        )
        by_blank, by_emit = torch.empty_like(sums)
        code.share_kernel[(blocks(blank.numel(), CELLS),)](
            *given, sums, chance, by_blank, by_emit, rows, most_frames, places, fast_emit, BLOCK=CELLS
        )
        return chance, by_blank, by_emit

    def _slopes(self, tile: Tile, norm: Tensor, every: Tensor, sums: Sums) -> Tensor:
        """(cells, width): of all logits but the cells' own."""
        cells, tile_of = len(self.hidden), self._tile
        slopes = self._buffer("slopes", cells, self._width)
        grid = blocks(cells, tile_of["BM"]), blocks(self._width, tile_of["BN"])
        by_bias = norm.new_empty(grid[0], self._width)
        code.slope_kernel[grid](
            self.hidden, self._product, self._bias, self._labels, norm, every, slopes, by_bias,
            cells, *tile.shape[1:], self._width, **self._common, **tile_of,
        )  # fmt: skip
        sums.bias.add_(by_bias.sum(0)[: len(self._bias)])
        return slopes

    def _back(self, tile: Tile, back: Tensor, own: Tensor, sums: Sums) -> None:
        rows, frames, places = tile.shape
        hidden, parts = self._weight.shape[1], blocks(frames, SPAN)
        by_pred, by_label = own.new_empty(2, parts, rows, places, hidden)
        by_blank = own.new_empty(parts * rows, hidden)
        cut = back_tile(places, hidden)
        code.back_kernel[(rows, parts, blocks(hidden, cut["BH"]))](
            tile.enc, tile.pred, self._labels, self._weight, back, own, sums.enc, by_pred, by_label, by_blank,
            rows, frames, places, *tile.enc.stride()[:2], *tile.pred.stride()[:2], *sums.enc.stride()[:2],
            ACTIVATION=self._activation, SPAN=SPAN, WIDE=self._type, **self._common, **cut,
        )  # fmt: skip
        sums.pred.add_(by_pred.sum(0))
        labels = self._labels.flatten()
        sums.weight.index_add_(0, labels, by_label.sum(0).flatten(0, 1))
        sums.weight[-1].add_(by_blank.sum(0))
        sums.bias[-1].add_(own[0].sum())
        sums.bias.index_add_(0, labels, own[1].sum(1).flatten())

    def _buffer(self, name: str, rows: int, columns: int) -> Tensor:
        """(rows, columns) of memory that every tile uses again, in the products' type."""
        return self._space[name][: rows * columns].view(rows, columns)


def wide_product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b, of halves summed and kept in float32."""
    if a.dtype != torch.bfloat16:
        return a @ b
    return torch.mm(a, b, out_dtype=torch.float32) if a.is_cuda else a.float() @ b.float()


def product_tile(dtype: torch.dtype, hidden: int) -> dict[str, object]:
    """Halves go through tensor cores; wider numbers are there for parity, not for speed."""
    if dtype == torch.bfloat16:
        return {"BM": 128, "BN": 128, "BK": min(64, up(hidden, 16)), "num_warps": 8, "num_stages": 3}
    return {"BM": 32, "BN": 32, "BK": min(32, up(hidden, 16)), "num_warps": 4, "num_stages": 2}


def hidden_tile(hidden: int) -> dict[str, int]:
    return {"BM": 32, "BK": min(128, up(hidden, 16)), "num_warps": 4}


def back_tile(places: int, hidden: int) -> dict[str, int]:
    """Two sums of (BU, BH) stay in registers."""
    return {"BU": min(64, up(places, 2)), "BH": min(64, up(hidden, 16)), "num_warps": 8}
