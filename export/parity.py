"""The proof that an exported folder computes what the model computes: step by step, and token by token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from export.step import step_names
from models.config import ModelConfig
from models.features_np import LAG, TAIL, StreamingFeatures
from models.state import EncoderState
from models.transducer import Model

Array = NDArray[Any]
FP32_TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True)
class Difference:
    """How far an exported step is from the model, over all steps of a comparison."""

    steps: int
    scores: float  # largest absolute difference of what the decoder reads
    relative: float  # root of (mean square difference / mean square)


class ExportedStep:
    """The step of a folder, run with state as plain values: slower than a backend, and independent of it."""

    def __init__(self, folder: Path, config: ModelConfig) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 3
        self._session = onnxruntime.InferenceSession(folder / "step.onnx", options, providers=["CPUExecutionProvider"])
        self._wanted = {value.name for value in self._session.get_inputs()}
        self._outputs = step_names(config)[1]

    def __call__(self, inputs: dict[str, Array], state: dict[str, Array]) -> tuple[Array, Array, dict[str, Array]]:
        """-> scores, frames that count, the new state."""
        fed = {name: array for name, array in {**inputs, **state}.items() if name in self._wanted}
        outputs = dict(zip(self._outputs, self._session.run(self._outputs, fed), strict=True))
        new = {name.removeprefix("new_"): array for name, array in outputs.items() if name.startswith("new_")}
        return outputs["scores"], outputs["count"], new


def compare(model: Model, folder: str | Path, pcm: Sequence[Array], chunk: int, prompt: int = 0) -> Difference:
    """Stream the clips as one batch through both, the ends at different steps; ended rows stand still."""
    config = model.config
    step, rows = ExportedStep(Path(folder), config), len(pcm)
    old = EncoderState.zeros(config, rows)
    state = _named(old, config)
    prompts, lefts = np.full(rows, prompt, np.int64), np.full(rows, config.context_of(chunk)[0], np.int64)
    wanted, differences = [], []
    for mel, valid, last, active in _chunks(model, pcm, chunk):
        want, old, count = _model_step(model, old, (mel, valid, last, active, prompts), chunk)
        inputs = {"mel": mel, "valid": valid, "last": last, "active": active, "frames": state.pop("frames")}
        frames = inputs["frames"]
        got, got_count, state = step(inputs | {"prompt": prompts, "left": lefts}, state)
        state["frames"] = np.where(active, frames + got_count, frames)
        assert (got_count == count)[active].all(), f"count: got {got_count}, expected {count}"
        real = active[:, None] & (np.arange(chunk) < count[:, None])
        wanted.append(want[real])
        differences.append((got - want)[real])
    difference = np.concatenate(differences)
    relative = np.sqrt(np.square(difference).sum() / np.square(np.concatenate(wanted)).sum())
    return Difference(len(wanted), float(np.abs(difference).max()), float(relative))


def _model_step(
    model: Model, old: EncoderState, inputs: tuple[Array, ...], chunk: int
) -> tuple[Array, EncoderState, Array]:
    mel, valid, last, active, prompts = (torch.from_numpy(array) for array in inputs)
    with torch.inference_mode():
        y, new, count = model.encoder(mel, old, valid, last, model.config.context_of(chunk))
        y = model.with_prompt(y, prompts)
        scores = model.joint.enc(y) if model.config.transducer else model.ctc(y)
    return scores.numpy(), new.where(active, old), count.numpy()


def _chunks(model: Model, pcm: Sequence[Array], chunk: int) -> Any:
    """mel, valid, last and active of each step until every clip has ended."""
    buffers = model.preprocessor.featurizer
    features = StreamingFeatures(model.config.mels, buffers.fb[0].numpy(), buffers.window.numpy())
    tails: Array = np.zeros((len(pcm), TAIL), np.float32)
    heard: Array = np.zeros(len(pcm), np.int64)
    active = np.ones(len(pcm), np.bool_)
    while active.any():
        needed = 1280 * chunk - np.where(heard == 0, LAG, 0)
        parts = [clip[at : at + count] for clip, at, count in zip(pcm, heard, needed, strict=True)]
        parts = [part if on else part[:0] for part, on in zip(parts, active, strict=True)]
        last = np.array([len(part) for part in parts]) < needed
        mel, valid, tails = features.chunk_mel_rows(tails, parts, heard, last, chunk)
        heard = heard + [len(part) for part in parts]
        yield mel, valid, last, active
        active = active & ~last


def _named(state: EncoderState, config: ModelConfig) -> dict[str, Array]:
    tensors = [state.mel, state.sub1, state.sub2, *state.conv, *state.keys, *state.values]
    names = [name.removeprefix("new_") for name in step_names(config)[1][2:]]
    arrays = {name: tensor.numpy() for name, tensor in zip(names, tensors, strict=True)}
    return arrays | {"frames": state.frames.numpy()}
