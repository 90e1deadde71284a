"""A streaming model as a folder of ONNX files: encoder step, predictor, joint, and what a runtime must know of them.

One step graph serves all latencies: batch and chunk are symbolic. Knows nothing of int8 beyond calling quantize.
"""

from __future__ import annotations

import contextlib
import copy
import gc
import json
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxscript
import torch
from torch import nn

from export.folders import swap
from export.fuse import fuse
from export.quantize import products, quantize_int8, quantize_large_int8, quantized_products
from export.step import JointStep, PredictorStep, Step, step_inputs, step_names
from models.config import ConfigError, ModelConfig
from models.fingerprint import fingerprint
from models.store import load
from models.tokenizer import Tokenizer
from models.transducer import Model

OPSET = 24  # the first with TensorScatter
IR_VERSION = 11  # what opset 24 belongs to
PRECISIONS = ("fp32", "int8")
FORMAT = 3  # 2: convolution inputs in rings; 3: some chunks of a row at once
MOST_INLINE_BYTES = 64 << 20  # larger weights lie beside the graph, where a runtime can map them
# Every name that an export may have: what an older one left under them goes, all else in the folder stays.
_GRAPHS = [f"{graph}.{kind}" for graph in ("step", "predictor", "joint") for kind in ("onnx", "weights")]
OURS = frozenset({"artefact.json", "config.json", "features.npz", "tokenizer.model", "tokenizer.json", *_GRAPHS})
_OPS = onnxscript.values.Opset("", OPSET)


def export_model(model_path: str | Path, out: str | Path, precision: str = "fp32") -> Path:
    """Load the model at `model_path` and write its ONNX folder to `out`; returns `out`."""
    model, tokenizer = load(model_path)
    return export(model, tokenizer, out, precision)


def export(model: Model, tokenizer: Tokenizer, out: str | Path, precision: str = "fp32") -> Path:
    """Write the ONNX folder of a loaded model; it appears at `out` whole or not at all."""
    check_exportable(model.config, precision)
    model = copy.deepcopy(model).eval().float().requires_grad_(False)
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    old = _about(out)
    work = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        _write(model, tokenizer, work, precision)
        _arrive(work, out, old)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return out


def check_exportable(config: ModelConfig, precision: str) -> None:
    """Refuse, in one sentence, what has no streaming step."""
    if precision not in PRECISIONS:
        raise ConfigError("precision", precision, "one of " + ", ".join(PRECISIONS))
    if not config.streaming:
        raise ConfigError("model", config.name, "a streaming model; this one hears whole files (--latency offline)")


def _write(model: Model, tokenizer: Tokenizer, folder: Path, precision: str) -> None:
    step = fuse(step_graph(model))
    if precision == "int8":
        step = quantize_int8(step)
        assert quantized_products(step) == products(model.config.layers), "a product was missed"
    _save(step, folder / "step.onnx")
    if model.config.transducer:
        for name, graph in {"predictor": predictor_graph(model), "joint": joint_graph(model)}.items():
            _save(quantize_large_int8(graph) if precision == "int8" else graph, folder / f"{name}.onnx")
    config = model.config
    (folder / "config.json").write_text(json.dumps(config.to_dict(), indent=1, ensure_ascii=False), encoding="utf-8")
    (folder / tokenizer_file(config)).write_bytes(tokenizer.to_bytes())
    buffers = model.preprocessor.featurizer
    np.savez(folder / "features.npz", fb=buffers.fb[0].numpy(), window=buffers.window.numpy())
    about = {"format": FORMAT, "precision": precision, "hash": fingerprint(model), "opset": OPSET}
    about["chunks"] = sorted(config.chunks)
    (folder / "artefact.json").write_text(json.dumps(about, indent=1), encoding="utf-8")


def tokenizer_file(config: ModelConfig) -> str:
    """SentencePiece models keep their usual name; label lists are JSON."""
    return "tokenizer.model" if config.tokenizer == "sentencepiece" else "tokenizer.json"


def _arrive(work: Path, out: Path, old: bytes | None) -> None:
    """Put the finished folder at `out`, unless the same has come there meanwhile: another process may be reading it."""
    try:
        if _about(out) in (old, None):
            _swap(work, out)
            return
    except OSError:  # it came while this one was being put there
        if _about(out) in (old, None):
            raise
    if _about(out) != _about(work):
        _swap(work, out)


def _about(folder: Path) -> bytes | None:
    """What an exported folder says it is: model, precision, format. None where there is no whole one."""
    try:
        return (folder / "artefact.json").read_bytes()
    except OSError:
        return None


def _swap(work: Path, out: Path) -> None:
    swap(work, out, OURS)


def _save(graph: onnx.ModelProto, path: Path) -> None:
    graph.ir_version = IR_VERSION
    _forget_sources(graph)
    weights, large = path.with_suffix(".weights"), graph.ByteSize() > MOST_INLINE_BYTES
    onnx.save(graph, path, save_as_external_data=large, location=weights.name, size_threshold=4096)
    if large:
        weights.chmod(0o644)  # onnx keeps it to its owner; a daemon often runs as somebody else


def _forget_sources(graph: onnx.ModelProto) -> None:
    """The exporter notes source lines and paths of the machine it ran on at every node."""
    for part in (graph, graph.graph, *graph.graph.node, *graph.graph.value_info, *graph.graph.initializer):
        part.ClearField("metadata_props")
    for part in (*graph.graph.input, *graph.graph.output):
        part.ClearField("metadata_props")


def step_graph(model: Model) -> onnx.ModelProto:
    """The encoder step with batch and chunk symbolic; `prompt` and `left` are inputs only where they differ."""
    config = model.config
    batch, chunk = torch.export.Dim("batch", min=1, max=4096), torch.export.Dim("chunk", min=1, max=max(config.chunks))
    rows, layers = {0: batch}, config.layers
    inputs, outputs = step_names(config)
    shapes = ({0: batch, 1: 8 * chunk}, (rows,) * 7, (rows,) * 2, [rows] * layers, [rows] * layers, [rows] * layers)
    example = max(2, max(config.chunks))
    if max(config.chunks) == 1:  # the exporter takes a size of 1 for a constant
        shapes, example = ({0: batch}, *shapes[1:]), 1
    graph = _to_onnx(Step(model), step_inputs(config, 3, example), shapes, inputs, outputs)
    read = {name for node in graph.graph.node for name in node.input}
    for value in [value for value in graph.graph.input if value.name in ("prompt", "left") and value.name not in read]:
        graph.graph.input.remove(value)
    return graph


def predictor_graph(model: Model) -> onnx.ModelProto:
    rows = {0: torch.export.Dim("rows", min=1, max=4096)}
    h, c = (tensor.transpose(0, 1).contiguous() for tensor in model.start(3))
    example = (torch.zeros(3, dtype=torch.int64), h, c)
    return _to_onnx(PredictorStep(model), example, (rows,) * 3, ["label", "h", "c"], ["g", "new_h", "new_c"])


def joint_graph(model: Model) -> onnx.ModelProto:
    rows = {0: torch.export.Dim("rows", min=1, max=1 << 20)}
    example = tuple(torch.zeros(3, model.config.joint_hidden) for _ in "fg")  # one tensor twice would be one input
    return _to_onnx(JointStep(model), example, (rows,) * 2, ["f", "g"], ["logits"])


def _ring_write(ring: Any, new: Any, at: Any, axis: int) -> Any:
    return _OPS.TensorScatter(ring, new, at, axis=axis, mode="circular")


def _heads_matmul(x: Any, y: Any, shape: Any, width: int, transposed: bool) -> Any:
    y = _OPS.Unsqueeze(y, [2])
    if transposed:
        y = _OPS.Transpose(y, perm=[0, 1, 2, 4, 3])
    return _OPS.Reshape(_OPS.MatMul(_OPS.Reshape(x, shape), y), _OPS.Constant(value_ints=[0, 0, -1, width]))


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """No search for cycles, which takes a third of the time of torch's exporter: it makes millions of objects."""
    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if on:
            gc.enable()


def _to_onnx(module: nn.Module, example: Any, shapes: Any, inputs: list[str], outputs: list[str]) -> onnx.ModelProto:
    with warnings.catch_warnings(), torch.no_grad(), uncollected():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module.eval(),
            example,
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes=shapes,
            input_names=inputs,
            output_names=outputs,
            custom_translation_table={
                torch.ops.streamer.ring_write.default: _ring_write,
                torch.ops.streamer.heads_matmul.default: _heads_matmul,
            },
            verbose=False,
        )
    assert program is not None
    proto: onnx.ModelProto = program.model_proto
    return proto
