"""What TensorRT gets to build from: one graph for each latency, supported whole, that computes what the model does."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from torch import Tensor

from export import to_trt
from export.to_onnx import uncollected
from export.to_trt import Builder, Options, export, export_model, step_onnx
from models.config import ConfigError, ModelConfig
from models.fingerprint import fingerprint
from models.store import load, read_config, read_tokenizer
from models.transducer import Model
from streamer.backends.base import BackendError
from streamer.backends.trt_folder import Sidecar, config_hash, most_slots, ports, profiles_of
from tests.artefacts import checkpoint
from tests.models.golden import loaded
from tests.trt import Compute, in_onnxruntime, in_torch, new_arena

tensorrt_rtx = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX (tensorrt-rtx-cu13) is not installed")
FLOATS = {TensorProto.FLOAT: "float32", TensorProto.FLOAT16: "float16", TensorProto.BFLOAT16: "bfloat16"}


@cache
def graph(name: str, chunk: int, precision: str) -> Path:
    """The exported step of a golden model; gone with the process."""
    path = Path(_folder().name) / f"{name}-{chunk}-{precision}.onnx"
    with uncollected():
        step_onnx(loaded(name)[0], chunk, precision, path)
    return path


@cache
def _folder() -> TemporaryDirectory[str]:
    return TemporaryDirectory(prefix="trt-")


def parsed(path: Path) -> tuple[bool, int, int]:
    """TensorRT's own word on an ONNX file: supported, in how many pieces, of how many layers its network is."""
    logger = to_trt.logger_of(tensorrt_rtx)
    builder = tensorrt_rtx.Builder(logger)
    network = builder.create_network(1 << int(tensorrt_rtx.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = tensorrt_rtx.OnnxParser(network, logger)
    supported = parser.supports_model_v2(path.read_bytes(), str(path))
    pieces = [parser.is_subgraph_supported(index) for index in range(parser.num_subgraphs)]
    assert supported == all(pieces), [str(parser.get_error(i)) for i in range(parser.num_errors)]
    whole = builder.create_network(1 << int(tensorrt_rtx.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    reader = tensorrt_rtx.OnnxParser(whole, logger)
    assert reader.parse_from_file(str(path)), [str(reader.get_error(i)) for i in range(reader.num_errors)]
    return supported, len(pieces), whole.num_layers


@pytest.mark.parametrize(
    ("name", "chunk", "precision"),
    [("hybrid_bpe", 2, "fp16"), ("prompt_rnnt", 7, "fp16"), ("rnnt_bpe_bn128", 4, "bf16")],
)
def test_the_parser_takes_the_whole_graph_as_one_piece(name: str, chunk: int, precision: str) -> None:
    supported, pieces, layers = parsed(graph(name, chunk, precision))
    assert supported
    assert pieces == 1
    assert layers > 500


@pytest.mark.timeout(600)
def test_the_parser_takes_the_114_m_model_as_one_piece(tmp_path: Path) -> None:
    config = ModelConfig(
        name="114m", kind="rnnt", mels=80, d_model=512, layers=17, heads=8, d_ff=2048, contexts=((70, 1), (70, 13)),
        vocab_size=1024, labels=tuple(map(str, range(1024))), predictor_hidden=640, predictor_layers=1,
        joint_hidden=640, tokenizer="labels",
    )  # fmt: skip
    model = Model(config).eval().requires_grad_(False)
    assert 105e6 < sum(value.numel() for value in model.encoder.parameters()) < 115e6
    path = tmp_path / "114m.onnx"
    with uncollected():
        step_onnx(model, 2, "bf16", path)
    supported, pieces, layers = parsed(path)
    assert (supported, pieces) == (True, 1)
    assert layers > 4000


def test_a_graph_that_is_not_supported_is_an_error_that_says_why(tmp_path: Path) -> None:
    model = onnx.load(graph("hybrid_bpe", 2, "fp16"))
    model.graph.node[-1].op_type = "Unheard"
    onnx.save(model, tmp_path / "odd.onnx")
    with pytest.raises(BackendError, match=r"odd.onnx: got .*Unheard.*, expected a graph that TensorRT-RTX supports"):
        Builder.here().build(tmp_path / "odd.onnx", ports(loaded("hybrid_bpe")[0].config, 2, "fp16"), 8, Options())


@pytest.mark.parametrize(
    ("name", "chunk", "precision", "unit"),
    [("hybrid_bpe", 2, "fp32", 2.0**-24), ("hybrid_bpe", 2, "fp16", 2.0**-11), ("prompt_rnnt", 7, "fp16", 2.0**-11)],
)
def test_the_graph_computes_what_pytorch_computes(name: str, chunk: int, precision: str, unit: float) -> None:
    """Any rows of any arena: counters of starts, of later chunks and of last ones with every number of places.

    Both round as finely, and not at the same places: some units of rounding lie between them.
    """
    model, _ = loaded(name)
    expected, got = (
        outputs(model.config, chunk, precision, compute)
        for compute in (in_torch(model, chunk, precision), in_onnxruntime(graph(name, chunk, precision)))
    )
    assert expected.keys() == got.keys()
    for port in ports(model.config, chunk, precision).out:
        a, b = expected[port.name], got[port.name]
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        relative = float((a.double() - b.double()).norm() / a.double().norm())
        assert relative < 8 * unit, f"{port.name}: {relative / unit:.1f} units apart"
    assert torch.equal(expected["count"], got["count"])
    assert len(set(expected["count"].tolist())) == chunk + 1


def outputs(config: ModelConfig, chunk: int, precision: str, compute: Compute) -> dict[str, Tensor]:
    """A tick of as many rows as a last chunk has lengths, over an arena of random numbers."""
    known, rows = ports(config, chunk, precision), 8 * chunk + 1
    generator = torch.Generator().manual_seed(5)
    arena = {name: tensor.flatten() for name, tensor in new_arena(config, rows + 1, precision).items()}
    inputs = {port.name: arena[port.name].view(port.shape(rows + 1)) for port in known.arena}
    inputs["mel"] = torch.randn(rows, 8 * chunk, config.mels, generator=generator)
    counters = {
        "slots": torch.randperm(rows + 1, generator=generator)[:rows],
        "frames": torch.arange(rows) % 9 * chunk,
        "valid": torch.arange(rows),
        "last": torch.arange(rows) % 5 != 3,
        "prompt": torch.arange(rows) % max(1, config.num_prompts),
    }
    inputs |= {name: counters[name].int() for name in (port.name for port in known.tick[1:])}
    return {port.name: value for port, value in zip(known.out, compute(inputs), strict=True)}


def test_casts_are_in_the_graph_products_in_half_and_statistics_softmax_and_scores_in_float32() -> None:
    model = onnx.shape_inference.infer_shapes(onnx.load(graph("hybrid_bpe", 2, "fp16")), strict_mode=True)
    types = {value.name: value.type.tensor_type.elem_type for value in (*model.graph.value_info, *model.graph.output)}
    types |= {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    wanted = {"MatMul": "float16", "Conv": "float16", "Softmax": "float32", "LayerNormalization": "float32"}
    seen = {kind: set() for kind in wanted}  # type: dict[str, set[str]]
    for node in model.graph.node:
        if node.op_type in wanted:
            seen[node.op_type] |= {FLOATS[types[name]] for name in (*node.input[:2], *node.output) if name in types}
    assert seen == {kind: {dtype} for kind, dtype in wanted.items()}
    assert FLOATS[types["scores"]] == "float32"


def test_the_graph_has_the_tensors_that_the_runner_binds() -> None:
    config = loaded("hybrid_bpe")[0].config
    known = ports(config, 2, "fp16")
    found = onnx.load(graph("hybrid_bpe", 2, "fp16")).graph
    for some, values in ((known.inputs, found.input), (known.out, found.output)):
        assert [value.name for value in values] == [port.name for port in some]
        for port, value in zip(some, values, strict=True):
            first, *rest = value.type.tensor_type.shape.dim
            assert first.dim_param
            assert tuple(size.dim_value for size in rest) == port.rest
            assert onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type) == np.dtype(port.dtype)


def test_tensorrt_builds_a_folder_of_engines_without_a_gpu(tmp_path: Path) -> None:
    out = tmp_path / "engines"
    model, tokenizer = load(checkpoint("prompt_hybrid"))
    options = Options("bf16", buckets=(8, 1), keep_onnx=True)
    with uncollected():
        assert export_model(checkpoint("prompt_hybrid"), out, options) == out
    sidecar = Sidecar.read(out)
    sidecar.check_files(out)
    assert (sidecar.hash, sidecar.config) == (fingerprint(model), config_hash(model.config))
    assert (sidecar.flavour, sidecar.version) == ("tensorrt_rtx", tensorrt_rtx.__version__)
    assert (sidecar.precision, sidecar.profiles, sidecar.chunks) == ("bf16", ((1, 1), (2, 8)), (7,))
    assert sidecar.compute_capability is None, "TensorRT-RTX compiles when it loads"
    assert sidecar.slots == most_slots(model.config)
    assert json.loads((out / "tensorrt.json").read_text())["latencies_ms"] == [560]
    assert (out / "step-560ms.plan").stat().st_size > 1 << 20
    assert read_config(out) == model.config
    assert read_tokenizer(out, model.config).pieces == tokenizer.pieces
    assert str(Path(to_trt.__file__).parent).encode() not in (out / "step-560ms.onnx").read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["engines"]
    assert {path.name for path in out.iterdir()} == to_trt.ours_in(out)
    assert (out / "decoder.safetensors").stat().st_mode & 0o044 == 0o044, "others may serve it"


def built(graph_path: Path, *_: object) -> bytes:
    """In place of minutes of building."""
    return graph_path.name.encode()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports whose graphs and engines are a few bytes."""
    monkeypatch.setattr(Builder, "build", lambda _self, *given: built(*given))
    monkeypatch.setattr(to_trt, "step_onnx", lambda *given: given[-1].write_text("graph"))


@pytest.mark.usefixtures("quick")
def test_latencies_can_be_named_and_the_graphs_go(tmp_path: Path) -> None:
    model, tokenizer = load(checkpoint("hybrid_bpe"))
    out = export(model, tokenizer, tmp_path / "out", Options(latencies_ms=(560, 80)))
    assert sorted(path.name for path in out.glob("step*")) == ["step-560ms.plan", "step-80ms.plan"]
    assert Sidecar.read(out).chunks == (1, 7)
    out = export(model, tokenizer, tmp_path / "out", Options())
    assert Sidecar.read(out).chunks == (1, 2, 7, 14)


@pytest.mark.usefixtures("quick")
def test_a_second_export_replaces_the_engines_and_keeps_what_is_not_the_exporters(tmp_path: Path) -> None:
    model, tokenizer = load(checkpoint("hybrid_bpe"))
    out = export(model, tokenizer, tmp_path / "out", Options(latencies_ms=(560, 80), keep_onnx=True))
    (out / "README.md").write_text("card")
    export(model, tokenizer, out, Options(latencies_ms=(160,)))
    assert sorted(path.name for path in out.glob("step*")) == ["step-160ms.plan"]
    assert (out / "README.md").read_text() == "card"


@pytest.mark.usefixtures("quick")
def test_an_export_that_fails_leaves_the_older_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = load(checkpoint("hybrid_bpe"))
    out = export(model, tokenizer, tmp_path / "out", Options())

    def fails(*_: object) -> None:
        raise BackendError("step.onnx", "as ordered", "nothing")

    monkeypatch.setattr(Builder, "build", fails)
    with pytest.raises(BackendError, match="as ordered"):
        export(model, tokenizer, out, Options(latencies_ms=(80,)))
    assert Sidecar.read(out).chunks == (1, 2, 7, 14)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (Options("int8"), r"precision='int8': expected one of fp16, bf16, fp32 for TensorRT"),
        (Options(latencies_ms=(320,)), r"latency=320: expected one of the model's: 80, 160, 560, 1120"),
        (Options(buckets=(0, 8)), r"buckets: got \[0, 8\], expected batch sizes from 1 on"),
    ],
)
def test_what_cannot_be_built_is_refused_before_any_work(options: Options, sentence: str, tmp_path: Path) -> None:
    with pytest.raises((ConfigError, BackendError), match=sentence):
        export_model(checkpoint("hybrid_bpe"), tmp_path / "out", options)
    assert list(tmp_path.iterdir()) == []


def test_a_model_for_whole_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected a streaming model"):
        export_model(checkpoint("offline_bpe"), tmp_path / "out", Options())


def test_tensorrt_itself_wants_the_gpu_that_will_run_its_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(to_trt, "module_of", lambda: (SimpleNamespace(), "tensorrt"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BackendError, match=r"GPU: got none, expected the one that is to run the engines: TensorRT"):
        Builder.here()


def test_timings_are_kept_by_version_and_gpu_where_the_flavour_has_them(tmp_path: Path) -> None:
    options = Options(timing_cache=tmp_path / "cache")
    rtx = Builder(SimpleNamespace(__version__="1.7"), "tensorrt_rtx", None)
    assert rtx.timing_cache(options) is None, "it times nothing"
    path = Builder(SimpleNamespace(__version__="10.13"), "tensorrt", "9.0").timing_cache(options)
    assert path == tmp_path / "cache" / "tensorrt-10.13-9.0.timing"
    config = TimedConfig()
    to_trt.use_cache(config, path)
    assert config.cache == b"", "none is known yet"
    config.cache += b"timings"
    to_trt.keep_cache(config, path)
    again = TimedConfig()
    to_trt.use_cache(again, path)
    assert again.cache == b"timings"


class TimedConfig:
    """What is used of IBuilderConfig's timing cache."""

    cache: bytes

    def create_timing_cache(self, data: bytes) -> bytes:
        return data

    def set_timing_cache(self, cache: bytes, ignore_mismatch: bool) -> None:
        assert not ignore_mismatch
        self.cache = cache

    def get_timing_cache(self) -> SimpleNamespace:
        return SimpleNamespace(serialize=lambda: self.cache)


def test_profiles_reach_from_the_bucket_below_to_their_own() -> None:
    assert profiles_of((64, 1, 8, 8)) == ((1, 1), (2, 8), (9, 64))


def test_the_largest_arena_stays_below_the_limit_of_one_tensor() -> None:
    config = replace(loaded("hybrid_bpe")[0].config, d_model=1024, heads=8, contexts=((70, 13),))
    assert most_slots(config) == 16384
    assert most_slots(replace(config, contexts=((700, 13),))) * 8 * 714 * 128 < 1 << 31


def test_what_tensorrt_says_reaches_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        to_trt.logger_of(tensorrt_rtx).log(tensorrt_rtx.ILogger.ERROR, "no such kernel")
        to_trt.logger_of(tensorrt_rtx).log(tensorrt_rtx.ILogger.INFO, "chatter")
    assert [record.getMessage() for record in caplog.records] == ["TensorRT: no such kernel"]
