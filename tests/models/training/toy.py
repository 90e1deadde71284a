"""A corpus of tones and a model small enough to learn it in seconds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import soundfile

from models.config import ModelConfig
from models.tokenizer import Tokenizer, train_bpe
from models.training import cache
from models.training.data import Corpus
from models.training.settings import Settings, from_dict

WORDS = {"low": 300.0, "mid": 900.0, "top": 2500.0}


def tones(words: list[str], seed: int = 0) -> np.ndarray:
    """0.3 s of a word's tone and 0.2 s of near silence, for each word; int16 values as float32."""
    rng = np.random.default_rng(seed)
    time = np.arange(4800) / 16000
    pieces = [np.zeros(1600)]
    for word in words:
        pieces += [0.3 * np.sin(2 * np.pi * WORDS[word] * time), np.zeros(3200)]
    return (np.concatenate(pieces) + 1e-3 * rng.standard_normal(sum(map(len, pieces)))).astype(np.float32)


def corpus(folder: Path, sentences: list[str], name: str = "train") -> None:
    """Writes wave files, a manifest and its cache `folder`/cache, and a tokenizer."""
    lines = []
    for index, sentence in enumerate(sentences):
        path = folder / f"{name}{index}.wav"
        soundfile.write(path, tones(sentence.split(), index), 16000, subtype="PCM_16")
        lines.append(json.dumps({"audio_filepath": path.name, "text": sentence, "source": f"toy{index % 2}"}))
    (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    cache.build(folder / f"{name}.jsonl", folder / "cache", workers=1)
    if not (folder / "tokenizer.model").exists():
        train_bpe([*WORDS, *sentences] * 5, 12, folder / "tokenizer")


MODEL = {
    "name": "toy",
    "kind": "hybrid",
    "mels": 80,
    "d_model": 32,
    "layers": 1,
    "heads": 2,
    "d_ff": 64,
    "sub_channels": 8,
    "contexts": [[4, 1], [4, 0]],
    "predictor_hidden": 16,
    "predictor_layers": 1,
    "joint_hidden": 16,
}


def config(tokenizer: Tokenizer) -> ModelConfig:
    """The toy model with this vocabulary."""
    return ModelConfig.from_dict({**MODEL, "vocab_size": len(tokenizer), "labels": list(tokenizer.pieces)})


def cached(folder: Path, name: str = "train") -> Corpus:
    """What `corpus` has written."""
    tokenizer = Tokenizer.from_sentencepiece((folder / "tokenizer.model").read_bytes())
    return Corpus(folder / "cache", [name], tokenizer, config(tokenizer))


def settings(folder: Path, **changes: object) -> Settings:
    values: dict[str, object] = {
        "run": str(folder / "run"),
        "cache": str(folder / "cache"),
        "train": ["train"],
        "dev": "train",
        "tokenizer": str(folder / "tokenizer.model"),
        "model": dict(MODEL),
        "stages": [{"name": "ctc", "steps": 1000, "peak_lr": 5e-3, "warmup_steps": 5}],
        "workers": 1,
        "bf16": False,
        "augment": {"freq_masks": 0, "time_masks": 0, "gain_db": 0.0},
        "batch_s": 10.0,
        "log_steps": 1,
    }
    return from_dict({**values, **changes})
