"""A folder of TensorRT engines, opened by the flavour that made it and checked against what is here.

Knows nothing of arenas or batches. TensorRT is imported when a folder is opened, not before.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from models.config import ModelConfig
from models.transducer import Model
from streamer.backends.base import BackendError
from streamer.backends.trt_engine import Context, Engine
from streamer.backends.trt_folder import FLAVOURS, WEIGHTS, Here, Sidecar

FEATURES = "features.npz"

_log = logging.getLogger(__name__)


def module_of(flavour: str | None = None) -> tuple[Any, str]:
    """TensorRT's Python module and its name: the flavour that is asked for, or the first that can be imported."""
    wanted = [flavour] if flavour else list(FLAVOURS)
    reasons = []
    for name in wanted:
        try:
            return import_module(name), name
        except (ImportError, OSError) as error:  # some lack the module, some have it and lack a library
            reasons.append(str(error))
    remedy = "the extra tensorrt (in the clone: .venv/bin/pip install -e '.[tensorrt]')"
    raise BackendError(" or ".join(FLAVOURS[name] for name in wanted), "; ".join(reasons), remedy)


@functools.cache
def logger_of(module: Any) -> Any:
    """What hands TensorRT's warnings and worse to Python's log. One for the process: it keeps to the first it meets."""
    levels = {module.ILogger.INTERNAL_ERROR: logging.ERROR, module.ILogger.ERROR: logging.ERROR}
    levels[module.ILogger.WARNING] = logging.WARNING

    class Log(module.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            module.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity in levels:
                _log.log(levels[severity], "TensorRT: %s", message)

    return Log()


def open_engines(
    folder: Path,
    config: ModelConfig,
    device: torch.device,
    precision: str | None = None,
    chunks: Sequence[int] | None = None,
) -> tuple[Sidecar, dict[int, Engine]]:
    """The folder's sidecar and, on a CUDA device, its engines by chunk, all or those asked for.

    A BackendError says what does not fit. Whoever makes contexts of the engines has the device as the current one.
    """
    sidecar = Sidecar.read(folder)
    plans = [sidecar.plan_of(chunk) for chunk in chunks or sidecar.chunks]
    sidecar.check_files(folder)
    module, flavour = module_of(sidecar.flavour)
    if not torch.cuda.is_available():
        raise BackendError("GPU", "none", f"one of NVIDIA's, on which {FLAVOURS[flavour]} runs its engines")
    capability = ".".join(map(str, torch.cuda.get_device_capability(device)))
    sidecar.check(Here(flavour, str(module.__version__), capability), config, precision)
    logger = logger_of(module)
    runtime = module.Runtime(logger)
    with torch.cuda.device(device):
        return sidecar, {plan.chunk: _deserialized(module, runtime, folder / plan.file) for plan in plans}


def _deserialized(module: Any, runtime: Any, path: Path) -> Engine:
    data, where = path.read_bytes(), f"{path.parent.name}/{path.name}"
    if hasattr(runtime, "get_engine_validity"):  # TensorRT-RTX can say why not
        validity, reasons = runtime.get_engine_validity(data)
        if validity == module.EngineValidity.INVALID:
            said = [name for name, bit in module.EngineInvalidityDiagnostics.__members__.items() if int(bit) & reasons]
            raise BackendError(where, f"invalid here ({', '.join(said) or reasons})", "an engine for this GPU")
    engine = runtime.deserialize_cuda_engine(data)
    if engine is None:
        raise BackendError(where, "no engine", "one that TensorRT can load here; its own words are in the log")
    return Engine(
        new_context=Contexts(module, runtime, engine),
        memory=tuple(engine.get_device_memory_size_for_profile_v2(i) for i in range(engine.num_optimization_profiles)),
        names=frozenset(engine.get_tensor_name(i) for i in range(engine.num_io_tensors)),
    )


class Contexts:
    """Makes the contexts of one engine, and keeps alive what they need."""

    def __init__(self, module: Any, runtime: Any, engine: Any) -> None:
        self._module, self._runtime, self._engine = module, runtime, engine
        self._kernels: Any = None  # that TensorRT-RTX has compiled, for all contexts

    def __call__(self) -> Context:
        """A context whose memory is ours: each would take that of the largest batch."""
        ours = self._module.ExecutionContextAllocationStrategy.USER_MANAGED
        rtx = hasattr(self._module, "DynamicShapesKernelSpecializationStrategy")
        context: Context | None = self._engine.create_execution_context(self._compiling(ours) if rtx else ours)
        if context is None:
            raise BackendError("TensorRT", "no execution context", "one for each batch; its own words are in the log")
        return context

    def _compiling(self, memory: Any) -> Any:
        """How a context of TensorRT-RTX is to be, which compiles kernels when it meets a shape."""
        how = self._engine.create_runtime_config()
        how.set_execution_context_allocation_strategy(memory)
        # at once rather than in the background: what a graph captured it would keep for ever
        how.dynamic_shapes_kernel_specialization_strategy = self._module.DynamicShapesKernelSpecializationStrategy.EAGER
        how.cuda_graph_strategy = self._module.CudaGraphStrategy.DISABLED  # the whole tick is captured, by us
        self._kernels = self._kernels or how.create_runtime_cache()
        if not how.set_runtime_cache(self._kernels):
            _log.warning("TensorRT-RTX takes no cache of kernels: each batch compiles its own")
        return how


def decoding_model(folder: Path, config: ModelConfig, sidecar: Sidecar) -> Model:
    """What of the model is not in the engines, on the CPU: predictor and joint, filterbank and window; no encoder."""
    with torch.device("meta"):
        model = Model(config)
    del model.encoder
    for name in ("prompt_kernel", *(("ctc_decoder",) if config.transducer else ("decoder",))):
        if hasattr(model, name):
            delattr(model, name)
    tensors = _tensors(folder / WEIGHTS, sidecar.hash)
    try:
        with np.load(folder / FEATURES, allow_pickle=False) as arrays:
            tensors["preprocessor.featurizer.fb"] = torch.from_numpy(arrays["fb"])[None]
            tensors["preprocessor.featurizer.window"] = torch.from_numpy(arrays["window"])
    except (OSError, EOFError, ValueError, KeyError, TypeError, BadZipFile) as error:
        what = f"{type(error).__name__}: {error}"[:200]
        raise BackendError(f"{folder.name}/{FEATURES}", what, "filterbank and window; export it again") from error
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    if (got := {name: tuple(value.shape) for name, value in tensors.items()}) != expected:
        odd = sorted(name for name in got.keys() | expected.keys() if got.get(name) != expected.get(name))
        raise BackendError(f"{folder.name}/{WEIGHTS}", f"others than the model's: {', '.join(odd[:5])}", "its weights")
    model.load_state_dict(tensors, assign=True)
    return model.eval().requires_grad_(False)


def _tensors(path: Path, wanted: str) -> dict[str, Tensor]:
    """The file's tensors, if it was written for the model of that hash."""
    where = f"{path.parent.name}/{path.name}"
    try:
        with safe_open(path, framework="pt") as file:
            if (found := (file.metadata() or {}).get("hash")) != wanted:
                raise BackendError(f"{where} hash", found, f"{wanted}, the engines' model; export it again")
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a mapping
    except (OSError, SafetensorError) as error:
        raise BackendError(where, str(error)[:200], "the decoder's weights; export it again") from error
