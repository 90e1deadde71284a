"""LayerNorm as a kernel gives what torch gives, alone and after a residual sum."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from models.kernels.norm import add_norm, add_norm_torch, norm, norm_torch
from tests.models.kernels.device import DEVICE, TYPES


def near(dtype: torch.dtype) -> dict[str, float]:
    """Of numbers around 1: some float32 roundings, or one of bfloat16."""
    return {"atol": 1e-5, "rtol": 1e-5} if dtype == torch.float32 else {"atol": 1e-2, "rtol": 8e-3}


def made(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(3)
    x, y = (torch.randn(shape, generator=generator).mul(3).add(1).to(DEVICE, dtype) for _ in range(2))
    weight, bias = (torch.randn(shape[-1], generator=generator).to(DEVICE, dtype) for _ in range(2))
    return x, y, weight, bias


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", [(1, 1, 16), (5, 3, 30), (2, 1, 1024), (3, 2100)])
def test_the_kernels_are_their_twins(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x, y, weight, bias = made(shape, dtype)
    total, out = add_norm(x, y, 0.5, weight, bias)
    want_total, want = add_norm_torch(x, y, 0.5, weight, bias)
    torch.testing.assert_close(total, want_total, **near(dtype))
    torch.testing.assert_close(out, want, **near(dtype))
    torch.testing.assert_close(norm(x, weight, bias, 1e-3), norm_torch(x, weight, bias, 1e-3), **near(dtype))


def test_the_statistics_are_those_of_the_rounded_sum() -> None:
    x = torch.tensor([[256.0, 256.0]], dtype=torch.bfloat16, device=DEVICE)
    y = torch.tensor([[0.5, -0.5]], dtype=torch.bfloat16, device=DEVICE)
    one, zero = torch.ones(2, device=DEVICE), torch.zeros(2, device=DEVICE)
    total, out = add_norm(x, y, 1.0, one, zero)
    assert total.tolist() == [[256.0, 256.0]]  # between 256 and 258, and between 255 and 256: to even
    assert out.tolist() == [[0.0, 0.0]]
