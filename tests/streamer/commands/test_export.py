"""Claims about `streamer export`: where it writes, and where it does not."""

from __future__ import annotations

from pathlib import Path

import pytest

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
