"""Claims about `streamer train`: what is wrong with a run is said before it starts."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from models.training import settings
from tests.shell import failing

RECIPE = Path(settings.__file__).parents[1] / "recipes" / "streamer-small-en" / "1-first.yaml"
DEFAULT = RECIPE.read_text("utf-8")
STAGES = DEFAULT[DEFAULT.index("stages:") : DEFAULT.index("workers:")]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "no such file"),
        ("", "settings: got None, expected a mapping"),
        ("- a\n", "settings: got ['a'], expected a mapping"),
        ("a: [1\n", "got a file that cannot be read (line 2), expected YAML"),
        ("no_such_key: 1\n", "settings.no_such_key: got an unknown key"),
        (DEFAULT.replace(STAGES, "stages: 3\n"), "settings.stages: got 3, expected a list of dict"),
        (DEFAULT.replace(STAGES, "stages: [3]\n"), "settings.stages: got [3], expected a list of dict"),
        (DEFAULT.replace("workers: 2", "workers: two"), "settings.workers: got 'two', expected a whole number"),
        (DEFAULT + "\naugment: {warp: 0.6}\n", "settings.augment.warp: got 0.6, expected a share from 0 to 0.5"),
        (DEFAULT + "\naugment: {noise: -0.1}\n", "settings.augment.noise: got -0.1, expected a share from 0 to 1"),
        (DEFAULT + "\naugment: {noise_db: 9, quiet_db: 8}\n", "settings.augment.quiet_db: got 8, expected"),
        (DEFAULT.replace("dev: corpus/dev.jsonl", "dev: no"), "settings.dev: got False, expected a text"),
        (DEFAULT.replace("seed: 3", "seed: true"), "settings.seed: got True, expected a whole number"),
        (DEFAULT.replace("train: [corpus", "train: 3 # [corpus"), "settings.train: got 3, expected a list of str"),
    ],
)
def test_a_bad_training_file_is_one_sentence(
    tmp_path: Path, content: str | None, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "train.yaml"
    if content is not None:
        config.write_text(content)
    code, err = failing(capsys, "train", "--config", str(config))
    assert code == (1 if content is None else 2)
    assert f"--config {config}: " in err
    assert sentence in err


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("stages.ctc", "stages.ctc: got no key and value, expected key.sub=value"),
        ("stages.slow.peak_lr=1", "stages.slow: got no such place in the list, expected one of ctc, rnnt"),
        ("seed.x=3", "seed.x: got 3 to look into, expected a mapping or a list"),
        ("augmnt.gain_db=3", "settings.augmnt: got an unknown key, expected a known one; the nearest is augment"),
        ("stages.0.steps=9", "stages.ctc: got minutes=65 and steps=9, expected one of them"),
        ("text=loud", "settings.text: got 'loud', expected keep or plain"),
    ],
)
def test_a_bad_override_is_one_sentence(override: str, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, err = failing(capsys, "train", "--config", str(RECIPE), override)
    assert code == 2
    assert sentence in err


def test_overrides_change_values_of_the_file_by_number_and_by_name() -> None:
    overrides = ["stages.0.peak_lr=1e-4", "stages.rnnt.minutes=7", "train=[a.jsonl, b]", "model.layers=4", "seed=9"]
    told = settings.load(RECIPE, overrides)
    assert [(stage.peak_lr, stage.minutes) for stage in told.stages] == [(1e-4, 65), (3e-4, 7)]
    assert (told.train, told.seed) == (("a.jsonl", "b"), 9)
    assert told.model is not None
    assert told.model["layers"] == 4


def test_a_step_that_was_left_out_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "train.yaml"
    config.write_text(DEFAULT)
    monkeypatch.chdir(tmp_path)
    assert "python -m models.training.tokenizer" in failing(capsys, "train", "--config", str(config))[1]
    (tmp_path / "runs" / "tokenizer").mkdir(parents=True)
    (tmp_path / "runs" / "tokenizer" / "tokenizer.model").touch()
    assert "manifest corpus/train.jsonl: no such file" in failing(capsys, "train", "--config", str(config))[1]
    cached = ("train=[train]", "dev=dev")
    assert "python -m models.training.cache" in failing(capsys, "train", "--config", str(config), *cached)[1]
    assert "init x.nemo: no such file" in failing(capsys, "train", "--config", str(config), "init=x.nemo")[1]


def test_without_torch_the_extra_train_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "train.yaml").touch()
    assert "pip install -e '.[train]'" in failing(capsys, "train", "--config", str(tmp_path / "train.yaml"))[1]
