"""What a folder of engines says of itself, and each way in which it does not fit, as one sentence."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from streamer.backends.base import BackendError
from streamer.backends.trt_folder import ALIGNMENT, Here, Port, Sidecar, layout, ports
from tests.models.tiny import tiny_config
from tests.trt import sidecar_of

H200 = Here("tensorrt", "10.13.0.35", "9.0")
CONFIG = tiny_config()


def test_what_is_written_is_read(tmp_path: Path) -> None:
    for sidecar in (sidecar_of(CONFIG), sidecar_of(CONFIG, "bf16", flavour="tensorrt_rtx", compute_capability=None)):
        (tmp_path / "tensorrt.json").write_text(sidecar.to_json())
        assert Sidecar.read(tmp_path) == sidecar


def test_engines_of_this_model_for_this_gpu_are_welcome() -> None:
    sidecar_of(CONFIG).check(H200, CONFIG)
    sidecar_of(CONFIG).check(H200, replace(CONFIG, name="renamed", licence="CC0-1.0"), "fp32")
    rtx = sidecar_of(CONFIG, flavour="tensorrt_rtx", version="1.7", compute_capability=None)
    rtx.check(Here("tensorrt_rtx", "1.7", "12.0"), CONFIG)


@pytest.mark.parametrize(
    ("here", "sentence"),
    [
        (replace(H200, flavour="tensorrt_rtx"), r"flavour: got TensorRT-RTX, expected TensorRT, which made"),
        (replace(H200, version="10.14.1"), r"version: got TensorRT 10.14.1, expected TensorRT 10.13.0.35, which made"),
        (replace(H200, compute_capability="8.9"), r"compute capability: got 8.9, expected 9.0, for which the engines"),
    ],
)
def test_what_is_here_has_to_be_what_the_engines_were_built_for(here: Here, sentence: str) -> None:
    with pytest.raises(BackendError, match=sentence):
        sidecar_of(CONFIG).check(here, CONFIG)


def test_another_models_configuration_or_precision_is_refused() -> None:
    with pytest.raises(BackendError, match=r"config.json: got another model's configuration, expected that of the en"):
        sidecar_of(CONFIG).check(H200, replace(CONFIG, d_ff=64))
    with pytest.raises(BackendError, match=r"precision: got bf16, expected fp32, which the engines have"):
        sidecar_of(CONFIG).check(H200, CONFIG, "bf16")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"format": 2}, r"tensorrt.json format: got 2, expected 1; export it again"),
        ({"hash": None, "precision": "fp8"}, r"ValueError precision='fp8'"),
        ({"flavour": "tensorflow"}, r"ValueError flavour='tensorflow'"),
        ({"profiles": []}, r"ValueError no profiles or no plans"),
        ({"plans": [{"chunk": 2}]}, r"KeyError 'file'"),
        ({"slots": "many"}, r"ValueError .*'many'"),
    ],
)
def test_a_sidecar_that_no_export_wrote_is_refused(change: dict[str, object], sentence: str, tmp_path: Path) -> None:
    values = json.loads(sidecar_of(CONFIG).to_json()) | change
    (tmp_path / "tensorrt.json").write_text(json.dumps(values))
    with pytest.raises(BackendError, match=sentence):
        Sidecar.read(tmp_path)


@pytest.mark.parametrize(("text", "sentence"), [(None, "FileNotFoundError"), ("{", "JSON"), ("[]", "got list")])
def test_a_folder_without_a_readable_sidecar_is_refused(text: str | None, sentence: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "tensorrt.json").write_text(text)
    with pytest.raises(BackendError, match=sentence):
        Sidecar.read(tmp_path)


def test_a_missing_or_cut_engine_is_noticed(tmp_path: Path) -> None:
    sidecar = sidecar_of(CONFIG)
    for plan in sidecar.plans:
        (tmp_path / plan.file).write_bytes(b"engines")
    sidecar.check_files(tmp_path)
    (tmp_path / "step-160ms.plan").write_bytes(b"engine")
    with pytest.raises(BackendError, match=r"step-160ms.plan: got 6 bytes, expected 7 bytes; export it again"):
        sidecar.check_files(tmp_path)
    (tmp_path / "step-160ms.plan").unlink()
    with pytest.raises(BackendError, match=r"step-160ms.plan: got no such file"):
        sidecar.check_files(tmp_path)


def test_a_file_outside_of_the_folder_is_not_looked_at(tmp_path: Path) -> None:
    values = json.loads(sidecar_of(CONFIG).to_json())
    values["plans"][0]["file"] = "../../elsewhere/step.plan"
    (tmp_path / "tensorrt.json").write_text(json.dumps(values))
    assert Sidecar.read(tmp_path).plans[0].file == "step.plan"


def test_each_batch_has_the_profile_that_reaches_over_it() -> None:
    sidecar = sidecar_of(CONFIG)
    assert (sidecar.profiles, sidecar.buckets) == (((1, 1), (2, 4), (5, 8)), (1, 4, 8))
    assert [sidecar.profile_of(rows) for rows in (1, 2, 4, 5, 8)] == [0, 1, 1, 2, 2]
    for rows in (0, 9):
        with pytest.raises(BackendError, match=rf"rows: got {rows}, expected 1 to 8, for which .* \(--buckets\)"):
            sidecar.profile_of(rows)


def test_a_latency_that_was_not_exported_names_those_that_were() -> None:
    sidecar = sidecar_of(CONFIG)
    assert sidecar.plan_of(4).file == "step-320ms.plan"
    with pytest.raises(BackendError, match=r"latency: got 240 ms, .* \(--latency\): 80, 160, 320 ms"):
        sidecar.plan_of(3)


def test_an_arena_has_a_stream_and_a_spare_slot_at_least() -> None:
    sidecar_of(CONFIG).check_slots(2)
    for slots in (1, 16385):
        with pytest.raises(BackendError, match=rf"slots: got {slots}, expected 2 to 16384, one of them spare"):
            sidecar_of(CONFIG).check_slots(slots)


def test_tensors_lie_side_by_side_where_tensorrt_wants_them() -> None:
    some = (Port("a", "float32", 1, (3,)), Port("b", "float16", 2, (65,)), Port("c", "int32", 1))
    offsets, size = layout(some, 2)
    assert (offsets, size) == ({"a": 0, "b": 256, "c": 1024}, 1280)
    assert all(offset % ALIGNMENT == 0 for offset in offsets.values())


def test_the_tensors_are_those_of_the_latency_and_of_the_model() -> None:
    known = ports(CONFIG, 4, "bf16")
    assert [port.name for port in known.tick] == ["mel", "slots", "frames", "valid", "last"]
    assert known.tick[0].shape(7) == (7, 32, 80)
    keys = next(port for port in known.arena if port.name == "keys.1")
    assert (keys.dtype, keys.shape(5)) == ("bfloat16", (5 * 2 * 12, 8))
    assert next(port for port in known.out if port.name == "new_keys.1").shape(3) == (3, 2, 4, 8)
    prompted = replace(CONFIG, num_prompts=3, prompts=(("en", 0),))
    assert "prompt" in ports(prompted, 4, "fp16").names
    alone = replace(CONFIG, contexts=((0, 3), (8, 1)))
    assert not any("keys" in name for name in ports(alone, 4, "fp16").names), "nothing of the past is read"
    assert any("keys" in name for name in ports(alone, 2, "fp16").names)
