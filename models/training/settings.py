"""What a training run is told: one yaml file, every key known, nothing guessed. Knows nothing of torch."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from models.training.data import Augment


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of the run with losses and a learning rate of its own, annealed to the end of its minutes."""

    name: str
    minutes: float  # wall-clock time of training; the learning rate ends exactly there
    peak_lr: float
    final_lr: float = 2e-5
    warmup_steps: int = 400
    ctc_weight: float = 1.0
    inter_ctc_weight: float = 0.0  # CTC on two inner layers, through the same head: shortens the blank plateau
    rnnt_weight: float = 0.0
    fast_emit: float = 0.0  # FastEmit's lambda: how much more an emission's gradient counts


@dataclass(frozen=True, slots=True)
class Settings:
    """One run. Paths are relative to where the trainer is started."""

    run: str  # folder of checkpoints
    cache: str  # folder of features, written by models.training.cache
    train: tuple[str, ...]  # names in the cache
    dev: str
    tokenizer: str  # a SentencePiece model
    model: dict[str, Any]  # ModelConfig's keys less those that the tokenizer gives
    stages: tuple[Stage, ...]
    init: str | None = None  # a released folder whose weights the run starts from
    workers: int = 2  # processes that share the weights, one thread each
    seed: int = 1
    batch_s: float = 40.0  # padded seconds of audio, per worker
    max_s: float = 20.0  # longer utterances are left out
    curriculum_s: float = 7.0  # the first epoch keeps to utterances up to this long, undisturbed
    context_weights: tuple[float, ...] = ()  # how often each of the model's contexts is drawn; empty: evenly
    beta1: float = 0.9
    beta2: float = 0.98
    weight_decay: float = 0.01  # on matrices only
    clip_norm: float = 1.0
    ema_decay: float = 0.998
    bf16: bool = True
    joint_cells: int = 16_000  # cells (frame, label) of the joint computed at once: bounds memory
    log_steps: int = 20
    save_minutes: float = 3.0  # checkpoint and validation
    dev_per_source: int = 30  # utterances
    max_steps: int | None = None  # ends the run after so many updates, for trials
    augment: Augment = field(default_factory=Augment)


def from_dict(values: dict[str, Any]) -> Settings:
    """Raises ValueError for a key that is not known or a value of the wrong kind of number."""
    values = dict(values)
    values["stages"] = tuple(_build(Stage, stage, "stages") for stage in values.get("stages", ()))
    values["augment"] = _build(Augment, values.get("augment") or {}, "augment")
    for key in ("train", "context_weights"):
        values[key] = tuple(values.get(key) or ())
    settings = _build(Settings, values, "settings")
    if not settings.stages or not settings.train:
        raise ValueError("settings: got no stage or no training data, expected at least one of each")
    return settings


def load(path: Path) -> Settings:
    return from_dict(yaml.safe_load(path.read_text("utf-8")))


def _build(kind: type[Any], values: dict[str, Any], where: str) -> Any:
    fields = {f.name: f.type for f in dataclasses.fields(kind)}
    for key, value in values.items():
        if key not in fields:
            raise ValueError(f"{where}.{key}: got an unknown key, expected one of {', '.join(fields)}")
        if fields[key] == "float" and not isinstance(value, (int, float)):
            raise ValueError(f"{where}.{key}: got {value!r}, expected a number (write 1.0e-3, not 1e-3)")
    missing = [f.name for f in dataclasses.fields(kind) if f.name not in values and _required(f)]
    if missing:
        raise ValueError(f"{where}: got no {', '.join(missing)}, expected a value")
    return kind(**values)


def _required(f: dataclasses.Field[Any]) -> bool:
    return f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
