"""What a training run is told: one yaml file, changed by `key.sub=value`; every key known. Knows nothing of torch."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Any

import yaml

from models.training.augment import Augment


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of the run with losses and a learning rate of its own, annealed to the end of its minutes or steps."""

    name: str
    peak_lr: float
    minutes: float | None = None  # wall-clock time of training; or ...
    steps: int | None = None  # ... updates: then a run that was interrupted ends with the weights of one that was not
    final_lr: float = 2e-5
    warmup_steps: int = 400
    ctc_weight: float = 1.0
    inter_ctc_weight: float = 0.0  # CTC on two inner layers, through the same head: shortens the blank plateau
    rnnt_weight: float = 0.0
    sentence_weight: float = 0.0  # of sentences that nobody spoke, for what a transducer knows of language
    teacher_weight: float = 0.0  # squared error of what an inner layer says of the teacher's frames, for each of them
    fast_emit: float = 0.0  # FastEmit's lambda: how much more an emission's gradient counts


@dataclass(frozen=True, slots=True)
class Settings:
    """One run. Paths are relative to where the trainer is started."""

    run: str  # folder of checkpoints
    train: tuple[str, ...]  # manifests (*.jsonl), or names in the cache
    dev: str  # the same
    stages: tuple[Stage, ...]
    cache: str = "runs/features"  # folder of features; those of a manifest are computed when they are not there
    versions: int = 0  # so many more of each manifest of `train`, as heard elsewhere (models.training.acoustics)
    noise: str | None = None  # folder of recorded noise for the versions
    teacher: str | None = None  # folder of another encoder's frames of `train` (models.training.teacher)
    teacher_delay: int = 1  # frames of 80 ms that the model may hear before it says the teacher's
    sentences: tuple[str, ...] = ()  # text files, a sentence a line, that a stage of a sentence_weight draws from
    text: str = "keep"  # or plain: lower case, no punctuation (models.training.text)
    init: str | None = None  # a .nemo file or model folder whose weights the run starts from
    tokenizer: str | None = None  # a SentencePiece model; none: that of `init`
    model: dict[str, Any] | None = None  # ModelConfig's keys less those that the tokenizer gives; the others are init's
    device: str = "auto"  # cpu, cuda, or auto: cuda where there is one
    workers: int = 1  # processes on one CPU that share the weights and wait for nobody, one thread each
    accumulate: int = 1  # batches an update; under torchrun all processes together
    seed: int = 1
    batch_s: float = 40.0  # padded seconds of audio
    max_s: float = 20.0  # longer utterances are left out
    curriculum_s: float | None = None  # the first epoch keeps to utterances up to this long, undisturbed
    context_weights: tuple[float, ...] = ()  # how often each of the model's contexts is drawn; empty: evenly
    dropout: float = 0.0  # in the encoder's layers, and of the predictor's embeddings and outputs
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
    dev_latency_ms: int | None = None  # at which dev is also streamed, chunk by chunk; none: the model's shortest
    tensorboard: bool = False  # event files beside the checkpoints; needs the package of that name
    max_steps: int | None = None  # ends the run after so many updates, for trials
    augment: Augment = field(default_factory=Augment)


# What a field of a type takes, and what to call it.
_TAKES: dict[str, tuple[tuple[type, ...], str]] = {
    "float": ((int, float), "a number (write 1.0e-3, not 1e-3)"),
    "int": ((int,), "a whole number"),
    "float | None": ((int, float, type(None)), "a number or null"),
    "int | None": ((int, type(None)), "a whole number or null"),
    "bool": ((bool,), "true or false"),
    "str": ((str,), "a text"),
    "str | None": ((str, type(None)), "a text or null"),
    "dict[str, Any] | None": ((dict, type(None)), "a mapping of keys to values"),
}


def from_dict(values: object) -> Settings:
    """Raises ValueError for a key that is not known or a value of the wrong kind."""
    values = dict(_mapping(values, "settings"))
    values["stages"] = tuple(_build(Stage, stage, "stages") for stage in _list(values, "stages", dict))
    values["augment"] = _build(Augment, values.get("augment") or {}, "augment")
    values["train"] = tuple(_list(values, "train", str))
    values["sentences"] = tuple(_list(values, "sentences", str))
    values["context_weights"] = tuple(_list(values, "context_weights", int, float))
    settings: Settings = _build(Settings, values, "settings")
    _check(settings)
    return settings


def load(path: Path, overrides: Iterable[str] = ()) -> Settings:
    """The settings of a yaml file, changed by `key.sub=value`. Raises ValueError for what is no yaml, too."""
    try:
        values = yaml.safe_load(path.read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        at = getattr(error, "problem_mark", None)
        where = f" (line {at.line + 1})" if at else ""
        raise ValueError(f"got a file that cannot be read{where}, expected YAML in UTF-8") from None
    for override in overrides:
        change(_mapping(values, "settings"), override)
    return from_dict(values)


def change(values: dict[str, Any], override: str) -> None:
    """Puts one `key.sub=value` into the values of a file; an item of a list goes by its number or name."""
    path, sign, text = override.partition("=")
    if not sign or not all(path.split(".")):
        raise ValueError(f"{override}: got no key and value, expected key.sub=value, as in stages.0.peak_lr=1e-4")
    *parents, last = path.split(".")
    at: Any = values
    for depth, key in enumerate(parents, 1):
        if isinstance(at, dict) and at.get(key) is None:
            at[key] = {}
        at = at[_place(at, key, ".".join(parents[:depth]))]
    at[_place(at, last, path)] = _value(text)


def _place(at: Any, key: str, path: str) -> Any:
    """Where a key's value lies in a mapping, or in a list of mappings with names."""
    if isinstance(at, dict):
        return key
    if not isinstance(at, list):
        raise ValueError(f"{path}: got {at!r} to look into, expected a mapping or a list")
    names = [str(one.get("name", place)) if isinstance(one, dict) else str(place) for place, one in enumerate(at)]
    if key in names:
        return names.index(key)
    if key.isdigit() and int(key) < len(at):
        return int(key)
    raise ValueError(f"{path}: got no such place in the list, expected one of {', '.join(names)}")


def _value(text: str) -> Any:
    """As YAML reads it, and 1e-4 as the number that it is to everybody else."""
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _check(told: Settings) -> None:
    """What is wrong though every value is of its kind."""
    if not told.stages or not told.train:
        raise ValueError("settings: got no stage or no training data, expected at least one of each")
    for stage in told.stages:
        if (stage.minutes is None) == (stage.steps is None):
            got = f"minutes={stage.minutes} and steps={stage.steps}"
            raise ValueError(f"stages.{stage.name}: got {got}, expected one of them")
    taught, read = any(s.teacher_weight for s in told.stages), any(s.sentence_weight for s in told.stages)
    for key, good, expected in (
        ("text", told.text in ("keep", "plain"), "keep or plain"),
        ("device", told.device in ("auto", "cpu", "cuda"), "auto, cpu or cuda"),
        ("workers", told.workers >= 1, "a whole number from 1"),
        ("accumulate", told.accumulate >= 1, "a whole number from 1"),
        ("dropout", 0 <= told.dropout < 1, "a share from 0 to below 1"),
        ("augment.warp", 0 <= told.augment.warp <= 0.5, "a share from 0 to 0.5"),
        ("augment.noise", 0 <= told.augment.noise <= 1, "a share from 0 to 1"),
        ("augment.quiet_db", told.augment.quiet_db >= told.augment.noise_db, "augment.noise_db or more"),
        ("teacher_delay", told.teacher_delay >= 0, "a whole number from 0"),
        ("teacher", bool(told.teacher) or not taught, "a folder, as a stage has a teacher_weight"),
        ("sentences", bool(told.sentences) or not read, "text files, as a stage has a sentence_weight"),
        ("tokenizer", bool(told.tokenizer or told.init), "a SentencePiece model, or init to take it from"),
        ("model", bool(told.model or told.init), "the model's numbers, or init to take them from"),
    ):
        if not good:
            raise ValueError(f"settings.{key}: got {attrgetter(key)(told)!r}, expected {expected}")


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
            near = difflib.get_close_matches(str(key), fields, 1, 0.0)[0]
            raise ValueError(f"{where}.{key}: got an unknown key, expected a known one; the nearest is {near}")
        kinds, called = _TAKES.get(fields[key], ((object,), ""))
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds and object not in kinds):
            raise ValueError(f"{where}.{key}: got {value!r}, expected {called}")
    missing = [f.name for f in dataclasses.fields(kind) if f.name not in given and _required(f)]
    if missing:
        raise ValueError(f"{where}: got no {', '.join(missing)}, expected a value")
    return kind(**given)


def _required(f: dataclasses.Field[Any]) -> bool:
    return f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
