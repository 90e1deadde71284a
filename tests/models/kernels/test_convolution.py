"""The convolution's middle as a kernel gives what the twin gives, and what the model's own block gives."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from models.encoder import Convolution, pointwise
from models.kernels.convolution import ConvolutionParts, ConvolutionRows, convolve, convolve_torch
from tests.models.kernels.device import DEVICE, TYPES
from tests.models.tiny import tiny_config

SPARE = 5
SLOTS = [4, 0, SPARE, 2, SPARE, 1]
REAL = [0, 1, 3, 5]
LIVE = [99, 0, 0, 2, 0, 99]  # frames of audio; the second row is idle, the third and fifth are nobody's
BLOCKS = [("layer_norm", 16, 5), ("batch_norm", 20, 3), ("layer_norm", 30, 9), ("layer_norm", 12, 1)]
CASES = [
    (*BLOCKS[0], 2),
    (*BLOCKS[1], 1),
    (*BLOCKS[2], 1),
    (*BLOCKS[2], 10),
    (*BLOCKS[3], 2),
    ("layer_norm", 1024, 9, 2),
]


def block(norm: str, dim: int, kernel: int) -> Convolution:
    torch.manual_seed(kernel)
    config = tiny_config(d_model=dim, conv_kernel=kernel, conv_context=(kernel - 1, 0), conv_norm=norm)
    made = Convolution(config).eval()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    if norm == "batch_norm":
        made.batch_norm.running_mean.normal_()
        made.batch_norm.running_var.uniform_(0.5, 2.0)
    return made


def rows_of(frames: int, advance: bool) -> ConvolutionRows:
    live = torch.arange(frames, device=DEVICE) < torch.tensor(LIVE, device=DEVICE)[:, None]
    moves = torch.arange(len(SLOTS), device=DEVICE) % 2 == 0 if advance else None
    return ConvolutionRows(torch.tensor(SLOTS, device=DEVICE), live, moves)


def numbers(*sizes: int) -> Tensor:
    return torch.randn(sizes, generator=torch.Generator().manual_seed(sum(sizes))).to(DEVICE)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("norm", "dim", "kernel", "frames"), CASES)
@torch.no_grad()
def test_the_kernel_is_its_twin(norm: str, dim: int, kernel: int, frames: int, dtype: torch.dtype) -> None:
    made = ConvolutionParts.of(block(norm, dim, kernel).to(DEVICE))
    gated, tails = numbers(len(SLOTS), frames, 2 * dim).to(dtype), numbers(6, kernel - 1, dim).to(dtype)
    rows, other = rows_of(frames, advance=frames == 2), tails.clone()
    got, want = convolve(gated, tails, rows, made), convolve_torch(gated, other, rows, made)
    near = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(got[REAL], want[REAL], atol=near, rtol=near)
    torch.testing.assert_close(tails[:SPARE], other[:SPARE], atol=near / 2, rtol=near / 2)


@pytest.mark.parametrize(("norm", "dim", "kernel"), BLOCKS)
@torch.no_grad()
def test_a_chain_of_chunks_is_what_the_models_block_makes_of_it(norm: str, dim: int, kernel: int) -> None:
    made = block(norm, dim, kernel)
    parts = ConvolutionParts.of(made.to(DEVICE))
    tails, states = torch.zeros(6, kernel - 1, dim, device=DEVICE), torch.zeros(len(SLOTS), kernel - 1, dim)
    for frames in (2, 1, 3):
        x, rows = numbers(len(SLOTS), frames, dim), rows_of(frames, advance=True)
        want, states = made.cpu()(x.cpu(), states, rows.live.cpu()[:, :, None])
        made.to(DEVICE)
        everyone = ConvolutionRows(rows.slots, rows.live, torch.ones_like(rows.live[:, 0]))
        got = convolve(pointwise(made.pointwise_conv1, x), tails, everyone, parts)
        got = pointwise(made.pointwise_conv2, got).cpu()
        torch.testing.assert_close(got[REAL], want[REAL], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(tails.cpu()[[SLOTS[i] for i in REAL]], states[REAL], atol=1e-6, rtol=1e-6)
