"""Which module is behind a backend's name; imported only when asked for, so `streamer` never pulls in torch."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from streamer.backends.base import Backend, BackendError

MODULES = {
    "fake": "streamer.backends.fake",
    "ort": "streamer.backends.ort",
    "pytorch": "streamer.backends.pytorch",
}
EXTRA = {"torch": "torch"}  # module -> the extra that brings it


def load_backend(name: str, model_path: str | Path, slots: int, threads: int = 1) -> Backend:
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
    backend: Backend = module.load(Path(model_path), slots=slots, threads=threads)
    return backend
