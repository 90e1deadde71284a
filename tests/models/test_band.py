"""Claims about bands: in blocks and in pieces, attention under a chunk mask is what it is over the whole."""

from __future__ import annotations

import pytest
import torch

from models.attention import PassThrough
from models.band import Band, Banded, Bands, block_of
from tests.models.tiny import tiny_model

CONTEXTS = [(8, 3), (8, 1), (8, 0), (0, 3), (70, 6), (70, 13), (12, 0)]


def bands_of(model: object, context: tuple[int, int]) -> Bands:
    block = block_of(context)
    return Bands(model.encoder.position_tables(block - 1, context[0] + block - 1), model.config, context)


@pytest.mark.parametrize("context", CONTEXTS, ids=str)
@pytest.mark.parametrize("pieces", [1, 3])
@torch.inference_mode()
def test_a_layer_in_bands_sees_what_it_sees_of_the_whole(context: tuple[int, int], pieces: int) -> None:
    model = tiny_model(3, contexts=(context,))
    attention, config = model.encoder.layers[0].self_attn, model.config
    bands = bands_of(model, context)
    frames = (pieces - 1) * bands.longest + 37
    x, end = torch.randn(2, frames, config.d_model), torch.tensor([frames, frames - 9])
    tables = model.encoder.position_tables(frames - 1, frames - 1)
    whole = attention(x, 0, PassThrough.over(tables, end, config, context))
    nothing = torch.zeros(2, config.heads, bands.left, config.head_dim)
    past, heard = [(nothing, nothing)], []
    for first in range(0, frames, bands.longest):
        piece = x[:, first : first + bands.longest]
        band = Band(bands, past, (first, piece.shape[1]), end)
        heard.append(Banded(band, ()).attend(0, attention, piece))
        past = band.past
    got = torch.cat(heard, dim=1)
    for row, count in enumerate(end.tolist()):
        far = (got[row, :count] - whole[row, :count]).abs()
        assert far.max() < 1e-5, f"max {far.max():.2g}, mean {far.mean():.2g}"


@pytest.mark.parametrize("context", CONTEXTS, ids=str)
def test_blocks_are_whole_chunks_that_cover_the_piece_with_little_beyond(context: tuple[int, int]) -> None:
    bands = bands_of(tiny_model(contexts=(context,)), context)
    for frames in range(1, 4 * bands.longest):
        block = bands.block(frames)
        blocks = -(-frames // bands.longest)
        assert block % bands.chunk == 0
        assert block <= bands.longest
        assert 0 <= blocks * block - frames < blocks * bands.chunk
    assert bands.block(2 * bands.longest) == bands.longest  # or the next piece would miss frames
