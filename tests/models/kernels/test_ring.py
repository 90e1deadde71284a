"""Attention over the ring in one kernel: what the twin computes, and what the model's own attention computes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from models.attention import Attention, Ring, sinusoids
from models.kernels.ring import Biases, RingRows, Store, ring_attention, ring_attention_torch
from tests.models.kernels.device import DEVICE, TYPES
from tests.models.tiny import tiny_config

SPARE = 5
SLOTS = [4, 0, SPARE, 2, SPARE]


def numbers(seed: int, *sizes: int) -> Tensor:
    return torch.randn(sizes, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def rows_of(frames: list[int], counts: list[int], left: int) -> RingRows:
    """Rows that have done `frames` and have `counts` real frames in this chunk."""
    done = torch.tensor(frames, device=DEVICE)
    return RingRows(torch.tensor(SLOTS, device=DEVICE), done, done + torch.tensor(counts, device=DEVICE), left)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(
    ("heads", "dim", "chunk", "left", "ring"),
    [
        (2, 8, 1, 8, 12),
        (3, 20, 4, 8, 12),
        (1, 24, 3, 0, 5),
        (2, 16, 1, 150, 151),
        (2, 32, 7, 21, 35),
        (1, 128, 14, 56, 70),
        (1, 128, 1, 56, 70),
    ],
)
def test_the_kernel_is_its_twin(heads: int, dim: int, chunk: int, left: int, ring: int, dtype: torch.dtype) -> None:
    longest = ring - left
    packed = numbers(1, len(SLOTS), chunk, 3, heads, dim).to(dtype)
    by_position = numbers(2, heads, len(SLOTS) * chunk, longest - 1 + ring).to(dtype)
    by_position = by_position.unflatten(1, (len(SLOTS), chunk)).permute(1, 2, 0, 3)
    biases = Biases(numbers(3, heads, dim).to(dtype), numbers(4, heads, longest - 1 + ring))
    rows = rows_of([5 * chunk, 0, 0, 90 * chunk, 0], [chunk, chunk, 0, max(1, chunk - 2), 0], left)
    stores = [Store(*(numbers(seed, 6, heads, ring, dim).to(dtype) for seed in (5, 6))) for _ in range(2)]
    got = ring_attention(packed.unbind(2), by_position, biases, stores[0], rows)
    want = ring_attention_torch(packed.unbind(2), by_position, biases, stores[1], rows)
    real = [index for index, slot in enumerate(SLOTS) if slot != SPARE]
    near = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(got[real], want[real], atol=near, rtol=near)
    assert torch.equal(stores[0].keys[:SPARE], stores[1].keys[:SPARE])
    assert torch.equal(stores[0].values[:SPARE], stores[1].values[:SPARE])


@pytest.mark.parametrize("chunk", [1, 2, 4])
@torch.inference_mode()
def test_a_stream_in_chunks_is_what_the_models_attention_makes_of_it(chunk: int) -> None:
    config = tiny_config()
    torch.manual_seed(0)
    attention = Attention(config)
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    table = attention.table(sinusoids(-3, config.ring - 1, config.d_model))
    sizes = (len(SLOTS), config.heads, config.ring, config.head_dim)
    keys, values = (torch.zeros(sizes),), (torch.zeros(sizes),)
    store = Store(*(torch.zeros(6, *sizes[1:], device=DEVICE) for _ in range(2)))
    position = torch.einsum("hd,hdr->hr", attention.pos_bias_v, table).to(DEVICE)
    biases = Biases(attention.pos_bias_u.to(DEVICE), position)
    frames, chunks = torch.zeros(len(SLOTS), dtype=torch.int64), 6
    for step in range(chunks):
        x = numbers(step, len(SLOTS), chunk, config.d_model).cpu()
        counts = torch.full((len(SLOTS),), max(1, chunk - 1) if step == chunks - 1 else chunk)
        ring = Ring([table], keys, values, frames, config.context_of(chunk)).place(chunk, frames + counts)
        want = attention(x, 0, ring)
        keys, values = tuple(ring.keys), tuple(ring.values)
        qkv = torch.stack([layer(x) for layer in (attention.linear_q, attention.linear_k, attention.linear_v)], dim=2)
        qkv = qkv.unflatten(-1, (config.heads, config.head_dim)).to(DEVICE)
        by_position = torch.einsum("bthd,hdr->bthr", qkv[:, :, 0], table.to(DEVICE))
        rows = rows_of(frames.tolist(), counts.tolist(), config.context_of(chunk)[0])
        got = attention.linear_out(ring_attention(qkv.unbind(2), by_position, biases, store, rows).cpu())
        real = [0, 1, 3]  # the others share a slot
        torch.testing.assert_close(got[real], want[real], atol=1e-5, rtol=1e-5)
        frames = frames + counts
