"""The visibility rule, and that a ring shows what a whole-file pass shows."""

from __future__ import annotations

import pytest
import torch

from models.attention import PassThrough, Ring, visible, write_ring
from models.encoder import Encoder
from tests.models.tiny import tiny_config


def seen_by(query: int, context: tuple[int, int], style: str, frames: int = 40) -> list[int]:
    row = visible(torch.tensor(query), torch.arange(frames), context, style)
    return row.nonzero().flatten().tolist()


def test_a_query_sees_its_whole_chunk_and_whole_chunks_of_the_past() -> None:
    assert seen_by(4, (4, 1), "chunked_limited") == [0, 1, 2, 3, 4, 5]
    assert seen_by(5, (4, 1), "chunked_limited") == [0, 1, 2, 3, 4, 5]
    assert seen_by(9, (4, 1), "chunked_limited") == [4, 5, 6, 7, 8, 9]


def test_unlimited_left_context_sees_everything_before() -> None:
    assert seen_by(9, (-1, 1), "chunked_limited") == list(range(10))


def test_regular_style_is_a_sliding_window() -> None:
    assert seen_by(9, (2, 1), "regular") == [7, 8, 9, 10]
    assert seen_by(9, (-1, -1), "regular", frames=12) == list(range(12))


@pytest.mark.parametrize("chunk", [1, 2, 4])
def test_the_ring_hides_exactly_the_keys_that_the_mask_of_the_whole_file_hides(chunk: int) -> None:
    config = tiny_config()
    context = (config.left, chunk - 1)
    total = 24
    encoder = Encoder(config)
    whole = PassThrough.over(encoder.position_tables(total - 1, total - 1), torch.tensor([total]), config, context)
    rings = tuple(torch.zeros(1, config.heads, config.ring, config.head_dim) for _ in range(config.layers))
    tables = encoder.position_tables(max(config.chunks) - 1, config.ring - 1)
    for start in range(0, total, chunk):
        ring = Ring(tables, rings, rings, torch.tensor([start]), context).place(chunk, torch.tensor([start + chunk]))
        for row in range(chunk):
            expected = (~whole.hidden[0, 0, start + row]).nonzero().flatten().tolist()
            slots = (~ring.hidden[0, 0, row]).nonzero().flatten().tolist()
            assert sorted(slots) == sorted(f % config.ring for f in expected), (start, row)


def test_frames_wrap_around_the_ring() -> None:
    ring = write_ring(
        torch.zeros(1, 1, 5, 1), torch.tensor([1.0, 2.0, 3.0]).view(1, 1, 3, 1), torch.tensor([[3, 4, 0]])
    )
    assert ring.flatten().tolist() == [3.0, 0.0, 0.0, 1.0, 2.0]
