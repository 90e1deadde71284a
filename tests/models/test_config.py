"""Wrong numbers are refused by name; right ones survive JSON."""

from __future__ import annotations

import json

import pytest

from models.config import ConfigError, ModelConfig
from tests.models.tiny import tiny_config


def test_a_config_survives_json() -> None:
    config = tiny_config()
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"kind": "whisper"}, "kind='whisper'"),
        ({"d_model": 15}, "d_model=15"),
        ({"contexts": ((7, 1),)}, "contexts=(7, 1)"),
        ({"contexts": ()}, "contexts"),
        ({"conv_kernel": 4}, "conv_kernel=4"),
        ({"conv_context": (4, 1)}, "conv_context=(4, 1)"),
        ({"kind": "rnnt", "durations": (0, 1)}, "durations=(0, 1)"),
        ({"kind": "tdt"}, "durations=()"),
        ({"predictor_layers": 3}, "predictor_layers=3"),
        ({"labels": ("a",)}, "labels=1"),
        ({"sample_rate": 8000}, "sample_rate=8000"),
    ],
)
def test_a_wrong_number_is_named(changes: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError) as error:
        tiny_config(**changes)
    assert named in str(error.value)
    assert ": expected " in str(error.value)


@pytest.mark.parametrize(
    ("key", "value"), [("layers", "2"), ("layers", True), ("use_bias", 1), ("contexts", [[1]]), ("surprise", 1)]
)
def test_json_of_the_wrong_type_is_refused(key: str, value: object) -> None:
    with pytest.raises(ConfigError):
        ModelConfig.from_dict({**tiny_config().to_dict(), key: value})


def test_a_latency_is_one_of_the_models() -> None:
    config = tiny_config()
    assert config.latencies_ms == (320, 160, 80)
    assert config.chunk_of(160) == 2
    with pytest.raises(ConfigError, match="one of the model's: 80, 160, 320"):
        config.chunk_of(100)


@pytest.mark.parametrize(
    ("mel_frames", "frames"), [(0, 0), (1, 1), (8, 2), (9, 2), (10, 3), (321, 41), (261, 34), (24, 4)]
)
def test_encoder_frames_of_an_utterance(mel_frames: int, frames: int) -> None:
    assert tiny_config().encoder_frames(mel_frames) == frames
