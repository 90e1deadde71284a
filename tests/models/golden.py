"""NeMo's recorded outputs for the tiny checkpoints, by model, clip, context and language."""

from __future__ import annotations

import functools
import json
import wave
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from models import nemo
from models.tokenizer import Tokenizer
from models.transducer import Model

ROOT = Path(__file__).resolve().parent.parent / "golden"
CLIPS = ("speech", "pause", "short")
MODELS = tuple(sorted(path.name for path in (ROOT / "models").iterdir()))


def checkpoint(name: str) -> Path:
    return ROOT / "models" / name / f"{name}.nemo"


@functools.cache
def loaded(name: str) -> tuple[Model, Tokenizer]:
    return nemo.load(checkpoint(name))


@functools.cache
def meta(name: str) -> dict[str, Any]:
    return json.loads((ROOT / "models" / name / "meta.json").read_text())


@functools.cache
def clip(name: str) -> np.ndarray:
    """16 kHz float32 PCM."""
    with wave.open(str(ROOT / "clips" / f"{name}.wav")) as file:
        return np.frombuffer(file.readframes(file.getnframes()), np.int16).astype(np.float32) / 32768


@functools.cache
def arrays(model: str, name: str) -> Mapping[str, np.ndarray]:
    with np.load(ROOT / "models" / model / f"{name}.npz") as file:
        return {key: file[key] for key in file.files}


@dataclass(frozen=True)
class Case:
    """One recording by one model with one context."""

    model: str
    clip: str
    context: tuple[int, int]

    def __str__(self) -> str:
        return f"{self.model}-{self.clip}-{self.context[0]}_{self.context[1]}"

    def get(self, name: str, language: str | None = None) -> np.ndarray:
        middle = "" if language is None else f"{language}/"
        return arrays(self.model, self.clip)[f"transcribe/{self.context[0]}_{self.context[1]}/{middle}{name}"]

    def has(self, name: str) -> bool:
        return f"transcribe/{self.context[0]}_{self.context[1]}/{name}" in arrays(self.model, self.clip)

    @property
    def frames(self) -> np.ndarray:
        """The encoder frames that count (T, d_model)."""
        return self.get("enc")[: int(self.get("enc_len")[0])]

    @property
    def languages(self) -> tuple[str | None, ...]:
        return tuple(meta(self.model)["prompts"] or (None,))


CASES = tuple(Case(m, c, tuple(context)) for m in MODELS for c in CLIPS for context in meta(m)["ctxs"])
STREAMED = tuple(case for case in CASES if case.context[0] >= 0)


def first_context(model: str) -> tuple[int, int]:
    """The checkpoint's default."""
    left, right = meta(model)["ctxs"][0]
    return left, right
