"""Backend on TensorRT: the encoder as an engine of `streamer export --to trt`, all else as on PyTorch with CUDA."""

from __future__ import annotations

from pathlib import Path

import torch

from models.config import ConfigError
from models.nemo_archive import ModelFileError
from models.store import read_config, read_tokenizer
from models.tick import Arena, DeviceModel, StepEncoder
from streamer.backends import Place
from streamer.backends.base import Backend, BackendError
from streamer.backends.device import DeviceBackend, Options
from streamer.backends.pytorch import device_of, exact_float32
from streamer.backends.trt_engine import EngineStep, state_dtype
from streamer.backends.trt_folder import SIDECAR, Sidecar
from streamer.backends.trt_open import decoding_model, open_engines


def load(model_path: Path, slots: int, threads: int = 1, place: Place | None = None) -> Backend:
    """The backend for a folder of engines. `threads` is the process's, as torch has it."""
    place = place or Place()
    if not (model_path / SIDECAR).is_file():
        raise BackendError("model", model_path, f"a folder made by `streamer export --to trt` (it has a {SIDECAR})")
    Sidecar.read(model_path).check_files(model_path)  # what is wrong with the folder is said without a GPU, too
    torch.set_num_threads(max(1, threads))
    device = device_of(place.device)
    if device.type != "cuda":
        raise BackendError("device", device.type, "cuda for the backend trt, and a GPU that torch sees")
    try:
        config = read_config(model_path)
        tokenizer = read_tokenizer(model_path, config)
    except (ModelFileError, ConfigError) as error:
        raise BackendError("model", str(error), "the files that the export wrote") from error
    sidecar, engines = open_engines(model_path, config, device, place.precision or None)
    model = DeviceModel(decoding_model(model_path, config, sidecar), state_dtype(sidecar), device)

    def encoder(_model: DeviceModel, arena: Arena, _kernels: bool) -> StepEncoder:
        return EngineStep(config, sidecar, engines, arena.encoder.rows())

    exact_float32()
    options = Options(slots, buckets=batches(sidecar.buckets), chunks=sidecar.chunks)
    with torch.cuda.device(device):
        backend = DeviceBackend("trt", model, tokenizer, encoder, options)
    backend.model_hash = sidecar.hash
    return backend


def batches(profiles: tuple[int, ...]) -> tuple[int, ...]:
    """Rows of the ticks to make ready: the profiles' own, and the powers of two between them."""
    powers = (1 << k for k in range(profiles[-1].bit_length()))
    return tuple(sorted({*profiles, *powers}))
