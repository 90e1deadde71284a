"""From the settings' manifests to names in the cache: checked first, then computed once. Knows nothing of models."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from models.tokenizer import Tokenizer
from models.training import cache
from models.training.manifest import SUFFIX, ManifestError, check, shared
from models.training.settings import Settings


def prepare(told: Settings, tokenizer: Tokenizer, mels: int, compute: bool = True) -> Settings:
    """The settings with names in the cache where manifests were; with `compute`, all of them are there.

    Raises ManifestError before anything is computed.
    """
    dev = Path(told.dev)
    manifests = [Path(name) for name in told.train if name.endswith(SUFFIX)]
    if compute:
        _check(told, tokenizer, manifests, dev)
        for version in range(told.versions + 1):
            for path in manifests:
                _build(told, path, mels, version)
        if told.dev.endswith(SUFFIX):
            _build(told, dev, mels, 0)
    names = [name for name in told.train if not name.endswith(SUFFIX)]
    names += [cache.name_of(path, version) for version in range(told.versions + 1) for path in manifests]
    heard = cache.name_of(dev) if told.dev.endswith(SUFFIX) else told.dev
    return dataclasses.replace(told, train=tuple(names), dev=heard)


def _check(told: Settings, tokenizer: Tokenizer, manifests: list[Path], dev: Path) -> None:
    """Audio is looked for only where its features are not there yet."""
    folder, plain = Path(told.cache), told.text == "plain"
    stems: dict[str, Path] = {}
    wanted = [*manifests, *([dev] if told.dev.endswith(SUFFIX) else [])]
    for path in wanted:
        if stems.setdefault(path.stem, path) != path:
            raise ManifestError(path, [f"got the name of {stems[path.stem]}, expected one of its own in the cache"])
    lines = {path: check(path, tokenizer, plain, not cache.is_built(path, folder)) for path in wanted}
    for path in manifests:
        if dev in lines and (faults := shared(path, lines[path], dev, lines[dev])):
            raise ManifestError(path, faults)


def _build(told: Settings, path: Path, mels: int, version: int) -> None:
    noise = Path(told.noise) if told.noise and version else None
    mine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cache.build(path, Path(told.cache), mels, mine or 1, version, noise)
