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


# What a field of a type takes, and what to call it.
_TAKES: dict[str, tuple[tuple[type, ...], str]] = {
    "float": ((int, float), "a number (write 1.0e-3, not 1e-3)"),
    "int": ((int,), "a whole number"),
    "int | None": ((int, type(None)), "a whole number or null"),
    "bool": ((bool,), "true or false"),
    "str": ((str,), "a text"),
    "str | None": ((str, type(None)), "a text or null"),
    "dict[str, Any]": ((dict,), "a mapping of keys to values"),
}


def from_dict(values: object) -> Settings:
    """Raises ValueError for a key that is not known or a value of the wrong kind."""
    values = dict(_mapping(values, "settings"))
    values["stages"] = tuple(_build(Stage, stage, "stages") for stage in _list(values, "stages", dict))
    values["augment"] = _build(Augment, values.get("augment") or {}, "augment")
    values["train"] = tuple(_list(values, "train", str))
    values["context_weights"] = tuple(_list(values, "context_weights", int, float))
    settings: Settings = _build(Settings, values, "settings")
    if not settings.stages or not settings.train:
        raise ValueError("settings: got no stage or no training data, expected at least one of each")
    return settings


def load(path: Path) -> Settings:
    """The settings of a yaml file. Raises ValueError for what is no yaml, too."""
    try:
        values = yaml.safe_load(path.read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        at = getattr(error, "problem_mark", None)
        where = f" (line {at.line + 1})" if at else ""
        raise ValueError(f"got a file that cannot be read{where}, expected YAML in UTF-8") from None
    return from_dict(values)


def _list(values: dict[str, Any], key: str, *kinds: type) -> list[Any]:
    given = values.get(key) or []
    if not isinstance(given, list) or not all(isinstance(one, kinds) for one in given):
        raise ValueError(f"settings.{key}: got {given!r}, expected a list of {' or '.join(k.__name__ for k in kinds)}")
    return given


def _mapping(values: object, where: str) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise ValueError(f"{where}: got {values!r}, expected a mapping of keys to values")
    return values


def _build(kind: type[Any], values: object, where: str) -> Any:
    given = _mapping(values, where)
    fields = {f.name: str(f.type) for f in dataclasses.fields(kind)}
    for key, value in given.items():
        if key not in fields:
            raise ValueError(f"{where}.{key}: got an unknown key, expected one of {', '.join(fields)}")
        kinds, called = _TAKES.get(fields[key], ((object,), ""))
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds and object not in kinds):
            raise ValueError(f"{where}.{key}: got {value!r}, expected {called}")
    missing = [f.name for f in dataclasses.fields(kind) if f.name not in given and _required(f)]
    if missing:
        raise ValueError(f"{where}: got no {', '.join(missing)}, expected a value")
    return kind(**given)


def _required(f: dataclasses.Field[Any]) -> bool:
    return f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
