"""Claims about `streamer export`: where it writes, and where it does not."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from export import to_trt
from export.to_trt import Options
from streamer import artefacts
from streamer.cli import main
from tests.artefacts import checkpoint
from tests.shell import failing

MODEL = str(checkpoint("hybrid_bpe"))


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders that exports went to; they take no time."""
    folders: list[Path] = []

    def writes(_: Path, out: Path, precision: str) -> None:
        out.mkdir(exist_ok=True)
        (out / "artefact.json").write_text(precision)
        folders.append(out)

    monkeypatch.setattr(artefacts, "export_model", writes)
    return folders


def test_export_does_not_overwrite_what_is_no_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    code, err = failing(capsys, "export", MODEL, "--out", str(tmp_path))
    assert code == 1
    assert "no exported model" in err
    assert (tmp_path / "thesis.txt").exists()


def test_a_model_folder_takes_its_own_export(tmp_path: Path, written: list[Path]) -> None:
    (tmp_path / "model.safetensors").write_text("weights")
    for _ in range(2):
        assert main(["export", str(tmp_path), "--out", str(tmp_path)]) == 0
    assert written == [tmp_path.resolve()] * 2


def test_a_link_to_a_folder_stays_a_link(tmp_path: Path, written: list[Path]) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert main(["export", MODEL, "--out", str(tmp_path / "link")]) == 0
    assert written == [(tmp_path / "real").resolve()]


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    code, err = failing(capsys, "export", MODEL, "--out", str(tmp_path / "file" / "deeper" / "out"))
    assert code == 1
    assert "Not a directory" in err


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, Options]]:
    """What exports to TensorRT were asked for; they take no time."""
    asked: list[tuple[Path, Options]] = []

    def writes(_: Path, out: Path, options: Options) -> None:
        out.mkdir(exist_ok=True)
        (out / "tensorrt.json").write_text("{}")
        asked.append((out, options))

    monkeypatch.setattr(to_trt, "export_model", writes)
    return asked


def test_engines_are_of_what_the_flags_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engines: list[tuple[Path, Options]]
) -> None:
    monkeypatch.setenv("STREAMER_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "out"
    flags = ["--precision", "bf16", "--latency", "80,1120", "--buckets", "1,32", "--keep-onnx"]
    assert main(["export", MODEL, "--to", "trt", *flags, "--out", str(out)]) == 0
    assert main(["export", MODEL, "--to", "trt", "--out", str(out)]) == 0, "a folder of engines is replaced"
    wanted = Options("bf16", (80, 1120), (1, 32), keep_onnx=True, timing_cache=tmp_path / "cache")
    assert engines == [(out.resolve(), wanted), (out.resolve(), Options(timing_cache=tmp_path / "cache"))]


def test_a_folder_of_engines_has_a_name_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engines: list[tuple[Path, Options]]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export", MODEL, "--to", "trt"]) == 0
    assert [out.name for out, _ in engines] == ["hybrid_bpe-fp16-trt"]


def test_a_folder_of_another_kind_is_not_replaced_by_engines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], engines: list[tuple[Path, Options]]
) -> None:
    (tmp_path / "artefact.json").write_text("{}")
    code, err = failing(capsys, "export", MODEL, "--to", "trt", "--out", str(tmp_path))
    assert (code, engines) == (1, [])
    assert "no exported model" in err


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--to", "trt", "--precision", "int8"], "--precision int8: expected one of fp16, bf16, fp32 with --to trt"),
        (["--precision", "bf16"], "--precision bf16: expected one of fp32, int8 with --to onnx"),
        (["--latency", "80"], "expected only with --to trt"),
        (["--to", "trt", "--buckets", ""], "expected whole numbers from 1 to 16384, commas between them"),
        (["--to", "trt", "--buckets", "8,0"], "expected whole numbers from 1 to 16384, commas between them"),
        (["--to", "trt", "--latency", "fast"], "expected whole numbers from 1 to 16384, commas between them"),
    ],
)
def test_flags_that_do_not_go_together_are_one_sentence(
    flags: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = main(["export", MODEL, *flags, "--out", str(tmp_path / "out")])
    except SystemExit as ended:  # of the parser
        code = ended.code
    lines = capsys.readouterr().err.splitlines()
    assert code in (1, 2)
    assert len(lines) == 1
    assert sentence in lines[0]
    assert list(tmp_path.iterdir()) == []


def test_without_tensorrt_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for flavour in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, flavour, None)
    code, err = failing(capsys, "export", MODEL, "--to", "trt", "--out", str(tmp_path / "out"))
    assert code == 1
    assert "TensorRT or TensorRT-RTX: got " in err
    assert "expected the extra tensorrt" in err
    assert list(tmp_path.iterdir()) == []
