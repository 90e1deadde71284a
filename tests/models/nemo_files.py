"""NeMo archives made for a test: the golden checkpoints taken apart, changed and put together."""

from __future__ import annotations

import copy
import functools
import io
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from models import nemo
from models.nemo_archive import CONFIG, WEIGHTS, ModelFileError
from tests.models import golden

Members = dict[str, bytes]


@functools.cache
def members(name: str) -> Members:
    with tarfile.open(golden.checkpoint(name)) as tar:
        files = [info for info in tar if info.isfile()]
        return {info.name.removeprefix("./"): tar.extractfile(info).read() for info in files}


@functools.cache
def _parsed(name: str) -> dict[str, Any]:
    return yaml.safe_load(members(name)[CONFIG])


def config(name: str) -> dict[str, Any]:
    return copy.deepcopy(_parsed(name))


def weights(name: str) -> dict[str, torch.Tensor]:
    return torch.load(io.BytesIO(members(name)[WEIGHTS]), weights_only=True)


def packed(values: object, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(values, buffer, **options)
    return buffer.getvalue()


def archive(path: Path, files: Members, mode: str = "w:", prefix: str = "./") -> Path:
    with tarfile.open(path, mode) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(prefix + name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def with_config(name: str, values: dict[str, Any]) -> Members:
    return members(name) | {CONFIG: yaml.safe_dump(values, allow_unicode=True).encode()}


def assert_refused(path: Path, *sentences: str) -> None:
    with pytest.raises(ModelFileError) as refusal:
        nemo.load(path)
    message = str(refusal.value)
    assert all(sentence in message for sentence in sentences), message
    assert "\n" not in message
    assert len(message) < 1500


def assert_same_model(path: Path, name: str) -> None:
    model, tokenizer = nemo.load(path)
    expected, pieces = golden.loaded(name)
    assert replace(model.config, name=name) == expected.config
    assert tokenizer.pieces == pieces.pieces
    ours, theirs = model.state_dict().values(), expected.state_dict().values()
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def over(path: Path, **files: bytes) -> Path:
    """The hybrid checkpoint with another `config` or other `weights`."""
    names = {"config": CONFIG, "weights": WEIGHTS}
    return archive(path, members("hybrid_bpe") | {names[key]: data for key, data in files.items()})
