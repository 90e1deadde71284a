"""Backend on PyTorch: the model itself on the CPU, as the reference for the others, or arenas and graphs on a GPU."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models.config import ConfigError
from models.features_np import StreamingFeatures
from models.fingerprint import fingerprint
from models.nemo_archive import ModelFileError
from models.state import EncoderState
from models.store import load as load_model
from models.tick import DeviceModel, TorchEncoder
from models.tokenizer import Tokenizer
from models.transducer import Model
from streamer.backends import Place
from streamer.backends.arena import LAYERED
from streamer.backends.base import Backend, BackendError
from streamer.backends.cpu import CpuBackend
from streamer.backends.device import PRECISIONS, DeviceBackend, Options
from streamer.decoding import Floats, Ints, Networks


class TorchBackend(CpuBackend):
    """Gathers the rows' state, runs the model's own forward, and scatters the state back: any list of slots."""

    name = "pytorch"
    contiguous = False

    def __init__(self, model: Model, tokenizer: Tokenizer, slots: int) -> None:
        self._model = model.eval().requires_grad_(False)
        buffers = model.preprocessor.featurizer
        features = StreamingFeatures(model.config.mels, buffers.fb[0].numpy(), buffers.window.numpy())
        networks = networks_of(model) if model.config.transducer else None
        super().__init__(model.config, tokenizer, features, networks, slots)
        self.model_hash = fingerprint(model)

    def _encode(self, chunk: int, slots: Ints, mel: Floats, valid: Ints, last: Ints) -> tuple[Floats, Ints]:
        context = self.config.context_of(chunk)
        flags = torch.from_numpy(np.asarray(last, np.bool_))
        with torch.inference_mode():
            old = self._state(slots)
            y, new, count = self._model.encoder(torch.from_numpy(mel), old, torch.from_numpy(valid), flags, context)
            y = self._model.with_prompt(y, torch.from_numpy(self.arena.prompt[slots]))
            scores = self._model.joint.enc(y) if self.config.transducer else self._model.ctc(y)
        self._keep(slots, new)
        return scores.numpy(), count.numpy()

    def _state(self, slots: Ints) -> EncoderState:
        rows = {name: torch.from_numpy(array[slots]) for name, array in self.arena.model.items()}
        layered = {kind: tuple(rows[f"{kind}.{i}"] for i in range(self.config.layers)) for kind in LAYERED}
        frames = torch.from_numpy(self.arena.frames[slots])
        return EncoderState(mel=rows["mel_tail"], sub1=rows["sub1"], sub2=rows["sub2"], frames=frames, **layered)

    def _keep(self, slots: Ints, state: EncoderState) -> None:
        kept: dict[str, Tensor] = {"mel_tail": state.mel, "sub1": state.sub1, "sub2": state.sub2}
        for kind in LAYERED:
            kept |= {f"{kind}.{layer}": tensor for layer, tensor in enumerate(getattr(state, kind))}
        for name, tensor in kept.items():
            self.arena.model[name][slots] = tensor.numpy()


def load(model_path: Path, slots: int, threads: int = 1, place: Place | None = None) -> Backend:
    """The backend for a .nemo file or a model folder. `threads` is the process's, as torch has it.

    Without a place: bf16 on the GPU where torch sees one, else fp32 on the CPU. What a place names is never replaced.
    """
    place = place or Place()
    if threads < 1:
        raise BackendError("threads", threads, "1 or more")
    torch.set_num_threads(threads)
    where = device_of(place.device)
    dtype = dtype_of(place.precision, where)
    try:
        model, tokenizer = load_model(model_path)
    except (ModelFileError, ConfigError) as error:
        raise BackendError("model", str(error), "a checkpoint that can be read") from error
    if where.type == "cpu":
        return TorchBackend(model, tokenizer, slots)
    return on_device(model, tokenizer, (where, dtype), Options(slots))


def on_device(
    model: Model, tokenizer: Tokenizer, place: tuple[torch.device, torch.dtype], options: Options
) -> DeviceBackend:
    """A loaded model over arenas on a device; on a CPU device for tests of everything but the GPU itself."""
    device, dtype = place
    exact_float32()
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():  # kernels go where we are
        backend = DeviceBackend("pytorch", DeviceModel(model, dtype, device), tokenizer, TorchEncoder, options)
    backend.model_hash = fingerprint(model)
    return backend


def exact_float32() -> None:
    """float32 means float32: features and the search are exact to rounding, and so is a model in fp32."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False  # else sums differ by the batch's size


def device_of(name: str) -> torch.device:
    """The device that a name asks for; raises BackendError where there is none."""
    if name in ("", "cpu"):
        return torch.device("cuda" if not name and torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise BackendError("device", name, "cpu, cuda or cuda:N") from None
    if device.type != "cuda":
        raise BackendError("device", name, "cpu, cuda or cuda:N")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if (device.index or 0) >= count:
        raise BackendError("device", name, f"one of the {count} GPUs that torch {torch.__version__} sees")
    return device


def dtype_of(precision: str, device: torch.device) -> torch.dtype:
    """The type of products on a device; raises BackendError for one that it does not compute in."""
    known = ("fp32", "bf16") if device.type == "cuda" else ("fp32",)
    if precision not in ("", *known):
        raise BackendError("precision", precision, f"{' or '.join(known)} on {device.type}")
    return PRECISIONS[precision or known[-1]]


def networks_of(model: Model) -> Networks:
    """The model's predictor and joint for the decoder, which speaks NumPy with rows first."""

    def predict(labels: Ints, h: Floats, c: Floats) -> tuple[Floats, Floats, Floats]:
        with torch.inference_mode():
            rows = (torch.from_numpy(array).transpose(0, 1).contiguous() for array in (h, c))
            g, new_h, new_c = model.predict(torch.from_numpy(labels), *rows)
        return g.numpy(), new_h.transpose(0, 1).numpy(), new_c.transpose(0, 1).numpy()

    def logits(f: Floats, g: Floats) -> Floats:
        with torch.inference_mode():
            result: Floats = model.joint(torch.from_numpy(f), torch.from_numpy(g)).numpy()
        return result

    return Networks(predict, logits)
