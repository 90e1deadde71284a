"""Which module is behind a backend's name; imported only when asked for, so `streamer` never pulls in torch."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from streamer.backends.base import Backend, BackendError

MODULES = {
    "fake": "streamer.backends.fake",
    "ort": "streamer.backends.ort",
    "pytorch": "streamer.backends.pytorch",
    "trt": "streamer.backends.trt",
}
ON_DEVICES = ("pytorch", "trt")  # those that take a place
EXTRA = {"torch": "torch"}  # module -> the extra that brings it


@dataclass(frozen=True, slots=True)
class Place:
    """Where and in what a backend computes; empty leaves it to the backend.

    device: cpu, cuda or cuda:N. precision: fp32, int8, bf16 or fp16; a model that was exported has its own.
    """

    device: str = ""
    precision: str = ""


def load_backend(
    name: str, model_path: str | Path, slots: int, threads: int = 1, place: Place | None = None
) -> Backend:
    """The backend `name` with the model at `model_path` and room for `slots` streams."""
    if name not in MODULES:
        raise BackendError("backend", name, "one of " + ", ".join(MODULES))
    try:
        module = import_module(MODULES[name])
    except ModuleNotFoundError as error:
        if error.name not in EXTRA:
            raise
        remedy = f"the extra {EXTRA[error.name]} (in the clone: .venv/bin/pip install -e '.[{EXTRA[error.name]}]')"
        raise BackendError(f"backend {name}", f"no module {error.name}", remedy) from error
    place = place or Place()
    if name in ON_DEVICES:
        placed: Backend = module.load(Path(model_path), slots=slots, threads=threads, place=place)
        return placed
    if place.device not in ("", "cpu"):
        raise BackendError(
            "device", place.device, f"cpu for the backend {name}; {' and '.join(ON_DEVICES)} take others"
        )
    backend: Backend = module.load(Path(model_path), slots=slots, threads=threads)
    if place.precision not in ("", backend.precision):
        raise BackendError("precision", place.precision, f"{backend.precision}, which the model at {model_path} has")
    return backend
