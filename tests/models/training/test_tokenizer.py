"""The tokenizer's step: pieces from the texts of manifests, and a sentence for what has none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from models.tokenizer import Tokenizer
from models.training import tokenizer


def manifest(folder: Path, name: str, texts: list[str]) -> str:
    path = folder / name
    path.write_text("".join(json.dumps({"audio_filepath": "a.wav", "text": text}) + "\n" for text in texts))
    return str(path)


def test_the_pieces_come_from_all_manifests(tmp_path: Path) -> None:
    files = [manifest(tmp_path, "a.jsonl", ["low mid"] * 5), manifest(tmp_path, "b.jsonl", ["top low"] * 5)]
    assert tokenizer.main([*files, "--vocab", "14", "--out", str(tmp_path / "out")]) == 0
    made = Tokenizer.from_sentencepiece((tmp_path / "out" / "tokenizer.model").read_bytes())
    assert len(made) == 14
    assert made.decode(made.encode("mid top")) == "mid top"


@pytest.mark.parametrize("line", ["{", "[]", "3", '{"audio_filepath": "a.wav"}', '{"text": null}'])
def test_a_line_without_a_text_is_said_with_its_number(
    tmp_path: Path, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path(manifest(tmp_path, "a.jsonl", ["low"]))
    path.write_text(path.read_text() + "\n" + line + "\n")
    assert tokenizer.main([str(path), "--out", str(tmp_path)]) == 1
    assert f"{path}: line 3: " in capsys.readouterr().err


def test_more_pieces_than_the_texts_give_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = manifest(tmp_path, "a.jsonl", ["low"])
    assert tokenizer.main([path, "--vocab", "5000", "--out", str(tmp_path)]) == 1
    assert "--vocab 5000: 1 texts do not give it" in capsys.readouterr().err
