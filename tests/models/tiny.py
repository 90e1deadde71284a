"""A random model of a few thousand weights, for tests of the machinery rather than of numbers."""

from __future__ import annotations

from dataclasses import replace

import torch

from models.config import ModelConfig
from models.transducer import Model

LABELS = tuple("abcdefghijklmnop")


def tiny_config(**changes: object) -> ModelConfig:
    """Chunks of 4, 2 and 1 frames, left context 8."""
    config = ModelConfig(
        name="tiny",
        kind="hybrid",
        mels=80,
        d_model=16,
        layers=2,
        heads=2,
        d_ff=32,
        contexts=((8, 3), (8, 1), (8, 0)),
        vocab_size=len(LABELS),
        labels=LABELS,
        conv_kernel=5,
        conv_context=(4, 0),
        sub_channels=8,
        predictor_hidden=12,
        predictor_layers=1,
        joint_hidden=12,
        tokenizer="labels",
    )
    return replace(config, **changes)


def tiny_model(seed: int = 0, **changes: object) -> Model:
    torch.manual_seed(seed)
    return Model(tiny_config(**changes)).eval()
