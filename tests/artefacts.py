"""Golden models as the backends want them, exported once a session, and how the tests stream clips through them."""

from __future__ import annotations

import fcntl
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import soundfile

from export.to_onnx import uncollected
from models.config import ModelConfig
from streamer.backends import Place, load_backend
from streamer.backends.base import Backend, Row, samples_needed
from streamer.decoding import Token
from tests.conftest import EXPORTS

if TYPE_CHECKING:
    from streamer.backends.device import DeviceBackend

GOLDEN = Path(__file__).parent / "golden"
STREAMING = (
    "ctc_bpe", "eou_bpe", "hybrid_bpe", "prompt_hybrid", "prompt_rnnt", "rnnt_bpe_bn128", "rnnt_char", "tdt_bpe",
)  # fmt: skip
CLIPS = ("speech", "pause", "short")
SLOTS = 6


def checkpoint(model: str) -> Path:
    return GOLDEN / "models" / model / f"{model}.nemo"


@functools.cache
def exported(model: str, precision: str = "fp32") -> Path:
    """The ONNX folder of a golden model: made by whichever of the suite's processes needs it first, for all of them."""
    from export.to_onnx import export_model

    out = EXPORTS / f"{model}-{precision}"
    with out.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if out.exists():
            return out
        with uncollected():
            return export_model(checkpoint(model), out, precision)


def fresh(kind: str, slots: int = SLOTS) -> Backend:
    """A backend named as `ort:tdt_bpe`, `ort:hybrid_bpe:int8`, `pytorch:ctc_bpe` or `fake`.

    `arena:tdt_bpe` is the GPU backend on the CPU, operator by operator; `cuda:tdt_bpe` is it on a GPU, in float32;
    `trt:tdt_bpe` has TensorRT's part played by torch on the CPU.
    """
    name, _, rest = kind.partition(":")
    model, _, precision = rest.partition(":")
    if name == "arena":
        return on_cpu(model, slots)
    if name == "trt":
        return on_engines(model, slots)
    if name == "cuda":
        return on_gpu(model, slots, precision or "fp32")
    path = {"ort": lambda: exported(model, precision or "fp32"), "pytorch": lambda: checkpoint(model)}
    return load_backend(name, path.get(name, Path)(), slots)


def on_cpu(model: str, slots: int, *, kernels: bool = False) -> DeviceBackend:
    """The GPU backend on the CPU; with `kernels` those of the GPU, interpreted."""
    import torch

    from models.store import load
    from streamer.backends.device import Options
    from streamer.backends.pytorch import on_device

    place = torch.device("cpu"), torch.float32
    return on_device(*load(checkpoint(model)), place, Options(slots, kernels=kernels))


def on_engines(model: str, slots: int) -> DeviceBackend:
    """The TensorRT backend on the CPU: contexts that compute at the addresses and shapes they are given."""
    import torch

    from models.store import load
    from models.tick import Arena, DeviceModel
    from streamer.backends.device import DeviceBackend, Options
    from streamer.backends.trt_engine import EngineStep
    from tests.trt import BUCKETS, engine, in_torch, sidecar_of

    network, tokenizer = load(checkpoint(model))
    config = network.config
    engines = {chunk: engine(config, chunk, "fp32", in_torch(network, chunk)) for chunk in config.chunks}

    def encoder(_model: DeviceModel, arena: Arena, _kernels: bool) -> EngineStep:
        return EngineStep(config, sidecar_of(config), engines, arena.encoder.rows())

    on_device = DeviceModel(network, torch.float32, torch.device("cpu"))
    return DeviceBackend("trt", on_device, tokenizer, encoder, Options(slots, buckets=BUCKETS, kernels=False))


def on_gpu(model: str, slots: int, precision: str) -> Backend:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("torch sees no GPU")
    return load_backend("pytorch", checkpoint(model), slots, place=Place("cuda", precision))


@functools.cache
def clip(name: str) -> np.ndarray:
    pcm, rate = soundfile.read(GOLDEN / "clips" / f"{name}.wav", dtype="float32")
    assert rate == 16000
    return pcm


def expected(model: str, name: str, context: tuple[int, int], language: str | None) -> list[tuple[int, int]] | None:
    """(token, frame) of NeMo's offline transcription; None where there is none for this language."""
    arrays = np.load(GOLDEN / "models" / model / f"{name}.npz")
    head = "ctc" if model == "ctc_bpe" else "rnnt"
    key = f"transcribe/{context[0]}_{context[1]}/" + (f"{language}/" if language else "") + head
    if f"{key}_tokens" not in arrays:
        return None
    return list(zip(arrays[f"{key}_tokens"].tolist(), arrays[f"{key}_frames"].tolist(), strict=True))


@dataclass
class Stream:
    """One clip on its way through a slot."""

    slot: int
    pcm: np.ndarray
    chunk: int
    index: int = 0
    done: bool = False

    def __post_init__(self) -> None:
        self.tokens: list[Token] = []

    def next_row(self, chunks: int = 1) -> Row:
        needed = samples_needed(self.index, self.chunk, chunks)
        part, self.pcm = self.pcm[:needed], self.pcm[needed:]
        self.index += chunks
        self.done = len(part) < needed
        return Row(self.slot, part, self.done)


def launch(backend: Backend, streams: Sequence[Stream], chunks: int = 1) -> None:
    """So many chunks for each of `streams`, which share a chunk length."""
    rows = [stream.next_row(chunks) for stream in streams]
    ticket = backend.launch(streams[0].chunk, rows, chunks)
    for stream, heard in zip(streams, backend.collect(ticket), strict=True):
        assert isinstance(heard, list), heard
        stream.tokens += heard


def hear(backend: Backend, slot: int, pcm: np.ndarray, chunk: int, prompt: int | None = None) -> list[Token]:
    """A clip alone in a slot."""
    backend.open(slot, prompt)
    stream = Stream(slot, pcm, chunk)
    while not stream.done:
        launch(backend, [stream])
    return stream.tokens


def plain(tokens: Sequence[Token]) -> list[tuple[int, int]]:
    return [(token.id, token.frame) for token in tokens]


def longest_chunk(config: ModelConfig) -> int:
    return max(config.chunks)
