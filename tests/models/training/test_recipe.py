"""Claims about the recipe of the model that ships: its settings are whole, and each run begins where the last ended."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

import models
from models.training import settings

RECIPE = Path(models.__file__).parent / "recipes" / "streamer-small-en"


@pytest.mark.parametrize("name", ["1-first", "2-continued", "3-taught"])
def test_the_settings_of_each_run_are_whole(name: str) -> None:
    told = settings.load(RECIPE / f"{name}.yaml")
    assert told.model is not None
    assert len(told.context_weights) == len(told.model["contexts"])
    assert bool(told.init) == bool(told.noise) == (name != "1-first")
    assert bool(told.teacher) == bool(told.sentences) == (name == "3-taught")


def test_each_run_begins_with_what_the_one_before_released(tmp_path: Path) -> None:
    """With programs that only write down how they were called."""
    calls = tmp_path / "calls"
    for name in ("python", "streamer"):
        program = tmp_path / name
        program.write_text(f'#!/bin/sh\nprintf "%s\\n" "{name} $*" >> "{calls}"\n')
        program.chmod(0o755)
    for number in (1, 2, 3):
        (tmp_path / "out" / f"released-{number}").mkdir(parents=True)
        (tmp_path / "out" / f"released-{number}" / "config.json").write_text(json.dumps({"number": number}))
    text = tmp_path / "a corpus" / "text"
    text.mkdir(parents=True)
    for name in ("read_books", "common_voice_sentences", "dialogue_taskmaster4", "train_transcripts", "spontaneous"):
        (text / f"{name}.txt.xz").touch()
    told = [str(RECIPE / "run.sh"), str(tmp_path / "a corpus"), str(tmp_path / "out"), "max_steps=3"]
    path = f"{tmp_path}:{os.environ['PATH']}"
    subprocess.run(told, check=True, env={**os.environ, "PATH": path}, timeout=60)
    said = calls.read_text().splitlines()
    assert [line.split()[2] for line in said if line.startswith("python")] == [
        "models.training.manifest",
        "models.training.tokenizer",
        "pip",
        "zipfile",
        "models.training.teacher",
        "models.training.release",
        "models.training.release",
        "models.training.release",
    ]
    first, second, third = (line for line in said if line.startswith("streamer train"))
    assert f'train=["{tmp_path}/a corpus/train.jsonl", ' in first
    assert "init=null noise=null max_steps=3" in first
    assert f"init={tmp_path}/out/released-1 noise={tmp_path}/a corpus/noise max_steps=3" in second
    assert f"init={tmp_path}/out/released-2 noise={tmp_path}/a corpus/noise teacher={tmp_path}/out/teacher" in third
    assert [Path(name).name.split("_")[0] for name in third.split("sentences=[")[1].split(", ")] == [
        "read",
        "common",
        "dialogue",
        "train",
    ]
    assert json.loads((tmp_path / "out" / "streamer-small-en" / "config.json").read_text())["number"] == 3
    assert subprocess.run(told[:2], check=False, capture_output=True, timeout=60).returncode == 2
