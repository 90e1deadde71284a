"""Claims about manifests: all that is wrong is said before anything is computed, by line, got and expected."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from models.tokenizer import Tokenizer
from models.training import cache, manifest
from models.training.manifest import ManifestError, Spelling, check, main, read
from models.training.prepare import prepare
from tests.models.training import toy


def write(path: Path, *lines: dict[str, Any] | str) -> Path:
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """a.wav and b.wav of one second, b.wav in a tar, too."""
    for name in ("a.wav", "b.wav"):
        soundfile.write(tmp_path / name, np.linspace(-0.5, 0.5, 16000, dtype=np.float32), 16000)
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        tar.add(tmp_path / "b.wav", "b.wav")
    return tmp_path


def fault(path: Path, tokenizer: Tokenizer | None = None) -> str:
    with pytest.raises(ManifestError) as caught:
        check(path, tokenizer)
    return str(caught.value)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("{", "line 2: got '{', expected JSON"),
        ("3", "line 2: got '3', expected an object"),
        ({"text": "a"}, "line 2: audio_filepath: got nothing, expected a text that is not empty"),
        ({"audio_filepath": "b.wav", "text": " "}, 'line 2: text: got " ", expected a text that is not empty'),
        ({"audio_filepath": "b.wav", "text": "a", "duration": "1"}, 'duration: got "1", expected seconds from 0'),
        ({"audio_filepath": "b.wav", "text": "a", "duration": 0}, "line 2: duration: got 0, expected seconds above 0"),
        ({"audio_filepath": "b.wav", "text": "a", "offset": -1}, "line 2: offset: got -1, expected seconds from 0"),
        ({"audio_filepath": "c.wav", "text": "a"}, "got 'c.wav', expected audio (No such file or directory)"),
        ({"audio_filepath": "m.jsonl", "text": "a"}, "line 2: audio_filepath: got 'm.jsonl', expected audio ("),
        (
            {"audio_filepath": "t.tar!c.wav", "text": "a"},
            "t.tar!c.wav', expected audio (filename 'c.wav' not found",
        ),
        (
            {"audio_filepath": "u.tar!c.wav", "text": "a"},
            "u.tar!c.wav', expected audio (No such file or directory)",
        ),
        ({"audio_filepath": "b.wav", "text": "a", "duration": 2}, "got 'b.wav' up to 2.00 s, expected at most 1.00 s"),
        ({"audio_filepath": "b.wav", "text": "a", "offset": 1.5}, "got 'b.wav' up to 1.50 s, expected at most 1.00 s"),
        (
            {"audio_filepath": "a.wav", "text": "b"},
            "audio_filepath: got 'a.wav', expected none of line 1 again",
        ),
    ],
)
def test_what_is_wrong_with_a_line_is_said(folder: Path, line: dict[str, Any] | str, sentence: str) -> None:
    path = write(folder / "m.jsonl", {"audio_filepath": "a.wav", "text": "a"}, line)
    assert sentence in fault(path)
    assert fault(path).startswith(f"{path}: line 2")


def test_many_faults_are_some_and_a_count(folder: Path) -> None:
    path = write(folder / "m.jsonl", *({"audio_filepath": f"{n}.wav", "text": "a"} for n in range(8)))
    assert fault(path).count("line ") == manifest.SHOWN
    assert fault(path).endswith(" and 3 more")
    assert "got no line" in fault(write(folder / "empty.jsonl", ""))


def test_characters_that_the_tokenizer_cannot_spell_are_named_and_counted(folder: Path) -> None:
    names = ["a.wav", "b.wav", "t.tar!b.wav"]
    texts = ["ab", "ba \u00e9", "b\u00e9! a"]
    path = write(folder / "m.jsonl", *({"audio_filepath": n, "text": t} for n, t in zip(names, texts, strict=True)))
    tokenizer = Tokenizer.from_labels(["a", "b", " "])
    said = fault(path, tokenizer)
    assert (
        "line 2: text: got '\u00e9' (in 2 lines), expected what the tokenizer can spell; line 3: text: got '!'" in said
    )
    pieces = toy.corpus(folder, ["low mid"], "toy") or Tokenizer.from_sentencepiece(
        (folder / "tokenizer.model").read_bytes()
    )
    assert Spelling(pieces).missing("low ma!") == "!a"
    assert len(check(path, None)) == 3


def test_a_line_is_a_part_where_it_says_where_it_begins(folder: Path) -> None:
    path = write(folder / "m.jsonl", {"audio_filepath": "t.tar!b.wav", "text": "a", "offset": 0.25, "duration": 0.5})
    (heard,) = cache.read_all(read(path), folder)
    whole, _ = soundfile.read(folder / "b.wav", dtype="float32")
    assert np.array_equal(heard, whole[4000:12000])


def test_what_is_trained_on_is_not_validated_on(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = write(folder / "m.jsonl", {"audio_filepath": "a.wav", "text": "a"})
    other = write(folder / "n.jsonl", {"audio_filepath": "../" + folder.name + "/a.wav", "text": "a"})
    assert main([str(one)]) == 0
    assert main([str(one), str(other)]) == 1
    assert f"manifest: {other}: line 1: audio_filepath: got" in capsys.readouterr().err
    toy.corpus(folder, ["low mid"], "toy")
    told = toy.settings(folder, train=[str(one)], dev=str(other), text="plain")
    tokenizer = Tokenizer.from_labels(["a"])
    with pytest.raises(ManifestError, match=f"expected none of {other}"):
        prepare(told, tokenizer, 80)
    assert not (folder / "cache" / "m.jsonl").exists(), "refused before anything is computed"


def test_manifests_of_a_run_become_names_in_the_cache(folder: Path) -> None:
    toy.corpus(folder, ["low mid"], "toy")
    one = write(folder / "m.jsonl", {"audio_filepath": "a.wav", "text": "A!"})
    told = toy.settings(folder, train=["toy", str(one)], versions=1, text="plain")
    tokenizer = Tokenizer.from_labels(["a"])
    ready = prepare(told, tokenizer, 80)
    assert (ready.train, ready.dev) == (("toy", "m", "m_v1"), "train")
    assert [len(cache.load(folder / "cache", name)[1]) for name in ("m", "m_v1")] == [1, 1]
    assert prepare(told, tokenizer, 80, compute=False) == ready
