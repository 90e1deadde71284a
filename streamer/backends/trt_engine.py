"""The encoder step on TensorRT: engines run over a device arena, the rows' new state written back.

Knows nothing of PCM, tokens, streams or files, and does not import TensorRT: engines come in as values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from models.config import SUBSAMPLING, ModelConfig
from models.tick import Rows
from streamer.backends.base import BackendError
from streamer.backends.trt_folder import CHANNELS_LAST, PRECISIONS, Port, Ports, Sidecar, layout, ports


class Context(Protocol):
    """What is used of TensorRT's IExecutionContext; addresses and streams are numbers."""

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool: ...

    def set_device_memory(self, memory: int, size: int) -> None: ...

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool: ...

    def set_tensor_address(self, name: str, memory: int) -> bool: ...

    def execute_async_v3(self, stream_handle: int) -> bool: ...


@dataclass(frozen=True, slots=True)
class Engine:
    """One latency's engine."""

    new_context: Callable[[], Context]  # without memory of its own
    memory: tuple[int, ...]  # bytes that a context needs, by optimisation profile
    names: frozenset[str]  # of its tensors


@dataclass(frozen=True, slots=True)
class Bound:
    """A context for one batch and chunk; its shapes and addresses never change again."""

    where: str  # for messages
    context: Context
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]
    memory: Tensor  # what the context works in


class EngineStep:
    """The StepEncoder of models/tick.py on engines over one arena.

    What `encode` returns is good until the next `encode`: all batches share their memory.
    """

    def __init__(
        self, config: ModelConfig, sidecar: Sidecar, engines: Mapping[int, Engine], arena: Mapping[str, Tensor]
    ) -> None:
        """engines by chunk. arena: as models.arena.EncoderArena.rows() gives it, in the engines' precision."""
        self._config, self._sidecar, self._engines = config, sidecar, dict(engines)
        self._slots, self._device = arena["mel_tail"].shape[0], arena["mel_tail"].device
        sidecar.check_slots(self._slots)
        self._ports = {chunk: ports(config, chunk, sidecar.precision) for chunk in self._engines}
        for chunk, engine in self._engines.items():
            _check_names(chunk, engine, self._ports[chunk])
        named = {port.name: port for known in self._ports.values() for port in known.arena}
        self._arena = {name: _table(arena, port, self._slots) for name, port in named.items()}
        self._bound: dict[tuple[int, int], Bound] = {}
        self._tensors = self._memory = torch.empty(0, dtype=torch.uint8, device=self._device)

    def prepare(self, rows: int, chunk: int) -> None:
        """Make the context of a batch and run it once, without effect on the arena: what has to precede a capture.

        The largest batch goes first, so that the others find its memory large enough.
        """
        if (rows, chunk) in self._bound:
            return
        plan, profile = self._sidecar.plan_of(chunk), self._sidecar.profile_of(rows)
        if plan.chunk not in self._engines:
            there = ", ".join(map(str, sorted(self._engines)))
            raise BackendError("chunk", f"{chunk} frames", f"one whose engine was opened: {there}")
        if self._device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            known = ", ".join(f"{rows} x {chunk}" for rows, chunk in sorted(self._bound)) or "none"
            expected = f"one that ran before it was captured: {known}"
            raise BackendError("batch", f"{rows} rows of {chunk} frames", expected)
        with torch.inference_mode(False):  # what is made within could only be written to within
            bound = self._bind(rows, chunk, profile)
            for buffer in bound.inputs.values():
                buffer.zero_()  # slot 0, no frame done: numbers that an engine can run with
        self._run(bound)  # TensorRT wants one run after each change of shapes
        self._finish()
        self._bound[rows, chunk] = bound

    def encode(self, mel: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
        """One chunk of each row: mel (B, 8C, mels) float32 -> scores (B, C, width) float32, frames that count (B,).

        Enqueues on torch's current stream and waits for nothing, so that it can be captured in a CUDA graph once a
        batch of this size was prepared, or ran.
        """
        batch, chunk = mel.shape[0], mel.shape[1] // SUBSAMPLING
        self.prepare(batch, chunk)
        bound = self._bound[batch, chunk]
        counters = {"slots": rows.slots, "frames": rows.frames, "valid": rows.valid, "last": rows.last}
        for name, values in {"mel": mel, **counters, "prompt": rows.prompts}.items():
            if name in bound.inputs:
                bound.inputs[name].copy_(values)
        self._run(bound)
        self._write(bound, rows, chunk)
        return bound.outputs["scores"], bound.outputs["count"].long()

    def _bind(self, rows: int, chunk: int, profile: int) -> Bound:
        known, where = self._ports[chunk], f"engine of {chunk} frames, {rows} rows"
        context = self._engines[chunk].new_context()
        _expect(context.set_optimization_profile_async(profile, self._stream()), where, f"profile {profile}")
        self._finish()
        offsets, size = layout(known.tick + known.out, rows)
        self._tensors = self._at_least(self._tensors, size)
        self._memory = self._at_least(self._memory, self._engines[chunk].memory[profile])
        if self._memory.numel():
            context.set_device_memory(self._memory.data_ptr(), self._memory.numel())
        views = {port.name: self._view(port, offsets[port.name], rows) for port in known.tick + known.out}
        shapes = {port.name: port.shape(rows) for port in known.tick}
        shapes |= {port.name: port.shape(self._slots) for port in known.arena}
        for name, shape in shapes.items():
            _expect(context.set_input_shape(name, shape), where, f"{name} of shape {shape}")
        lying = views | {port.name: self._arena[port.name] for port in known.arena}
        for name, tensor in lying.items():
            _expect(context.set_tensor_address(name, tensor.data_ptr()), where, f"the address of {name}")
        inputs = {port.name: views[port.name] for port in known.tick}
        outputs = {port.name: views[port.name] for port in known.out}
        return Bound(where, context, inputs, outputs, self._memory)

    def _at_least(self, block: Tensor, size: int) -> Tensor:
        """The block, or a larger one; contexts that were bound to the older one hold on to it."""
        return block if block.numel() >= size else torch.empty(size, dtype=torch.uint8, device=self._device)

    def _view(self, port: Port, offset: int, rows: int) -> Tensor:
        shape, dtype = port.shape(rows), getattr(torch, port.dtype)
        size = int(np.prod(shape)) * dtype.itemsize
        return self._tensors[offset : offset + size].view(dtype).view(shape)

    def _run(self, bound: Bound) -> None:
        if not bound.context.execute_async_v3(self._stream()):
            raise RuntimeError(f"{bound.where}: TensorRT did not run it; the log says why")

    def _write(self, bound: Bound, rows: Rows, chunk: int) -> None:
        """The rows' new state to where their slots have it. Padding rows meet in the spare slot, which nobody reads."""
        config = self._config
        slots = rows.slots
        frames = rows.frames[:, None] + torch.arange(chunk, device=self._device)
        lane = slots[:, None] * config.heads + torch.arange(config.heads, device=self._device)
        lines = (lane[:, :, None] * config.ring + (frames % config.ring)[:, None, :]).flatten()  # (B * heads * C,)
        for port in self._ports[chunk].arena:
            new = bound.outputs[f"new_{port.name}"]
            if port.places == 1:
                self._arena[port.name].index_copy_(0, slots, new)
            else:
                self._arena[port.name].index_copy_(0, lines, new.view(-1, config.head_dim))

    def _stream(self) -> int:
        """torch's current stream as TensorRT wants it; without a GPU there is none."""
        if self._device.type != "cuda":
            return 0
        return int(torch.cuda.current_stream(self._device).cuda_stream)

    def _finish(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.current_stream(self._device).synchronize()


def _check_names(chunk: int, engine: Engine, known: Ports) -> None:
    if engine.names != known.names:
        odd = sorted(engine.names ^ known.names)
        raise BackendError(f"engine of {chunk} frames", f"other tensors: {', '.join(odd[:5])}", "an export of today's")


def _table(arena: Mapping[str, Tensor], port: Port, slots: int) -> Tensor:
    """A tensor of the arena in the engine's shape, without a copy."""
    tensor, shape = arena[port.name], port.shape(slots)
    if port.name in CHANNELS_LAST:
        tensor = tensor.permute(0, 2, 3, 1)
    wanted = f"contiguous {port.dtype} of {np.prod(shape)} numbers"
    if tensor.dtype != getattr(torch, port.dtype) or tensor.numel() != np.prod(shape) or not tensor.is_contiguous():
        raise BackendError(f"arena {port.name}", f"{tensor.dtype} of shape {tuple(tensor.shape)}", wanted)
    return tensor.view(shape)


def _expect(done: bool, where: str, what: str) -> None:
    if not done:
        raise BackendError(where, f"a refusal of {what}", "TensorRT to accept it; its own words are in the log")


def state_dtype(sidecar: Sidecar) -> torch.dtype:
    """What the arena's encoder state has to be."""
    dtype: torch.dtype = getattr(torch, PRECISIONS[sidecar.precision])
    return dtype
