"""Damaged model files are read or refused: a ModelFileError, never any other exception. Time-boxed."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from models import nemo, store
from models.nemo_archive import CONFIG, ModelFileError
from tests.models import golden
from tests.models.nemo_files import archive, config, members, with_config

SECONDS = 4.0
ODD_VALUES = (None, True, -1, 0, 10**30, 0.5, float("nan"), "", "x", "${a.b}", [], [[]], [1, 2], {}, {"a": None})


def survives(load: Callable[[], object]) -> None:
    message = ""
    try:
        load()
    except ModelFileError as error:
        message = str(error)
    assert "\n" not in message
    assert len(message) < 2000


def rounds(seed: int) -> Any:
    """Generators of random numbers, one a round, until the time is up."""
    end, number = time.monotonic() + SECONDS, 0
    while time.monotonic() < end:
        yield random.Random(f"{seed}.{number}")
        number += 1


def damaged(data: bytes, rng: random.Random) -> bytes:
    """A few bytes changed, a piece cut out, or the end cut off."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 3, 30))):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    start = rng.randrange(len(changed))
    match rng.randrange(4):
        case 0:
            del changed[start:]
        case 1:
            del changed[start : start + rng.randrange(1, 2000)]
    return bytes(changed)


def changed_option(values: Any, rng: random.Random) -> None:
    """One option anywhere in the tree gets an odd value or goes."""
    while True:
        key = rng.choice(list(values))
        inner = values[key]
        if isinstance(inner, dict) and inner and rng.random() < 0.8:
            values = inner
            continue
        values[key] = rng.choice(ODD_VALUES)
        return


@pytest.mark.parametrize("name", ["hybrid_bpe", "rnnt_char"])
def test_damaged_nemo_archives_never_surprise(name: str, tmp_path: Path) -> None:
    data = golden.checkpoint(name).read_bytes()
    for rng in rounds(1):
        (tmp_path / "m.nemo").write_bytes(damaged(data, rng))
        survives(lambda: nemo.load(tmp_path / "m.nemo"))


def test_damaged_yaml_never_surprises(tmp_path: Path) -> None:
    for rng in rounds(2):
        files = members("tdt_bpe") | {CONFIG: damaged(members("tdt_bpe")[CONFIG], rng)}
        path = archive(tmp_path / "m.nemo", files)
        survives(lambda path=path: nemo.load(path))


@pytest.mark.parametrize("name", ["prompt_hybrid", "tdt_bpe", "ctc_bpe", "rnnt_char"])
def test_odd_option_values_never_surprise(name: str, tmp_path: Path) -> None:
    for rng in rounds(3):
        values = config(name)
        for _ in range(rng.choice((1, 1, 3))):
            changed_option(values, rng)
        path = archive(tmp_path / "m.nemo", with_config(name, values))
        survives(lambda path=path: nemo.load(path))


def test_odd_values_in_our_own_json_never_surprise(tmp_path: Path) -> None:
    store.save(*golden.loaded("prompt_hybrid"), tmp_path, torch.float32)
    values = json.loads((tmp_path / "config.json").read_text())
    for rng in rounds(4):
        odd = dict(values)
        changed_option(odd, rng)
        (tmp_path / "config.json").write_text(json.dumps(odd))
        survives(lambda: store.load(tmp_path))


def test_damaged_safetensors_never_surprise(tmp_path: Path) -> None:
    store.save(*golden.loaded("ctc_bpe"), tmp_path, torch.float32)
    data = (tmp_path / "model.safetensors").read_bytes()
    for rng in rounds(5):
        header = damaged(data[:20_000], rng) + data[20_000:] if rng.random() < 0.7 else damaged(data, rng)
        (tmp_path / "model.safetensors").write_bytes(header)
        survives(lambda: store.load(tmp_path))
