"""An exported step is the model's own step: every latency, ragged ends, idle rows, prompts."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from export.parity import FP32_TOLERANCE, compare
from export.to_onnx import export, uncollected
from models.features_np import filterbank, window
from models.store import load
from models.tokenizer import Tokenizer
from tests.artefacts import CLIPS, STREAMING, checkpoint, clip, exported
from tests.models.tiny import LABELS, tiny_model


@pytest.mark.parametrize("model", STREAMING)
def test_every_step_equals_pytorch(model: str) -> None:
    loaded, _ = load(checkpoint(model))
    clips = [clip(name) for name in CLIPS]
    for chunk in loaded.config.chunks:
        for _, prompt in loaded.config.prompts[:2] or ((None, 0),):
            difference = compare(loaded, exported(model), clips, chunk, prompt)
            assert max(difference.scores, difference.networks) <= FP32_TOLERANCE, (chunk, prompt)
            assert difference.heard == difference.wanted
            assert sum(map(len, difference.heard)) > 10
            assert difference.steps == -(-(len(clip("speech")) + 1080 + 1) // (1280 * chunk))


def test_the_left_context_may_depend_on_the_latency(tmp_path: Path) -> None:
    model = tiny_model(contexts=((8, 3), (4, 1), (3, 0)))
    buffers = model.preprocessor.featurizer
    buffers.fb.copy_(torch.from_numpy(filterbank(80)))
    buffers.window.copy_(torch.from_numpy(window()))
    with uncollected():
        folder = export(model, Tokenizer.from_labels(LABELS), tmp_path / "model")
    for chunk in model.config.chunks:
        assert compare(model, folder, [clip(name) for name in CLIPS], chunk).scores <= FP32_TOLERANCE, chunk


def test_int8_stays_close_and_is_not_the_same() -> None:
    loaded, _ = load(checkpoint("hybrid_bpe"))
    difference = compare(loaded, exported("hybrid_bpe", "int8"), [clip(name) for name in CLIPS], 7)
    assert 0.0 < difference.relative < 0.05
    assert difference.networks <= FP32_TOLERANCE, "predictor and joint stay float32"


def test_another_predictor_or_joint_is_noticed(tmp_path: Path) -> None:
    loaded, _ = load(checkpoint("hybrid_bpe"))
    folder = Path(shutil.copytree(exported("hybrid_bpe"), tmp_path / "copy"))
    clips = [clip("speech")]
    assert compare(loaded, folder, clips, 7).networks <= FP32_TOLERANCE
    with torch.no_grad():
        loaded.joint.joint_net[-1].bias[3] += 100.0
    difference = compare(loaded, folder, clips, 7)
    assert difference.scores <= FP32_TOLERANCE, "the step is the same"
    assert difference.networks == pytest.approx(100.0, rel=1e-3)
    assert difference.heard != difference.wanted
