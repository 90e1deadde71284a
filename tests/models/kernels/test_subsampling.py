"""Subsampling in kernels gives what the model's own module gives, chunk by chunk, for streams at different places."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from models.kernels import subsampling as kernels
from models.kernels.subsampling import SubsamplingParts, SubsamplingRows, SubsamplingTails, subsample
from models.subsampling import ENDLESS, Subsampling
from tests.models.kernels.device import DEVICE
from tests.models.tiny import tiny_config

SPARE = 5
SLOTS = [4, 0, SPARE, 2, SPARE]
REAL = [0, 1, 3]
F32, BF16 = torch.float32, torch.bfloat16


@pytest.fixture(autouse=True)
def _large_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few programs, as each takes the interpreter its time."""
    monkeypatch.setattr(kernels, "PLACES", 64)


def module(dtype: torch.dtype, **changes: int) -> Subsampling:
    torch.manual_seed(1)
    made = Subsampling(tiny_config(**changes)).to(DEVICE, dtype).requires_grad_(False)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, mean=0.02, std=0.3)
    return made


def tails_of(made: Subsampling, mels: int, layout: torch.memory_format) -> SubsamplingTails:
    config = tiny_config(mels=mels)
    channels = made.conv["0"].out_channels
    dtype = made.out.weight.dtype
    subs = [
        torch.zeros(6, channels, 1, width, dtype=dtype, device=DEVICE).contiguous(memory_format=layout)
        for width in config.sub_widths[:2]
    ]
    return SubsamplingTails(torch.zeros(6, 1, mels, dtype=dtype, device=DEVICE), *subs)


def chunks(mels: int, chunk: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    """mel, frames done and length: of a stream that ends early, one that goes on, one that is nothing and then is."""
    generator = torch.Generator().manual_seed(mels)
    made = []
    for step in range(3):
        mel = torch.randn(len(SLOTS), 8 * chunk, mels, generator=generator).to(DEVICE)
        frames = torch.tensor([step, 40 + step, 0, max(0, step - 1), 0], device=DEVICE) * chunk
        length = torch.tensor(
            [13 * chunk - 8 if step else ENDLESS, ENDLESS, -7, ENDLESS if step else -1, 0], device=DEVICE
        )
        made.append((mel, frames, length))
    return made


CASES = [(32, 8, 1, F32), (21, 20, 2, F32), (16, 5, 3, F32), (32, 8, 1, BF16), (21, 20, 2, BF16)]


@pytest.mark.parametrize(("mels", "channels", "chunk", "dtype"), CASES)
@torch.inference_mode()
def test_the_kernels_are_the_models_module(mels: int, channels: int, chunk: int, dtype: torch.dtype) -> None:
    made = module(dtype, mels=mels, sub_channels=channels)
    parts = SubsamplingParts.of(made)
    tails = tails_of(made, mels, torch.channels_last if chunk == 1 else torch.contiguous_format)
    states = tuple(tail[SLOTS] for tail in (tails.mel, tails.sub1, tails.sub2))
    # In bfloat16 numbers are rounded four times on the way.
    near = {"atol": 1e-5, "rtol": 1e-5} if dtype == F32 else {"atol": 2e-2, "rtol": 2e-2}
    for mel, frames, length in chunks(mels, chunk):
        rows = SubsamplingRows(torch.tensor(SLOTS, device=DEVICE), frames, length)
        want, states = made(mel.to(dtype), states, frames, length)
        got = subsample(mel, tails, rows, parts)
        torch.testing.assert_close(got[REAL], want[REAL], **near)
        for tail, state in zip((tails.mel, tails.sub1, tails.sub2), states, strict=True):
            torch.testing.assert_close(tail[[SLOTS[i] for i in REAL]], state[REAL], **near)


@torch.inference_mode()
def test_rows_in_groups_give_what_they_give_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made = module(torch.float32, mels=16, sub_channels=5)
    parts, mel, frames, length = SubsamplingParts.of(made), *chunks(16, 1)[0]
    found = []
    for most in (1 << 26, 2 * 4 * 9 * 5):
        monkeypatch.setattr(kernels, "MOST_VALUES", most)
        tails = tails_of(made, 16, torch.channels_last)
        rows = SubsamplingRows(torch.tensor(SLOTS, device=DEVICE), frames, length)
        found.append((subsample(mel, tails, rows, parts)[REAL], tails.mel, tails.sub1, tails.sub2))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one[:SPARE], other[:SPARE], atol=1e-5, rtol=1e-5)
