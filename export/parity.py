"""The proof that an exported folder computes what the model computes: step by step, and token by token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from export.step import step_inputs, step_names
from models.config import ModelConfig
from models.features_np import LAG, TAIL, StreamingFeatures
from models.state import EncoderState
from models.transducer import Model
from streamer.backends.ort import networks_of as networks_of_folder
from streamer.backends.ort import options_for
from streamer.backends.pytorch import networks_of as networks_of_model
from streamer.decoding import Greedy, Memory, Networks, Rules, initial_memory

Array = NDArray[Any]
Places = list[tuple[int, int]]  # (token id, frame)
FP32_TOLERANCE = 1e-4


class ParityError(ValueError):
    """The exported folder does something else than the model; the text says what, where and what was expected."""


@dataclass(frozen=True, slots=True)
class Difference:
    """How far an exported folder is from the model, over all steps of a comparison."""

    steps: int
    scores: float  # largest absolute difference of what the decoder reads
    relative: float  # root of (mean square difference / mean square)
    networks: float  # largest absolute difference of predictor and joint on the same inputs; 0 for CTC
    wanted: list[Places]  # what each clip says by the model, scores and networks
    heard: list[Places]  # and by the folder's


class ExportedStep:
    """The step of a folder, run with state as plain values: slower than a backend, and independent of it."""

    def __init__(self, folder: Path, config: ModelConfig) -> None:
        self._session = onnxruntime.InferenceSession(
            folder / "step.onnx", options_for(1), providers=["CPUExecutionProvider"]
        )
        self._wanted = {value.name for value in self._session.get_inputs()}
        self._outputs = step_names(config)[1]

    def __call__(self, inputs: dict[str, Array], state: dict[str, Array]) -> tuple[Array, Array, dict[str, Array]]:
        """-> scores, frames that count, the new state."""
        fed = {name: array for name, array in {**inputs, **state}.items() if name in self._wanted}
        outputs = dict(zip(self._outputs, self._session.run(self._outputs, fed), strict=True))
        new = {name.removeprefix("new_"): array for name, array in outputs.items() if name.startswith("new_")}
        return outputs["scores"], outputs["count"], new


class Transcript:
    """The tokens of some rows, decoded chunk by chunk as a backend does."""

    def __init__(self, config: ModelConfig, networks: Networks | None, rows: int) -> None:
        self._rules, self._networks = Rules.of(config), networks
        sizes = (config.predictor_layers, config.predictor_hidden, config.joint_hidden)
        initial = initial_memory(networks, *sizes, config.blank)
        self._memory = Memory.zeros(rows, *sizes, config.blank)
        for row in range(rows):
            self._memory.start(row, initial)
        self.places: list[Places] = [[] for _ in range(rows)]

    def add(self, active: Array, scores: Array, counts: Array, before: Array) -> None:
        """One chunk of the active rows: scores (B, C, width), of which (B,) count, after (B,) frames."""
        rows, numbers = np.flatnonzero(active), (counts[active], before[active])
        if self._networks is None:
            said = Greedy().ctc(self._rules, self._memory, rows, scores[rows], numbers)
        else:
            said = Greedy().transducer(self._rules, self._networks, self._memory, rows, scores[rows], numbers)
        for row, tokens in zip(rows, said, strict=True):
            self.places[row] += [(token.id, token.frame) for token in tokens]


class Watched:
    """The model's predictor and joint; whatever they are asked, the exported ones are asked too."""

    def __init__(self, model: Networks, exported: Networks) -> None:
        self._model, self._exported = model, exported
        self.difference = 0.0

    def networks(self) -> Networks:
        return Networks(self._predict, self._logits)

    def _predict(self, labels: Array, h: Array, c: Array) -> tuple[Array, Array, Array]:
        wanted = self._model.predictor(labels, h, c)
        self._note(wanted, self._exported.predictor(labels, h, c))
        return wanted

    def _logits(self, f: Array, g: Array) -> Array:
        wanted = self._model.joint(f, g)
        self._note((wanted,), (self._exported.joint(f, g),))
        return wanted

    def _note(self, wanted: tuple[Array, ...], got: tuple[Array, ...]) -> None:
        worst = max(float(np.abs(a - b).max(initial=0.0)) for a, b in zip(wanted, got, strict=True))
        self.difference = max(self.difference, worst)


def compare(model: Model, folder: str | Path, pcm: Sequence[Array], chunk: int, prompt: int = 0) -> Difference:
    """Stream the clips as one batch through both, the ends at different steps; ended rows stand still."""
    config, folder = model.config, Path(folder)
    exported = networks_of_folder(folder, options_for(1)) if config.transducer else None
    watched = Watched(networks_of_model(model), exported) if exported else None
    spoken = Transcript(config, watched.networks() if watched else None, len(pcm))
    heard = Transcript(config, exported, len(pcm))
    wanted, differences = [], []
    for active, want, got, count, before in _steps(model, folder, pcm, chunk, prompt):
        spoken.add(active, want, count, before)
        heard.add(active, got, count, before)
        real = active[:, None] & (np.arange(chunk) < count[:, None])
        wanted.append(want[real])
        differences.append((got - want)[real])
    difference = np.concatenate(differences)
    return Difference(
        steps=len(wanted),
        scores=float(np.abs(difference).max()),
        relative=float(np.sqrt(np.square(difference).sum() / np.square(np.concatenate(wanted)).sum())),
        networks=watched.difference if watched else 0.0,
        wanted=spoken.places,
        heard=heard.places,
    )


def _steps(model: Model, folder: Path, pcm: Sequence[Array], chunk: int, prompt: int) -> Iterator[tuple[Array, ...]]:
    """Each step of both: who is active, the model's scores, the folder's, frames that count, frames before."""
    config, rows = model.config, len(pcm)
    step, old = ExportedStep(folder, config), EncoderState.zeros(config, rows)
    state = _start(config, rows, chunk)
    same = {"prompt": prompt, "left": config.context_of(chunk)[0], "chunk": chunk}
    constants = {name: np.full(rows, value, np.int64) for name, value in same.items()}
    for number, (mel, valid, last, active) in enumerate(_chunks(model, pcm, chunk)):
        want, old, count = _model_step(model, old, (mel, valid, last, active, constants["prompt"]), chunk)
        frames = state.pop("frames")
        inputs = {"mel": mel, "valid": valid, "last": last, "active": active, "frames": frames}
        got, got_count, state = step(inputs | constants, state)
        if (got_count != count)[active].any():
            raise ParityError(f"{folder.name} step {number}: got {got_count} frames, expected {count}")
        state["frames"] = np.where(active, frames + got_count, frames)
        yield active, want, got, count, frames


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


def _start(config: ModelConfig, rows: int, chunk: int) -> dict[str, Array]:
    """The exported step's state before anything was heard, by name."""
    _, _, *parts = step_inputs(config, rows, chunk)
    tensors = [tensor for part in parts for tensor in part]
    names = [name.removeprefix("new_") for name in step_names(config)[1][2:]]
    arrays = {name: tensor.numpy() for name, tensor in zip(names, tensors, strict=True)}
    return arrays | {"frames": np.zeros(rows, np.int64)}
