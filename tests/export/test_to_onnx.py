"""What an exported folder holds, and what is not exported."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from export import to_onnx
from models.config import ConfigError, ModelConfig
from models.fingerprint import fingerprint
from models.store import load
from tests.artefacts import checkpoint, exported


def shape(value: onnx.ValueInfoProto) -> list[int | str]:
    return [size.dim_value or size.dim_param for size in value.type.tensor_type.shape.dim]


def test_one_graph_serves_all_latencies_and_any_batch() -> None:
    graph = onnx.load(exported("hybrid_bpe") / "step.onnx").graph
    mel = next(value for value in graph.input if value.name == "mel")
    assert [type(size) for size in shape(mel)] == [str, str, int]
    assert sum(node.op_type == "TensorScatter" for node in graph.node) == 3 * 3, "keys, values, convolution inputs"


def test_the_folder_says_what_it_is() -> None:
    folder = exported("hybrid_bpe")
    model, tokenizer = load(checkpoint("hybrid_bpe"))
    about = json.loads((folder / "artefact.json").read_text())
    assert about["hash"] == fingerprint(model)
    assert (about["precision"], about["opset"]) == ("fp32", 24)
    assert about["chunks"] == sorted(model.config.chunks)
    assert ModelConfig.from_dict(json.loads((folder / "config.json").read_text())) == model.config
    assert (folder / "tokenizer.model").read_bytes() == tokenizer.to_bytes()


def test_the_graph_keeps_no_path_of_the_machine_it_was_made_on() -> None:
    for path in exported("hybrid_bpe").glob("*.onnx"):
        data = path.read_bytes()
        assert str(Path(to_onnx.__file__).parent).encode() not in data
        assert b"stack_trace" not in data


def test_two_models_have_two_fingerprints() -> None:
    model, _ = load(checkpoint("hybrid_bpe"))
    before = fingerprint(model)
    model.config = replace(model.config, name="other", licence="CC0-1.0")
    assert fingerprint(model) == before, "a name is no number"
    model.joint.enc.bias.data[0] += 1e-3
    assert fingerprint(model) != before


def test_a_model_for_whole_files_is_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected a streaming model"):
        to_onnx.export_model(checkpoint("offline_bpe"), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_precision_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"precision='fp8': expected one of fp32, int8"):
        to_onnx.export_model(checkpoint("hybrid_bpe"), tmp_path / "out", "fp8")


def test_a_failed_export_leaves_the_old_folder_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "step.onnx").write_text("old")

    def fails(*_: object) -> None:
        raise RuntimeError("as ordered")

    monkeypatch.setattr(to_onnx, "step_graph", fails)
    with pytest.raises(RuntimeError, match="as ordered"):
        to_onnx.export_model(checkpoint("hybrid_bpe"), out)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (out / "step.onnx").read_text() == "old"


def test_an_export_into_a_folder_replaces_its_own_files_and_keeps_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    (out / "notes").mkdir(parents=True)
    kept = {"README.md": "card", "model.safetensors": "weights", "notes/a.txt": "deep"}
    for name, text in {**kept, "step.weights": "stale", "artefact.json": "old", "joint.onnx": "stale"}.items():
        (out / name).write_text(text)

    def writes(*given: object) -> None:
        (Path(str(given[2])) / "artefact.json").write_text("new")

    monkeypatch.setattr(to_onnx, "_write", writes)
    to_onnx.export_model(checkpoint("hybrid_bpe"), out)
    found = {str(path.relative_to(out)): path.read_text() for path in out.rglob("*") if path.is_file()}
    assert found == {**kept, "artefact.json": "new"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_that_cannot_be_put_in_place_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, out = tmp_path / "work", tmp_path / "out"
    for folder in (work, out):
        folder.mkdir()
        (folder / "step.onnx").write_text(folder.name)
    replace = os.replace

    def fails(source: Path, target: Path) -> None:
        if source == work:
            raise OSError("as ordered")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(OSError, match="as ordered"):
        to_onnx._swap(work, out)
    assert (out / "step.onnx").read_text() == "out"


@pytest.mark.parametrize("moment", ["while it is made", "while it is put there"])
def test_of_two_exports_of_one_model_at_once_the_first_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """The other process may be loading what it put there; whose it is makes no difference."""
    out, swap = tmp_path / "out", to_onnx._swap

    def write(_model: object, _tokenizer: object, folder: Path, _precision: str) -> None:
        folder.mkdir(exist_ok=True)
        (folder / "artefact.json").write_text("same")
        if moment == "while it is made" and folder != out:
            other_process()

    def put(work: Path, target: Path) -> None:
        if moment == "while it is put there":
            other_process()
            os.replace(work, target)  # fails: the folder is there and not empty
        swap(work, target)

    def other_process() -> None:
        write(None, None, out, "fp32")
        (out / "first").write_text("winner")

    monkeypatch.setattr(to_onnx, "_write", write)
    monkeypatch.setattr(to_onnx, "_swap", put)
    assert to_onnx.export_model(checkpoint("hybrid_bpe"), out) == out
    assert (out / "first").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_names_that_an_export_may_replace_are_all_that_it_writes() -> None:
    for model in ("hybrid_bpe", "rnnt_char"):
        assert {path.name for path in exported(model).iterdir()} <= to_onnx.OURS
