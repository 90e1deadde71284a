"""An exported step is the model's own step: every latency, ragged ends, idle rows, prompts."""

from __future__ import annotations

import pytest

from export.parity import FP32_TOLERANCE, compare
from models.store import load
from tests.artefacts import CLIPS, STREAMING, checkpoint, clip, exported


@pytest.mark.parametrize("model", STREAMING)
def test_every_step_equals_pytorch(model: str) -> None:
    loaded, _ = load(checkpoint(model))
    clips = [clip(name) for name in CLIPS]
    for chunk in loaded.config.chunks:
        for _, prompt in loaded.config.prompts[:2] or ((None, 0),):
            difference = compare(loaded, exported(model), clips, chunk, prompt)
            assert difference.scores <= FP32_TOLERANCE, (chunk, prompt)
            assert difference.steps == -(-(len(clip("speech")) + 1080 + 1) // (1280 * chunk))


def test_int8_stays_close_and_is_not_the_same() -> None:
    loaded, _ = load(checkpoint("hybrid_bpe"))
    difference = compare(loaded, exported("hybrid_bpe", "int8"), [clip(name) for name in CLIPS], 7)
    assert 0.0 < difference.relative < 0.05
