"""Where a model's files lie: the one that ships, a folder, or a checkpoint exported once into a cache.

Knows nothing of what the files hold. Without torch only exported models can be used, and the error says so.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tarfile
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

PRETRAINED = Path(__file__).resolve().parent.parent / "models" / "pretrained"
EXPORTED = "artefact.json"  # the file that makes a folder one that ONNX Runtime can run
CONFIG = "config.json"  # the file that makes a folder one of a model
ENGINES = "tensorrt.json"  # the file that makes a folder one of TensorRT engines
_GZIP = b"\x1f\x8b"
_LAYOUT = "4"  # part of the cache's key: raise it when the exported graphs change
_READ_BYTES = 1 << 20


class NoModel(Exception):
    """The model that was asked for cannot be had; the text says why and what to do."""


def default_model() -> Path:
    """The folder of the model that ships."""
    found = sorted(path.parent for path in PRETRAINED.glob(f"*/{EXPORTED}"))
    if not found:
        raise NoModel(f"no model: {PRETRAINED} holds none; name one: --model M, or model.path=M for serve")
    return found[0]


def how_to_add(extra: str) -> str:
    """What to do about a package that only an extra brings; said by whoever misses it."""
    return f"add the extra {extra} in the clone: .venv/bin/pip install -e '.[{extra}]'"


def resolve(model: str, backend: str = "ort", precision: str = "fp32") -> Path:
    """The path to give to `load_backend`: `model` itself, the default, or its export from the cache."""
    if not model:
        return default_model()
    path = Path(model).expanduser()
    if not path.exists():
        raise NoModel(f"model {model}: no such file or folder")
    if not _may_be_model(path):
        raise NoModel(f"model {model}: neither a .nemo archive nor a model folder ({CONFIG} or {EXPORTED} in it)")
    if backend != "trt" and (path / ENGINES).is_file():
        raise NoModel(f"model {model}: holds TensorRT engines, which model.backend=trt runs, and nothing else")
    if backend != "ort" or (path / EXPORTED).is_file():
        return path
    return _cached(path, precision)


def _may_be_model(path: Path) -> bool:
    """By the outside only; whoever loads it finds out whether it is one."""
    if path.is_dir():
        return any((path / name).is_file() for name in (CONFIG, EXPORTED))
    with path.open("rb") as stream:
        return stream.read(len(_GZIP)) == _GZIP or tarfile.is_tarfile(path)


def cache_folder() -> Path:
    """Where exports are kept: $STREAMER_CACHE, or `streamer` in the user's cache."""
    if given := os.environ.get("STREAMER_CACHE"):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "streamer"


def _cached(path: Path, precision: str) -> Path:
    """The export of a checkpoint, made on first use. The key is what the files hold, not what they are called."""
    folder = cache_folder() / f"{_digest(path)}-{precision}-{_LAYOUT}"
    if (folder / EXPORTED).is_file():
        return folder
    if find_spec("torch") is None or find_spec("onnxscript") is None:
        raise NoModel(f"model {path}: a checkpoint needs torch to be exported: {how_to_add('torch')}")
    export_model(path, folder, precision)  # appears whole or not at all
    return folder


def export_model(path: Path, out: Path, precision: str) -> None:
    """Write the ONNX artefact of a checkpoint into the folder `out`."""
    exporter("to_onnx").export_model(path, out, precision)


def exporter(name: str) -> ModuleType:
    """The module of `export` that writes one kind of artefact."""
    module = import_module(f"export.{name}")
    # It warns of packages that no graph of ours needs; torch resets its loggers' levels on import, so not earlier.
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
    return module


def _digest(path: Path) -> str:
    """Twenty hex digits over the checkpoint's bytes; a folder's files count with their names."""
    digest = hashlib.sha256()
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    for file in files:
        digest.update(file.name.encode() if path.is_dir() else b"")
        with file.open("rb") as stream:
            while block := stream.read(_READ_BYTES):
                digest.update(block)
    return digest.hexdigest()[:20]
