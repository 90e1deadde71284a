"""LayerNorm, alone and after a residual sum, each row read once. Knows nothing of layers."""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from models.kernels.dialect import blocks, jit, tl, up

WIDE = 2048  # values from which a row has more warps


@jit
def norm_kernel(
    x, y, total, out, weight, bias, scale, eps, rows,
    WIDTH: tl.constexpr, ADD: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """Program (block of rows); without ADD, y and total are not looked at."""
    row = tl.program_id(0).to(tl.int64) * BM + tl.arange(0, BM)
    column = tl.arange(0, BN)
    inside = (row < rows)[:, None] & (column < WIDTH)[None, :]
    place = row[:, None] * WIDTH + column[None, :]
    value = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    if ADD:
        value += scale * tl.load(y + place, mask=inside, other=0.0).to(tl.float32)
        narrow = value.to(total.dtype.element_ty)
        tl.store(total + place, narrow, mask=inside)
        value = narrow.to(tl.float32)
    mean = tl.sum(value, 1) / WIDTH
    centred = tl.where(inside, value - mean[:, None], 0.0)
    spread = tl.sum(centred * centred, 1) / WIDTH
    normal = centred * (1.0 / tl.sqrt(spread + eps))[:, None]
    normal *= tl.load(weight + column, mask=column < WIDTH, other=0.0).to(tl.float32)[None, :]
    normal += tl.load(bias + column, mask=column < WIDTH, other=0.0).to(tl.float32)[None, :]
    tl.store(out + place, normal.to(out.dtype.element_ty), mask=inside)


def add_norm(
    x: Tensor, y: Tensor, scale: float, weight: Tensor, bias: Tensor, eps: float = 1e-5
) -> tuple[Tensor, Tensor]:
    """x + scale * y and its LayerNorm, (..., d) contiguous, both new; statistics in float32, of the rounded sum."""
    assert x.is_contiguous(), "x: expected a contiguous tensor"
    assert y.is_contiguous(), "y: expected a contiguous tensor"
    assert x.shape == y.shape, f"shapes {tuple(x.shape)} and {tuple(y.shape)}: expected the same"
    total, out = torch.empty_like(x), torch.empty_like(x)
    _launch((x, y, total, out), weight, bias, scale, eps)
    return total, out


def norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """LayerNorm of (..., d) contiguous, statistics in float32."""
    assert x.is_contiguous(), "x: expected a contiguous tensor"
    out = torch.empty_like(x)
    _launch((x, None, None, out), weight, bias, 0.0, eps)
    return out


def _launch(
    tensors: tuple[Tensor, Tensor | None, Tensor | None, Tensor], weight: Tensor, bias: Tensor, scale: float, eps: float
) -> None:
    x, y, total, out = tensors
    add = y is not None
    width = x.shape[-1]
    rows = x.numel() // width
    cut = tile(width)
    norm_kernel[(blocks(rows, cut["BM"]),)](
        x, y if add else x, total if add else out, out, weight, bias, scale, eps, rows, WIDTH=width, ADD=add, **cut
    )


def tile(width: int) -> dict[str, int]:
    """Narrow rows share a program."""
    columns = up(width)
    return {"BM": max(1, 512 // columns), "BN": columns, "num_warps": 8 if width >= WIDE else 4}


def add_norm_torch(
    x: Tensor, y: Tensor, scale: float, weight: Tensor, bias: Tensor, eps: float = 1e-5
) -> tuple[Tensor, Tensor]:
    """The same in torch's operators."""
    total = (x.float() + scale * y.float()).to(x.dtype)
    return total, norm_torch(total, weight, bias, eps)


def norm_torch(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """The same in torch's operators."""
    return F.layer_norm(x.float(), x.shape[-1:], weight.float(), bias.float(), eps).to(x.dtype)
