"""TensorRT without a GPU: contexts that compute on the CPU behind the addresses and shapes that a real one is given."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import Tensor

from export.trt_step import ArenaStep
from models.arena import EncoderArena
from models.config import ModelConfig
from models.transducer import Model
from streamer.backends.ort import options_for
from streamer.backends.trt_engine import Engine
from streamer.backends.trt_folder import PRECISIONS, Plan, Port, Sidecar, config_hash, most_slots, ports, profiles_of

Compute = Callable[[dict[str, Tensor]], list[Tensor]]
BUCKETS = (1, 4, 8)


def sidecar_of(config: ModelConfig, precision: str = "fp32", **changes: object) -> Sidecar:
    """That of an export of all latencies by TensorRT 10.13 on an H200."""
    values: dict[str, object] = {
        "hash": "ab" * 32,
        "config": config_hash(config),
        "precision": precision,
        "flavour": "tensorrt",
        "version": "10.13.0.35",
        "compute_capability": "9.0",
        "slots": most_slots(config),
        "profiles": profiles_of(BUCKETS),
        "plans": tuple(Plan(chunk, f"step-{80 * chunk}ms.plan", 7) for chunk in sorted(config.chunks)),
        "built": "2026-11-21T22:00:00+00:00",
    }
    return Sidecar(**(values | changes))  # type: ignore[arg-type]


class Context:
    """Reads its inputs and writes its outputs at addresses, as TensorRT does, and as strictly."""

    def __init__(self, config: ModelConfig, chunk: int, precision: str, compute: Compute) -> None:
        self._ports, self._compute = ports(config, chunk, precision), compute
        self.profile: int | None = None
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.runs = 0

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        self.profile = profile_index
        return stream_handle == 0

    def set_device_memory(self, memory: int, size: int) -> None:
        assert memory > 0
        assert size > 0

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shapes[name] = shape
        return name in {port.name for port in self._ports.inputs} and self.profile is not None

    def set_tensor_address(self, name: str, memory: int) -> bool:
        assert name not in self.addresses, "addresses are set once"
        self.addresses[name] = memory
        return name in self._ports.names

    def execute_async_v3(self, stream_handle: int) -> bool:
        assert self.addresses.keys() == self._ports.names
        rows = self.shapes["mel"][0]
        fewest, most = profiles_of(BUCKETS)[self.profile or 0]
        assert fewest <= rows <= most, "the shape is outside of the profile"
        inputs = {port.name: self._tensor(port, self.shapes[port.name]) for port in self._ports.inputs}
        for port, value in zip(self._ports.out, self._compute(inputs), strict=True):
            there = self._tensor(port, port.shape(rows))
            assert value.dtype == there.dtype
            assert value.shape == there.shape
            there.copy_(value)
        self.runs += 1
        return stream_handle == 0

    def _tensor(self, port: Port, shape: tuple[int, ...]) -> Tensor:
        """What lies at the tensor's address, shared."""
        dtype = getattr(torch, port.dtype)
        size = int(np.prod(shape)) * dtype.itemsize
        raw = (ctypes.c_uint8 * size).from_address(self.addresses[port.name])
        return torch.frombuffer(raw, dtype=torch.uint8).view(dtype).view(shape)


def engine(config: ModelConfig, chunk: int, precision: str, compute: Compute) -> Engine:
    """An engine whose contexts compute with `compute`."""
    memory = tuple(256 for _ in BUCKETS)
    return Engine(lambda: Context(config, chunk, precision, compute), memory, ports(config, chunk, precision).names)


def in_torch(model: Model, chunk: int, precision: str = "fp32") -> Compute:
    """The module that is exported, run by torch."""
    step = ArenaStep(model, chunk, getattr(torch, PRECISIONS[precision]))
    known = ports(model.config, chunk, precision)

    def compute(inputs: dict[str, Tensor]) -> list[Tensor]:
        with torch.inference_mode():
            scores, count, state = step(inputs["mel"], [inputs[port.name] for port in known.tick[1:]], *grouped(inputs))
        return [scores, count, *state]

    return compute


def in_onnxruntime(graph: Path) -> Compute:
    """The exported graph, run by ONNX Runtime."""
    session = onnxruntime.InferenceSession(graph, options_for(1), providers=["CPUExecutionProvider"])

    def compute(inputs: dict[str, Tensor]) -> list[Tensor]:
        fed = {name: value.numpy() for name, value in inputs.items()}
        return [torch.from_numpy(array) for array in session.run(None, fed)]

    return compute


def grouped(inputs: dict[str, Tensor]) -> list[list[Tensor]]:
    """The arena as the step's arguments: tails, conv, keys, values."""
    tails = [inputs[name] for name in ("mel_tail", "sub1", "sub2")]
    return [tails, *([t for n, t in inputs.items() if n.startswith(f"{kind}.")] for kind in ("conv", "keys", "values"))]


def new_arena(config: ModelConfig, slots: int, precision: str = "fp32") -> dict[str, Tensor]:
    """A device's arena of slots, spare one included, full of old numbers."""
    arena = EncoderArena.zeros(config, slots, getattr(torch, PRECISIONS[precision]), torch.device("cpu")).rows()
    old = torch.Generator().manual_seed(1)
    for tensor in arena.values():
        tensor.copy_(torch.randn(tensor.shape, generator=old))
    return arena
