"""Features: NeMo's numbers, whole, in chunks and in batches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from models.features import LogMel
from models.features_np import TAIL, StreamingFeatures, per_feature, samples_needed

GOLDEN = Path(__file__).parents[1] / "golden"
CLIPS = ("speech", "pause", "short")
NEMO_TOLERANCE = 1e-3  # log of tiny powers (golden README)


def clip(name: str) -> np.ndarray:
    return soundfile.read(GOLDEN / "clips" / f"{name}.wav", dtype="float32")[0]


def golden(name: str, file: str) -> np.ndarray:
    arrays = np.load(GOLDEN / "feats" / f"{file}.npz")
    return arrays[f"{name}/feats"][: int(np.ravel(arrays[f"{name}/feats_len"])[0])]


def in_chunks(features: StreamingFeatures, pcm: np.ndarray, chunk: int) -> np.ndarray:
    out, tail, position, index, last = [], np.zeros(0, np.float32), 0, 0, False
    while not last:
        needed = samples_needed(index, chunk)
        last = len(pcm) - position < needed
        piece = pcm[position : position + needed]
        mel, valid, tail = features.chunk_mel(tail, min(position, TAIL), piece, position, last, chunk)
        assert not mel[valid:].any(), "frames past the end are zero"
        if index == 0:
            assert not mel[:7].any(), "frames before the audio are zero"
        out.append(mel[7 if index == 0 else 0 : valid])
        position += len(piece)
        index += 1
    return np.concatenate(out)


@pytest.mark.parametrize("name", CLIPS)
@pytest.mark.parametrize(("file", "mels"), [("mel80_na", 80), ("mel128_na", 128)])
def test_numpy_gives_nemos_numbers(name: str, file: str, mels: int) -> None:
    np.testing.assert_allclose(
        StreamingFeatures(mels).log_mel(clip(name)), golden(name, file), atol=NEMO_TOLERANCE, rtol=0
    )


@pytest.mark.parametrize("name", CLIPS)
def test_numpy_normalises_as_nemo_does(name: str) -> None:
    mel = per_feature(StreamingFeatures(80).log_mel(clip(name)))
    np.testing.assert_allclose(mel, golden(name, "mel80_per_feature"), atol=NEMO_TOLERANCE, rtol=0)


@pytest.mark.parametrize(
    ("file", "mels", "normalize"),
    [("mel80_na", 80, "none"), ("mel128_na", 128, "none"), ("mel80_per_feature", 80, "per_feature")],
)
def test_a_torch_batch_gives_nemos_numbers_and_zeros_after_each_end(file: str, mels: int, normalize: str) -> None:
    clips = [clip(name) for name in CLIPS]
    pcm = torch.zeros(len(clips), max(map(len, clips)))
    for row, samples in enumerate(clips):
        pcm[row, : len(samples)] = torch.from_numpy(samples)
    mel, frames = LogMel(mels, normalize)(pcm, torch.tensor([len(samples) for samples in clips]))
    for row, name in enumerate(CLIPS):
        wanted = golden(name, file)
        assert frames[row] == len(wanted)
        np.testing.assert_allclose(mel[row, : len(wanted)].numpy(), wanted, atol=NEMO_TOLERANCE, rtol=0)
        assert not mel[row, len(wanted) :].any()


def test_a_torch_row_is_bit_identical_alone_and_in_company() -> None:
    clips, features = [clip(name) for name in CLIPS], LogMel(80)
    pcm = torch.zeros(len(clips), max(map(len, clips)))
    for row, samples in enumerate(clips):
        pcm[row, : len(samples)] = torch.from_numpy(samples)
    together, frames = features(pcm, torch.tensor([len(samples) for samples in clips]))
    for row, samples in enumerate(clips):
        alone, _ = features(torch.from_numpy(samples)[None], torch.tensor([len(samples)]))
        assert torch.equal(alone[0], together[row, : frames[row]])


@pytest.mark.parametrize("chunk", [1, 2, 7, 14])
@pytest.mark.parametrize("name", CLIPS)
def test_cutting_into_chunks_changes_nothing(name: str, chunk: int) -> None:
    features = StreamingFeatures(80)
    np.testing.assert_allclose(in_chunks(features, clip(name), chunk), features.log_mel(clip(name)), atol=1e-4, rtol=0)


@pytest.mark.parametrize("samples", [0, 1, 159, 160, 200, 1119, 1120, 3200, 6400 - 1080, 12800])
@pytest.mark.parametrize("chunk", [1, 2, 7])
def test_any_length_has_one_frame_per_whole_160_samples(samples: int, chunk: int) -> None:
    pcm = clip("speech")[9000 : 9000 + samples]
    features = StreamingFeatures(80)
    whole = features.log_mel(pcm)
    assert len(whole) == samples // 160
    np.testing.assert_allclose(in_chunks(features, pcm, chunk), whole, atol=1e-4, rtol=0)


def test_a_length_that_is_a_multiple_of_160_gives_torch_and_numpy_the_same_frames() -> None:
    pcm = clip("speech")[: 160 * 100]
    mel, frames = LogMel(80)(torch.from_numpy(pcm)[None], torch.tensor([len(pcm)]))
    assert frames.tolist() == [100]
    np.testing.assert_allclose(mel[0].numpy(), StreamingFeatures(80).log_mel(pcm), atol=NEMO_TOLERANCE, rtol=0)


@pytest.mark.parametrize("chunk", [1, 7])
def test_chunk_rows_are_bit_identical_alone_and_in_company(chunk: int) -> None:
    rng, features = np.random.default_rng(0), StreamingFeatures(80)
    needed, later = samples_needed(0, chunk), samples_needed(1, chunk)
    scales = (1e-4, 1.0, 30.0, 0.1)
    pcm = [
        (s * rng.standard_normal(n)).astype(np.float32)
        for s, n in zip(scales, (needed, later, 300, later), strict=True)
    ]
    tails = rng.standard_normal((4, TAIL)).astype(np.float32)
    tails[0] = 0.0
    firsts, last = [0, needed, needed + later, needed + 5 * later], [False, False, True, False]
    mel, valid, new_tails = features.chunk_mel_rows(tails, pcm, firsts, last, chunk)
    for row in range(4):
        one = features.chunk_mel_rows(
            tails[row : row + 1], pcm[row : row + 1], firsts[row : row + 1], last[row : row + 1], chunk
        )
        assert np.array_equal(one[0][0], mel[row])
        assert one[1][0] == valid[row]
        assert np.array_equal(one[2][0], new_tails[row])


def test_a_chunk_of_the_wrong_length_is_refused() -> None:
    features = StreamingFeatures(80)
    with pytest.raises(ValueError, match="got 199 samples, expected exactly 200"):
        features.chunk_mel(np.zeros(0, np.float32), 0, np.zeros(199, np.float32), 0, False, 1)
    with pytest.raises(ValueError, match="expected fewer than 200"):
        features.chunk_mel(np.zeros(0, np.float32), 0, np.zeros(200, np.float32), 0, True, 1)
