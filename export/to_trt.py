"""A streaming model as a folder of TensorRT engines, one for each latency, and what a runtime must know of them.

Knows nothing of how engines are run. TensorRT is imported when a folder is made, whichever flavour is installed.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from export.folders import swap
from export.trt_step import ArenaStep
from models.config import FRAME_MS, ConfigError, ModelConfig
from models.fingerprint import fingerprint
from models.store import CONFIG, TOKENIZER, load
from models.tokenizer import Tokenizer
from models.transducer import Model
from streamer.backends.base import BackendError
from streamer.backends.trt_folder import (
    FEWEST_SLOTS,
    FLAVOURS,
    PRECISIONS,
    SIDECAR,
    WEIGHTS,
    Plan,
    Port,
    Ports,
    Sidecar,
    config_hash,
    most_slots,
    ports,
    profiles_of,
)
from streamer.backends.trt_open import logger_of, module_of

OPSET = 18  # the exporter's own: nothing in the step is newer, and every TensorRT since 10.0 reads it
BUCKETS = (1, 8, 64, 256, 1024)  # rows
TYPICAL_SLOTS = 256  # what kernels are timed with: the build must not need the memory of a full arena
_EXAMPLE_ROWS, _EXAMPLE_SLOTS = 3, 5


@dataclass(frozen=True, slots=True)
class Options:
    """What to build. Latencies in ms; none named: all that the model has."""

    precision: str = "fp16"
    latencies_ms: tuple[int, ...] = ()
    buckets: tuple[int, ...] = BUCKETS
    keep_onnx: bool = False
    timing_cache: Path | None = None  # a folder


def export_model(model_path: str | Path, out: str | Path, options: Options) -> Path:
    """Load the model at `model_path` and write its folder of engines to `out`; returns `out`."""
    model, tokenizer = load(model_path)
    return export(model, tokenizer, out, options)


def export(model: Model, tokenizer: Tokenizer, out: str | Path, options: Options) -> Path:
    """Write the folder of a loaded model; it appears at `out` whole or not at all."""
    chunks = chunks_of(model.config, options)
    builder = Builder.here()
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        plans = [_write_plan(model, chunk, work, (builder, options)) for chunk in chunks]
        mark = fingerprint(model)
        _write_model(model, tokenizer, work, mark)
        about = builder.sidecar(model.config, mark, plans, options)
        (work / SIDECAR).write_text(about.to_json(), encoding="utf-8")
        swap(work, out, ours_in(out))
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return out


def chunks_of(config: ModelConfig, options: Options) -> list[int]:
    """The chunk lengths to build, in frames; a ConfigError or BackendError for what cannot be built."""
    if options.precision not in PRECISIONS:
        raise ConfigError("precision", options.precision, "one of " + ", ".join(PRECISIONS) + " for TensorRT")
    if not config.streaming:
        raise ConfigError("model", config.name, "a streaming model; this one hears whole files (--latency offline)")
    profiles_of(options.buckets)
    return sorted({config.chunk_of(latency) for latency in options.latencies_ms or config.latencies_ms})


def ours_in(folder: Path) -> frozenset[str]:
    """The files in a folder that an earlier export wrote and the next one replaces; all else stays."""
    fixed = {SIDECAR, WEIGHTS, CONFIG, TOKENIZER, "features.npz"}
    found = {path.name for path in folder.glob("step-*ms.*")} if folder.is_dir() else set()
    return frozenset(fixed | found)


def step_onnx(model: Model, chunk: int, precision: str, path: Path) -> Ports:
    """Write the step for chunks of `chunk` frames as a graph whose casts are all its own; large weights beside it."""
    known = ports(model.config, chunk, precision)
    step = ArenaStep(model, chunk, getattr(torch, PRECISIONS[precision])).eval()
    groups = [[port for port in known.arena if port.name.split(".")[0] in kinds] for kinds in _GROUPS]
    example = _zeros(known.tick, _EXAMPLE_ROWS)
    arena = [_zeros(group, _EXAMPLE_SLOTS) for group in groups]
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            step,
            (example[0], example[1:], *arena),
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes=_dynamic(len(example) - 1, list(map(len, groups))),
            input_names=[port.name for port in known.inputs],
            output_names=[port.name for port in known.out],
            verbose=False,
        )
    assert program is not None
    _forget_sources(program.model)
    program.save(path)
    return known


def _zeros(some: Sequence[Port], count: int) -> list[torch.Tensor]:
    return [torch.zeros(port.shape(count), dtype=getattr(torch, port.dtype)) for port in some]


def _dynamic(counters: int, groups: list[int]) -> tuple[Any, ...]:
    """The first dimension of each argument: rows of a tick, slots of the arena, frames in all rings."""
    rows, slots = torch.export.Dim("rows", min=1, max=1 << 16), torch.export.Dim("slots", min=2, max=1 << 20)
    lines = torch.export.Dim("lines", min=2, max=1 << 40)
    tails, conv, keys, values = groups
    tick, arena = ({0: rows}, [{0: rows}] * counters), ([{0: slots}] * tails, [{0: slots}] * conv)
    return *tick, *arena, [{0: lines}] * keys, [{0: lines}] * values


def _forget_sources(model: Any) -> None:
    """The exporter notes source lines and paths of the machine it ran on at every node."""
    made = [value for node in model.graph for value in node.outputs]
    for part in (model, model.graph, *model.graph, *model.graph.inputs, *made):
        part.metadata_props.clear()


@dataclass(frozen=True, slots=True)
class Builder:
    """TensorRT as it is here. Compute capability as "9.0"; None where engines are compiled when they are loaded."""

    module: Any
    flavour: str
    capability: str | None

    @classmethod
    def here(cls) -> Builder:
        """The installed flavour; TensorRT itself builds on the kind of GPU that will run its engines."""
        module, flavour = module_of()
        if flavour == "tensorrt_rtx":
            return cls(module, flavour, None)
        if not torch.cuda.is_available():
            raise BackendError("GPU", "none", f"the one that is to run the engines: {FLAVOURS[flavour]} builds on it")
        return cls(module, flavour, ".".join(map(str, torch.cuda.get_device_capability())))

    def build(self, graph: Path, known: Ports, slots: int, options: Options) -> Any:
        """The engine of an ONNX file as a buffer of bytes."""
        trt, logger = self.module, logger_of(self.module)
        builder = trt.Builder(logger)
        network = builder.create_network(self._network_flags())
        parser = trt.OnnxParser(network, logger)  # of a network that nobody holds it crashes
        if not parser.parse_from_file(str(graph)):
            reasons = "; ".join(str(parser.get_error(i)) for i in range(parser.num_errors))
            raise BackendError(graph.name, reasons[:500], f"a graph that {FLAVOURS[self.flavour]} supports as a whole")
        config = builder.create_builder_config()
        if options.precision == "fp32":
            config.clear_flag(trt.BuilderFlag.TF32)  # 10 bits of mantissa are not what was asked for
        if hasattr(trt.BuilderFlag, "REQUIRE_USER_ALLOCATION"):
            config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)  # no allocation in a run, so it can be captured
        for fewest, most in profiles_of(options.buckets):
            profile = builder.create_optimization_profile()
            for port in known.tick:
                profile.set_shape(port.name, port.shape(fewest), port.shape(most), port.shape(most))
            typical = min(slots, TYPICAL_SLOTS)
            for port in known.arena:
                profile.set_shape(port.name, port.shape(FEWEST_SLOTS), port.shape(typical), port.shape(slots))
            config.add_optimization_profile(profile)
        cache = self.timing_cache(options)
        use_cache(config, cache)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise BackendError(graph.name, "no engine", "one that TensorRT can build; its own words are in the log")
        keep_cache(config, cache)
        return plan

    def _network_flags(self) -> int:
        flags = self.module.NetworkDefinitionCreationFlag
        return 1 << int(flags.STRONGLY_TYPED) if hasattr(flags, "STRONGLY_TYPED") else 0

    def timing_cache(self, options: Options) -> Path | None:
        """The file of kernel timings of this version on this GPU; TensorRT-RTX times nothing and has none."""
        if options.timing_cache is None or self.flavour == "tensorrt_rtx":
            return None
        return options.timing_cache / f"{self.flavour}-{self.module.__version__}-{self.capability}.timing"

    def sidecar(self, config: ModelConfig, mark: str, plans: Sequence[Plan], options: Options) -> Sidecar:
        """What the engines of a model are; `mark` is its fingerprint."""
        return Sidecar(
            hash=mark,
            config=config_hash(config),
            precision=options.precision,
            flavour=self.flavour,
            version=str(self.module.__version__),
            compute_capability=self.capability,
            slots=most_slots(config),
            profiles=profiles_of(options.buckets),
            plans=tuple(plans),
            built=datetime.now(UTC).isoformat(timespec="seconds"),
        )


def use_cache(config: Any, path: Path | None) -> None:
    if path is not None:
        known = path.read_bytes() if path.is_file() else b""
        config.set_timing_cache(config.create_timing_cache(known), ignore_mismatch=False)


def keep_cache(config: Any, path: Path | None) -> None:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + ".part")
        part.write_bytes(config.get_timing_cache().serialize())
        os.replace(part, path)


def _write_plan(model: Model, chunk: int, folder: Path, how: tuple[Builder, Options]) -> Plan:
    builder, options = how
    name = f"step-{FRAME_MS * chunk}ms"
    graph, path = folder / f"{name}.onnx", folder / f"{name}.plan"
    known = step_onnx(model, chunk, options.precision, graph)
    path.write_bytes(builder.build(graph, known, most_slots(model.config), options))
    if not options.keep_onnx:
        for left in folder.glob(f"{name}.onnx*"):
            left.unlink()
    return Plan(chunk, path.name, path.stat().st_size)


def _write_model(model: Model, tokenizer: Tokenizer, folder: Path, mark: str) -> None:
    """Configuration and tokenizer as a model folder has them, the front end's numbers, the decoder's weights."""
    (folder / CONFIG).write_text(json.dumps(model.config.to_dict(), indent=1, ensure_ascii=False), encoding="utf-8")
    if tokenizer.kind == "sentencepiece":
        (folder / TOKENIZER).write_bytes(tokenizer.to_bytes())
    buffers = model.preprocessor.featurizer
    np.savez(folder / "features.npz", fb=buffers.fb[0].numpy(), window=buffers.window.numpy())
    parts = ("decoder.", "joint.") if model.config.transducer else ()
    weights = {name: value.detach() for name, value in model.state_dict().items() if name.startswith(parts)}
    plain = {name: value.float().contiguous().clone() for name, value in weights.items()}
    save_file(plain, folder / WEIGHTS, metadata={"hash": mark})
    (folder / WEIGHTS).chmod(0o644)  # it is kept to its owner; a daemon often runs as somebody else


_GROUPS = ({"mel_tail", "sub1", "sub2"}, {"conv"}, {"keys"}, {"values"})  # the step's arguments after the counters
