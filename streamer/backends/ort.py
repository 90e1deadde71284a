"""Backend on ONNX Runtime's CPU kernels: the exported folder, its state updated in place. Knows nothing of torch."""

from __future__ import annotations

import copy
import json
import platform
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from models.config import ConfigError, ModelConfig
from models.features_np import StreamingFeatures
from models.tokenizer import Tokenizer
from streamer.backends.arena import LAYERED, Array
from streamer.backends.base import BackendError
from streamer.backends.cpu import CpuBackend
from streamer.decoding import Floats, Ints, Networks

FORMAT = 3  # of artefact.json
MOST_IDLE = 8  # a gap of more idle slots than this is cheaper stepped around than through, surely
MOST_BINDINGS = 64
LEAST_SLOTS = 2  # of a lane: a stream and a copy of it
# The runtime's kernel for a sum with a norm takes five times as long as the two (docs/log.md).
SLOW_REWRITES = ["SkipLayerNormFusion"]


@dataclass(frozen=True, slots=True)
class Binding:
    """One session's inputs and outputs for a range of slots and a chunk length; state is bound where it lies."""

    io: Any
    inputs: dict[str, Array]
    outputs: dict[str, Array]


class OrtBackend(CpuBackend):
    """Steps contiguous ranges of slots; slots of a range without a chunk stand still."""

    name = "ort"
    contiguous = True

    def __init__(self, folder: Path, slots: int, threads: int) -> None:
        about, config = _read_about(folder), _read_config(folder)
        options = options_for(threads)
        self._session = _session(folder / "step.onnx", options)
        networks = networks_of(folder, options) if config.transducer else None
        tokenizer, features = _read_tokenizer(folder, config), _read_features(folder, config)
        super().__init__(config, tokenizer, features, networks, slots, _state_shapes(self._session))
        # Written beside, then copied: their inputs are still read after their outputs.
        self._small = [name for name in self.arena.model if name.split(".")[0] not in LAYERED]
        self.precision, self.model_hash = about["precision"], about["hash"]
        self._bindings: OrderedDict[tuple[int, int, int, int], Binding] = OrderedDict()

    def lanes(self, count: int) -> Sequence[OrtBackend]:
        """As many over the same sessions, which any number of threads may run."""
        parts = [copy.copy(self) for _ in range(max(1, min(count, self.slots // LEAST_SLOTS)))]
        for part in parts:
            part.slots = -(-self.slots // len(parts))
            part.arena = part._arena(slots=part.slots)
            part._bindings = OrderedDict()
        return parts

    def forget(self) -> None:
        """The state's memory, and what the runtime kept of its widest step."""
        super().forget()
        self._bindings.clear()
        options = onnxruntime.RunOptions()
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        shortest = min(self.config.chunks)
        self._session.run_with_iobinding(self._bound(0, 1, shortest, shortest).io, options)
        super().forget()
        self._bindings.clear()

    def close(self) -> None:
        """Drop the sessions and what is bound to them."""
        super().close()
        self._bindings.clear()
        self._session = None

    def _encode(self, chunk: int, slots: Ints, mel: Floats, valid: Ints, last: Ints) -> tuple[Floats, Ints]:
        parts = [self._encode_range(chunk, slots[rows], mel[rows], valid[rows], last[rows]) for rows in _ranges(slots)]
        if len(parts) == 1:
            return parts[0]
        return np.concatenate([scores for scores, _ in parts]), np.concatenate([counts for _, counts in parts])

    def _encode_range(self, chunk: int, slots: Ints, mel: Floats, valid: Ints, last: Ints) -> tuple[Floats, Ints]:
        start, count = int(slots[0]), int(slots[-1] - slots[0]) + 1
        bound = self._bound(start, count, chunk, mel.shape[1] // 8)
        at, arena = slots - start, self.arena
        inputs, outputs = bound.inputs, bound.outputs
        for name, rows in {"active": True, "mel": mel, "valid": valid, "last": last}.items():
            inputs[name][:] = 0  # idle rows write K/V too: of old numbers a NaN would stay in a live stream's ring
            inputs[name][at] = rows
        self._session.run_with_iobinding(bound.io)
        for name in self._small:
            arena.model[name][slots] = outputs[f"new_{name}"][at]
        return outputs["scores"][at], outputs["count"][at]

    def _bound(self, start: int, count: int, chunk: int, new: int) -> Binding:
        key = (start, count, chunk, new)
        if key in self._bindings:
            self._bindings.move_to_end(key)
            return self._bindings[key]
        if len(self._bindings) >= MOST_BINDINGS:
            self._bindings.popitem(last=False)
        self._bindings[key] = self._bind(slice(start, start + count), chunk, new)
        return self._bindings[key]

    def _bind(self, rows: slice, chunk: int, new: int) -> Binding:
        arena, config, count = self.arena, self.config, rows.stop - rows.start
        width = config.joint_hidden if config.transducer else config.vocab_size + 1
        inputs: dict[str, Array] = {
            "mel": np.zeros((count, 8 * new, config.mels), np.float32),
            "valid": np.zeros(count, np.int64),
            "last": np.zeros(count, np.bool_),
            "active": np.zeros(count, np.bool_),
            "left": np.full(count, config.context_of(chunk)[0], np.int64),
            "chunk": np.full(count, chunk, np.int64),
        }
        outputs: dict[str, Array] = {
            "scores": np.zeros((count, new, width), np.float32),
            "count": np.zeros(count, np.int64),
            **{f"new_{name}": np.zeros_like(arena.model[name][rows]) for name in self._small},
        }
        state = {name: array[rows] for name, array in arena.model.items()}
        in_place = {f"new_{name}": array for name, array in state.items() if name.split(".")[0] in LAYERED}
        lying: dict[str, Array] = {**state, "frames": arena.frames[rows], "prompt": arena.prompt[rows]}
        wanted = {value.name for value in self._session.get_inputs()}
        io = self._session.io_binding()
        given: dict[str, Array] = inputs | lying
        for name, array in given.items():
            if name in wanted:
                io.bind_ortvalue_input(name, _value(array))
        for name, array in {**outputs, **in_place}.items():
            io.bind_ortvalue_output(name, _value(array))
        return Binding(io, inputs, outputs)


def _state_shapes(session: Any) -> dict[str, tuple[int, ...]]:
    """The state that the graph takes and gives back, without the rows."""
    given_back = {value.name.removeprefix("new_") for value in session.get_outputs()}
    return {value.name: tuple(value.shape[1:]) for value in session.get_inputs() if value.name in given_back}


def load(model_path: Path, slots: int, threads: int = 1) -> OrtBackend:
    """The backend for an exported folder."""
    if not (model_path / "artefact.json").is_file():
        raise BackendError("model", model_path, "a folder made by `streamer export` (it has an artefact.json)")
    return OrtBackend(model_path, slots, threads)


def _ranges(slots: Ints) -> list[slice]:
    """Cut ascending slots where more than MOST_IDLE idle ones lie between two."""
    cuts = (np.flatnonzero(np.diff(slots) > MOST_IDLE + 1) + 1).tolist()
    return [slice(a, b) for a, b in zip([0, *cuts], [*cuts, len(slots)], strict=True)]


def _value(array: Array) -> Any:
    """The runtime's view of memory that NumPy owns; the arena outlives it."""
    assert array.flags.c_contiguous
    value = onnxruntime.OrtValue.ortvalue_from_numpy(array)
    assert value.data_ptr() == array.ctypes.data, "the runtime copied what it was to share"
    return value


def options_for(threads: int) -> Any:
    """How sessions run here: as many threads as told, none of them spinning."""
    if threads < 1:
        raise BackendError("threads", threads, "1 or more")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # the cores belong to others too
    if products_overflow():  # int8 weights become unsigned: exact, and slower
        options.add_session_config_entry("session.x64quantprecision", "1")
    options.log_severity_level = 3
    return options


def products_overflow() -> bool:
    """Whether this processor adds two products of bytes in 16 bits, too few for them: x86 without VNNI."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    try:
        return "vnni" not in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return True


def _session(path: Path, options: Any) -> Any:
    try:
        return onnxruntime.InferenceSession(
            path, options, providers=["CPUExecutionProvider"], disabled_optimizers=SLOW_REWRITES
        )
    except Exception as error:  # the runtime has a dozen types for "cannot load this file"
        raise BackendError(
            f"{path.parent.name}/{path.name}", str(error)[:200], "a graph this runtime can load"
        ) from error


def networks_of(folder: Path, options: Any) -> Networks:
    """The exported predictor and joint for the decoder."""
    predictor, joint = (_session(folder / f"{name}.onnx", options) for name in ("predictor", "joint"))

    def predict(labels: Ints, h: Floats, c: Floats) -> tuple[Floats, Floats, Floats]:
        g, new_h, new_c = predictor.run(["g", "new_h", "new_c"], {"label": labels, "h": h, "c": c})
        return g, new_h, new_c

    def logits(f: Floats, g: Floats) -> Floats:
        result: Floats = joint.run(["logits"], {"f": f, "g": g})[0]
        return result

    return Networks(predict, logits)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BackendError(
            f"{path.parent.name}/{path.name}", f"{type(error).__name__}", "a readable JSON file"
        ) from error
    if not isinstance(values, dict):
        raise BackendError(f"{path.parent.name}/{path.name}", type(values).__name__, "a JSON object")
    return values


def _read_about(folder: Path) -> dict[str, Any]:
    """artefact.json: what kind of export this is, and of which model."""
    about = _read_json(folder / "artefact.json")
    if about.get("format") != FORMAT:
        raise BackendError(f"{folder.name}/artefact.json format", about.get("format"), f"{FORMAT}; export it again")
    for name in ("precision", "hash"):
        if not isinstance(about.get(name), str):
            raise BackendError(f"{folder.name}/artefact.json {name}", about.get(name), "a string; export it again")
    return about


def _read_config(folder: Path) -> ModelConfig:
    try:
        return ModelConfig.from_dict(_read_json(folder / "config.json"))
    except ConfigError as error:
        raise BackendError(f"{folder.name}/config.json", str(error), "the configuration of a model") from error


def _read_tokenizer(folder: Path, config: ModelConfig) -> Tokenizer:
    name = "tokenizer.model" if config.tokenizer == "sentencepiece" else "tokenizer.json"
    try:
        tokenizer = Tokenizer.from_bytes(config.tokenizer, (folder / name).read_bytes())
    except (OSError, ValueError) as error:
        raise BackendError(f"{folder.name}/{name}", str(error)[:200], "the model's tokenizer") from error
    if tuple(tokenizer.pieces) != config.labels:
        got = f"{len(tokenizer.pieces)} pieces that are not config.json's labels"
        raise BackendError(f"{folder.name}/{name}", got, f"the model's own {config.vocab_size}")
    return tokenizer


def _read_features(folder: Path, config: ModelConfig) -> StreamingFeatures:
    path = folder / "features.npz"
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return StreamingFeatures(config.mels, arrays["fb"], arrays["window"])
    except (OSError, ValueError, KeyError) as error:
        raise BackendError(f"{folder.name}/{path.name}", str(error)[:200], "filterbank and window") from error
