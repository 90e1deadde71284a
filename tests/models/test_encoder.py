"""One forward: chunk by chunk equals whole, whatever the phase and the company of a row."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.encoder import Encoder
from models.state import EncoderState
from tests.models.tiny import tiny_config

TOLERANCE = 2e-5


def make_encoder(seed: int = 0) -> Encoder:
    torch.manual_seed(seed)
    return Encoder(tiny_config()).eval().requires_grad_(False)


def chunks_of(mel: Tensor, chunk: int) -> list[tuple[Tensor, int, bool]]:
    """(8C mel positions, how many precede the end, is it last) of (L, mels), the seven before it included."""
    length, pieces, start = mel.shape[0], [], -7
    while not pieces or not pieces[-1][2]:
        positions = range(start, start + 8 * chunk)
        rows = [mel[p] if 0 <= p < length else torch.full((mel.shape[1],), 9.0) for p in positions]  # 9.0: never read
        pieces.append((torch.stack(rows), min(start + 8 * chunk, length) - start, length <= start + 8 * chunk))
        start += 8 * chunk
    return pieces


def stream(encoder: Encoder, mel: Tensor, chunk: int) -> Tensor:
    context = encoder.config.context_of(chunk)
    state, frames = EncoderState.zeros(encoder.config, 1), []
    for piece, valid, last in chunks_of(mel, chunk):
        y, state, out = encoder(piece[None], state, torch.tensor([valid]), torch.tensor([last]), context)
        frames.append(y[0, : int(out)])
    return torch.cat(frames)


def whole(encoder: Encoder, mel: Tensor, chunk: int) -> Tensor:
    y, frames = encoder.offline(mel[None], torch.tensor([len(mel)]), encoder.config.context_of(chunk))
    return y[0, : int(frames)]


@pytest.mark.parametrize("chunk", [1, 2, 4])
@settings(deadline=None, max_examples=12)
@given(length=st.integers(1, 150))
def test_chunk_by_chunk_equals_the_whole_utterance_whatever_its_length(chunk: int, length: int) -> None:
    encoder = make_encoder()
    mel = torch.randn(length, 80, generator=torch.Generator().manual_seed(length))
    expected, got = whole(encoder, mel, chunk), stream(encoder, mel, chunk)
    assert got.shape == expected.shape == (encoder.config.encoder_frames(length), encoder.config.d_model)
    assert (got - expected).abs().max() < TOLERANCE


def test_rows_of_any_phase_in_one_batch_equal_the_rows_alone() -> None:
    encoder, chunk = make_encoder(), 2
    mels = [torch.randn(length, 80) for length in (150, 37, 96, 8)]
    pieces = [chunks_of(mel, chunk) for mel in mels]
    starts = [0, 3, 1, 5]  # the step at which each row begins: the others idle or run meanwhile
    state, outputs = EncoderState.zeros(encoder.config, 4), [[], [], [], []]
    for step in range(max(s + len(p) for s, p in zip(starts, pieces, strict=True))):
        turn = [step - s if 0 <= step - s < len(p) else None for s, p in zip(starts, pieces, strict=True)]
        rows = [pieces[i][t] if t is not None else (torch.full((16, 80), 5.0), 16, False) for i, t in enumerate(turn)]
        mel, valid, last = (torch.stack([r[0] for r in rows]), torch.tensor([r[1] for r in rows]), [r[2] for r in rows])
        y, new, out = encoder(mel, state, valid, torch.tensor(last), (8, 1))
        state = new.where(torch.tensor([t is not None for t in turn]), state)
        for i, t in enumerate(turn):
            if t is not None:
                outputs[i].append(y[i, : int(out[i])])
    for mel, frames in zip(mels, outputs, strict=True):
        assert (torch.cat(frames) - stream(encoder, mel, chunk)).abs().max() < TOLERANCE


def test_audio_that_comes_later_changes_no_frame() -> None:
    encoder, chunk = make_encoder(), 4
    mel = torch.randn(200, 80)
    other = mel.clone()
    other[105:] = torch.randn(95, 80)  # chunks 0 ... 2 end with mel frame 8 (3 * 4 - 1) = 88
    first, second = stream(encoder, mel, chunk), stream(encoder, other, chunk)
    assert torch.equal(first[:12], second[:12])
    assert not torch.equal(first, second)


def test_no_mel_frame_makes_no_encoder_frame() -> None:
    encoder = make_encoder()
    state = EncoderState.zeros(encoder.config, 1)
    _, _, out = encoder(torch.zeros(1, 16, 80), state, torch.tensor([7]), torch.tensor([True]), (8, 1))
    assert int(out) == 0


def test_offline_rows_do_not_depend_on_their_padding() -> None:
    encoder = make_encoder()
    short, long = torch.randn(50, 80), torch.randn(120, 80)
    batch = torch.stack([torch.cat([short, torch.full((70, 80), 3.0)]), long])
    y, frames = encoder.offline(batch, torch.tensor([50, 120]), (8, 1))
    alone = whole(encoder, short, 2)
    assert int(frames[0]) == len(alone)
    assert (y[0, : len(alone)] - alone).abs().max() < TOLERANCE
