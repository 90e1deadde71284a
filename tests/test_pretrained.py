"""The model that ships: its files belong together, and the first commands of a new user work with it."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import jiwer
import pytest

from models import store
from models.fingerprint import fingerprint
from streamer.artefacts import PRETRAINED, default_model
from tests.conftest import ROOT
from tests.shell import cli

SPOKEN = (
    "every day luigi led his flock to graze on the road that leads from palestrina to borgo every day at nine o'clock"
    " in the morning the priest and the boy sat down on a bank by the wayside"
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of a user who has just come."""
    return tmp_path_factory.mktemp("home")


def test_one_model_ships_with_its_card_and_its_master() -> None:
    assert [path.parent for path in PRETRAINED.glob("*/artefact.json")] == [default_model()]
    names = {path.name for path in default_model().iterdir()}
    assert names >= {"README.md", "config.json", "tokenizer.model", "model.safetensors", "step.onnx"}
    assert sum(path.stat().st_size for path in default_model().iterdir()) < 40e6


def test_what_runs_was_exported_from_the_master_beside_it() -> None:
    model, _ = store.load(default_model())
    about = json.loads((default_model() / "artefact.json").read_text())
    assert (about["precision"], about["hash"]) == ("int8", fingerprint(model))


def test_the_card_speaks_of_this_model() -> None:
    card = (default_model() / "README.md").read_text("utf-8")
    config = store.read_config(default_model())
    assert card.startswith(f"# {config.name}\n")
    for latency in config.latencies_ms:
        assert f"{latency} ms" in card
    for source in (
        "LibriSpeech",
        "speechocean762",
        "Common Voice",
        "AN4",
        "Free Spoken Digit",
        "Kathleen",
        "LJ Speech",
    ):
        assert source in card


def test_the_demo_says_timed_words_of_the_recording_and_leaves_nothing_behind(home: Path) -> None:
    done = cli("demo", "--fast", env={**os.environ, "HOME": str(home)})
    assert done.returncode == 0, done.stderr
    assert default_model().name in done.stderr
    assert " every" in done.stdout.lower()
    assert not list(home.rglob("*")), "the daemon wrote into the home of its user"


def test_the_bundled_recording_is_understood_by_half() -> None:
    done = cli("transcribe", str(ROOT / "clients" / "samples" / "shepherd.opus"))
    assert done.returncode == 0, done.stderr
    assert jiwer.wer(SPOKEN, done.stdout.strip()) < 0.65


def test_concurrent_real_time_streams_hear_what_transcribe_hears() -> None:
    done = cli("bench", "load", "--streams", "4", "--latency", "560")
    assert done.returncode == 0, done.stderr
    assert re.search(r"\| words other than `streamer transcribe` has \| 0 of [1-9]", done.stdout)
