"""Opening a folder of engines: which TensorRT, on what GPU, and the decoder's part of the model beside them."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from export.to_trt import _write_model
from models.fingerprint import fingerprint
from models.store import load
from models.tokenizer import Tokenizer
from models.transducer import Model
from streamer.artefacts import NoModel, resolve
from streamer.backends.base import BackendError
from streamer.backends.trt_folder import Sidecar
from streamer.backends.trt_open import decoding_model, module_of, open_engines
from tests.artefacts import checkpoint
from tests.trt import sidecar_of

CUDA = torch.device("cuda")


def folder_of(name: str, path: Path) -> tuple[Model, Tokenizer, Sidecar]:
    """A folder as an export writes it, its engines being a few bytes."""
    model, tokenizer = load(checkpoint(name))
    sidecar = sidecar_of(model.config, hash=fingerprint(model))
    _write_model(model, tokenizer, path, sidecar.hash)
    (path / "tensorrt.json").write_text(sidecar.to_json())
    for plan in sidecar.plans:
        (path / plan.file).write_bytes(b"engines")
    return model, tokenizer, sidecar


class Engine:
    """What is used of ICudaEngine."""

    num_optimization_profiles, num_io_tensors = 2, 3

    def __init__(self, refuses: bool = False) -> None:
        self.refuses, self.asked = refuses, []  # type: ignore[var-annotated]

    def get_device_memory_size_for_profile_v2(self, profile: int) -> int:
        return 100 * (profile + 1)

    def get_tensor_name(self, index: int) -> str:
        return "abc"[index]

    def create_runtime_config(self) -> Any:
        def take(cache: object) -> bool:
            how.kernels = cache
            return True

        how = SimpleNamespace(
            set_execution_context_allocation_strategy=self.asked.append,
            create_runtime_cache=object,
            set_runtime_cache=take,
        )
        return how

    def create_execution_context(self, how: object) -> object:
        self.asked.append(how)
        return None if self.refuses else SimpleNamespace(how=how)


def tensorrt(engine: Engine | None, **more: object) -> Any:
    """A module like TensorRT's, of version 10.13.0.35, whose runtime gives this engine."""
    runtime = SimpleNamespace(deserialize_cuda_engine=lambda data: engine if data == b"engines" else None)
    levels = {name: name for name in ("INTERNAL_ERROR", "ERROR", "WARNING", "INFO")}
    return SimpleNamespace(
        **{"__version__": "10.13.0.35"},
        ILogger=type("ILogger", (), levels),
        Runtime=lambda _logger: runtime,
        ExecutionContextAllocationStrategy=SimpleNamespace(USER_MANAGED="ours"),
        **more,
    )


class Module(SimpleNamespace):
    """A namespace that can be a key, as a module can."""

    __hash__ = object.__hash__


@pytest.fixture
def h200(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: (9, 0))
    monkeypatch.setattr(torch.cuda, "device", lambda _device: nullcontext())


@pytest.mark.usefixtures("h200")
def test_a_folder_gives_its_engines_by_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _, sidecar = folder_of("hybrid_bpe", tmp_path)
    engine = Engine()
    monkeypatch.setitem(sys.modules, "tensorrt", Module(**vars(tensorrt(engine))))
    found, engines = open_engines(tmp_path, model.config, CUDA)
    assert found == sidecar
    assert sorted(engines) == [1, 2, 7, 14]
    assert (engines[2].memory, engines[2].names) == ((100, 200), frozenset("abc"))
    assert engines[2].new_context().how == "ours", "memory is shared, not the context's own"  # type: ignore[attr-defined]
    assert sorted(open_engines(tmp_path, model.config, CUDA, "fp32", [7])[1]) == [7]


@pytest.mark.usefixtures("h200")
def test_tensorrt_rtx_compiles_before_a_capture_and_captures_nothing_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _, sidecar = folder_of("eou_bpe", tmp_path)
    rtx = replace(sidecar, flavour="tensorrt_rtx", compute_capability=None)
    (tmp_path / "tensorrt.json").write_text(rtx.to_json())
    engine = Engine()
    extras = {
        "DynamicShapesKernelSpecializationStrategy": SimpleNamespace(EAGER="eager"),
        "CudaGraphStrategy": SimpleNamespace(DISABLED="disabled"),
    }
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", Module(**vars(tensorrt(engine, **extras))))
    _, engines = open_engines(tmp_path, model.config, CUDA)
    first, second = (engines[2].new_context().how for _ in range(2))  # type: ignore[attr-defined]
    assert engine.asked == ["ours", first, "ours", second]
    assert first.dynamic_shapes_kernel_specialization_strategy == "eager"
    assert first.cuda_graph_strategy == "disabled"
    assert first.kernels is second.kernels, "what one has compiled serves the other"


@pytest.mark.usefixtures("h200")
def test_an_engine_that_cannot_be_loaded_or_run_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _, _ = folder_of("eou_bpe", tmp_path)
    monkeypatch.setitem(sys.modules, "tensorrt", Module(**vars(tensorrt(None))))
    with pytest.raises(BackendError, match=r"step-160ms.plan: got no engine, expected one that TensorRT can load here"):
        open_engines(tmp_path, model.config, CUDA)
    monkeypatch.setitem(sys.modules, "tensorrt", Module(**vars(tensorrt(Engine(refuses=True)))))
    _, engines = open_engines(tmp_path, model.config, CUDA)
    with pytest.raises(BackendError, match=r"TensorRT: got no execution context"):
        engines[2].new_context()


@pytest.mark.usefixtures("h200")
def test_why_an_engine_is_refused_is_said_where_the_flavour_says_it(tmp_path: Path) -> None:
    """With the real TensorRT-RTX, which here finds no driver: its own reasons are in the sentence."""
    tensorrt_rtx = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX (tensorrt-rtx-cu13) is not installed")
    model, _, sidecar = folder_of("eou_bpe", tmp_path)
    rtx = replace(sidecar, flavour="tensorrt_rtx", version=tensorrt_rtx.__version__, compute_capability=None)
    (tmp_path / "tensorrt.json").write_text(rtx.to_json())
    with pytest.raises(BackendError, match=r"step-160ms.plan: got (invalid here \([A-Z_, ]+\)|no engine), expected"):
        open_engines(tmp_path, model.config, CUDA)


def test_without_a_gpu_nothing_else_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _, _ = folder_of("eou_bpe", tmp_path)
    monkeypatch.setitem(sys.modules, "tensorrt", Module(**vars(tensorrt(Engine()))))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BackendError, match=r"GPU: got none, expected one of NVIDIA's, on which TensorRT runs"):
        open_engines(tmp_path, model.config, CUDA)


def test_the_flavour_that_made_the_engines_has_to_be_there_whichever_else_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _, _ = folder_of("eou_bpe", tmp_path)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(BackendError, match=r"^TensorRT: got .*, expected the extra tensorrt"):
        open_engines(tmp_path, model.config, CUDA)


def test_tensorrt_comes_before_tensorrt_rtx(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = SimpleNamespace(), SimpleNamespace()
    monkeypatch.setitem(sys.modules, "tensorrt", first)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", second)
    assert module_of() == (first, "tensorrt")
    assert module_of("tensorrt_rtx") == (second, "tensorrt_rtx")
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert module_of() == (second, "tensorrt_rtx")


@pytest.mark.parametrize("name", ["hybrid_bpe", "prompt_rnnt", "tdt_bpe", "ctc_bpe"])
def test_the_decoders_part_is_the_models_own(name: str, tmp_path: Path) -> None:
    model, _, sidecar = folder_of(name, tmp_path)
    part = decoding_model(tmp_path, model.config, sidecar)
    wanted = model.state_dict()
    assert not any(key.startswith("encoder.") for key in part.state_dict())
    for key, value in part.state_dict().items():
        assert torch.equal(value, wanted[key]), key
        assert value.dtype == torch.float32
    buffers = part.preprocessor.featurizer
    assert np.array_equal(buffers.fb, model.preprocessor.featurizer.fb)
    if model.config.transducer:
        labels = torch.arange(3)
        for got, want in zip(part.predict(labels, *part.start(3)), model.predict(labels, *model.start(3)), strict=True):
            assert torch.equal(got, want)


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    model, _, sidecar = folder_of("hybrid_bpe", tmp_path)
    with pytest.raises(BackendError, match=r"decoder.safetensors hash: got [0-9a-f]{64}, expected cd.*; export it"):
        decoding_model(tmp_path, model.config, replace(sidecar, hash="cd" * 32))
    with pytest.raises(BackendError, match=r"got others than the model's: decoder.prediction.*, expected its weights"):
        decoding_model(tmp_path, replace(model.config, predictor_hidden=16), sidecar)
    (tmp_path / "decoder.safetensors").write_bytes(b"cut")
    with pytest.raises(BackendError, match=r"expected the decoder's weights; export it again"):
        decoding_model(tmp_path, model.config, sidecar)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and no more", b"\x93NUMPY", b"no zip at all", None])
def test_a_front_end_that_cannot_be_read_is_a_sentence(tmp_path: Path, content: bytes | None) -> None:
    model, _, sidecar = folder_of("hybrid_bpe", tmp_path)
    (tmp_path / "features.npz").unlink()
    if content is not None:
        (tmp_path / "features.npz").write_bytes(content)
    with pytest.raises(BackendError, match=r"features\.npz: got .*, expected filterbank and window; export it again$"):
        decoding_model(tmp_path, model.config, sidecar)


def test_a_folder_of_engines_is_told_from_other_models(tmp_path: Path) -> None:
    folder_of("hybrid_bpe", tmp_path)
    (tmp_path / "tensorrt.json").write_text("{}")
    for backend in ("ort", "pytorch"):
        with pytest.raises(NoModel, match=r"holds TensorRT engines, which model\.backend=trt runs"):
            resolve(str(tmp_path), backend)
    assert resolve(str(tmp_path), "trt") == tmp_path
