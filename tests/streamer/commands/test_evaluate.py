"""Claims about `streamer eval`: what counts as an error, what is left out, and what its last line says."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile

from models.training.text import normalize
from streamer.cli import main
from streamer.commands import listening
from streamer.commands.evaluate import error_rate
from streamer.commands.listening import Transcript
from streamer.transcript.words import Word
from tests.shell import failing


class Parrot:
    """A listener that says of every recording how many tenths of a second it lasts; some it cannot hear."""

    config = SimpleNamespace(name="parrot")
    latency_ms = 560

    def __init__(self) -> None:
        self.deaf_to = -1

    def hear(self, recordings: Iterable[np.ndarray]) -> Iterator[Transcript]:
        for index, pcm in enumerate(recordings):
            word = Word(text=str(len(pcm) // 1600), start_s=0.0, end_s=0.0, confidence=1.0)
            error = "no" if len(pcm) // 1600 == self.deaf_to else None
            yield Transcript(index, () if error else (word,), (), len(pcm) / 16000, error)

    def close(self) -> None:
        pass


@pytest.fixture
def parrot(monkeypatch: pytest.MonkeyPatch) -> Parrot:
    bird = Parrot()
    monkeypatch.setattr(listening, "open_listener", lambda *_, **__: bird)
    return bird


def tone(path: Path, tenths: int) -> str:
    soundfile.write(path, np.full(1600 * tenths, 0.1, np.float32), 16000)
    return path.name


def evaluate(folder: Path, entries: list[dict[str, Any]], *flags: str) -> int:
    """The exit code of an evaluation of these lines."""
    path = folder / "m.jsonl"
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return main(["eval", "--manifest", str(path), *flags])


def last(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    scores: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return scores


def test_eval_reads_tar_members_and_ends_with_one_json_object(
    tmp_path: Path, golden: Path, hybrid: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for clip in ("speech", "short"):
            data = (golden / "clips" / f"{clip}.wav").read_bytes()
            member = tarfile.TarInfo(f"{clip}.wav")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    assert main(["transcribe", "--model", str(hybrid), "--json", str(golden / "clips" / "short.wav")]) == 0
    heard = last(capsys)["text"]
    entries = [
        {"audio_filepath": "a.tar!short.wav", "text": f"  {heard.upper()}!", "source": "right"},
        {"audio_filepath": "a.tar!speech.wav", "text": "not a word of this", "source": "wrong"},
    ]
    flags = ["--model", str(hybrid), "--tail-ms", "0", "--json"]
    assert evaluate(tmp_path, entries, *flags) == 0
    lines = capsys.readouterr().out.splitlines()
    scores = json.loads(lines[-1])
    assert scores["per_source"]["right"] == 0.0
    assert scores["per_source"]["wrong"] >= 1.0
    assert 0.0 < scores["wer"] < scores["per_source"]["wrong"]
    assert {json.loads(line)["audio_filepath"] for line in lines[:2]} == {entry["audio_filepath"] for entry in entries}


@pytest.mark.usefixtures("parrot")
def test_the_limit_takes_the_first_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entries: list[dict[str, Any]] = [{"audio_filepath": tone(tmp_path / "a.wav", 3), "text": "3"}, {"not": "read"}]
    assert evaluate(tmp_path, entries, "--limit", "1") == 0
    assert last(capsys)["recordings"] == 1


@pytest.mark.usefixtures("parrot")
def test_what_cannot_be_read_is_said_and_left_out_of_the_score(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "b.wav").write_text("no sound")
    names = ["gone.wav", tone(tmp_path / "a.wav", 3), "b.wav", tone(tmp_path / "c.wav", 5), "long" * 2000, "a\0.wav"]
    assert evaluate(tmp_path, [{"audio_filepath": name, "text": "3"} for name in names]) == 1
    out, err = capsys.readouterr()
    scores = json.loads(out.splitlines()[-1])
    assert (scores["wer"], scores["words"], scores["recordings"], scores["failed"]) == (0.5, 2, 2, 4)
    assert "overall" in out
    assert "gone.wav: no such file" in err
    assert "b.wav: not audio" in err
    assert len(err.splitlines()) == 4


def test_what_the_model_fails_at_is_no_error_of_words(
    tmp_path: Path, parrot: Parrot, capsys: pytest.CaptureFixture[str]
) -> None:
    parrot.deaf_to = 5
    names = [tone(tmp_path / "a.wav", 3), tone(tmp_path / "c.wav", 5)]
    assert evaluate(tmp_path, [{"audio_filepath": name, "text": "3"} for name in names]) == 1
    scores = last(capsys)
    assert (scores["wer"], scores["failed"], scores["audio_seconds"]) == (0.0, 1, 0.3)


@pytest.mark.usefixtures("parrot")
def test_words_heard_where_none_was_said_are_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entries = [
        {"audio_filepath": tone(tmp_path / "a.wav", 3), "text": "3"},
        {"audio_filepath": tone(tmp_path / "b.wav", 4), "text": "", "source": "silence"},
    ]
    assert evaluate(tmp_path, entries) == 0
    *rows, text = capsys.readouterr().out.splitlines()
    scores = json.loads(text)
    assert (scores["wer"], scores["per_source"]) == (1.0, {"all": 0.0, "silence": None})
    assert scores["heard_in_silence"] == {"all": 0, "silence": 1}
    assert rows == [
        "all        0.00 %",
        "silence       -    (words heard where none was said: 1)",
        "overall  100.00 %",
    ]


def test_a_rate_is_errors_over_words_said() -> None:
    assert error_rate([("a b c", "a x c"), ("d", ""), ("", "y y")]) == 1.0
    assert error_rate([("a b c d", "a b c d e")]) == 0.25
    assert error_rate([("", "a")]) is None


@pytest.mark.usefixtures("parrot")
def test_parts_of_a_file_are_heard_as_parts_and_rounded_durations_as_the_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = tone(tmp_path / "a.wav", 30)
    parts = [{}, {"duration": 2.99}, {"duration": 1.0}, {"offset": 1.0, "duration": 0.5}, {"offset": 2.5}]
    said = ["30", "30", "10", "5", "5"]
    entries = [{"audio_filepath": name, "text": text, **part} for text, part in zip(said, parts, strict=True)]
    assert evaluate(tmp_path, entries) == 0
    assert last(capsys)["wer"] == 0.0
    assert evaluate(tmp_path, [{"audio_filepath": name, "text": "", "offset": 3.5}]) == 1
    assert "a.wav: offset 3.5 s lies behind its end at 3.00 s" in capsys.readouterr().err


@pytest.mark.usefixtures("parrot")
def test_a_tar_that_was_cut_off_is_said_for_each_of_its_recordings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    noise = np.random.default_rng(0).standard_normal(16000).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", 0.1 * noise, 16000)
    for mode, suffix in (("w", "tar"), ("w:gz", "tar.gz")):
        with tarfile.open(tmp_path / f"a.{suffix}", mode) as tar:  # type: ignore[call-overload]
            tar.add(tmp_path / "a.wav", "a.wav")
        whole = (tmp_path / f"a.{suffix}").read_bytes()
        (tmp_path / f"a.{suffix}").write_bytes(whole[:20000])
        assert evaluate(tmp_path, [{"audio_filepath": f"a.{suffix}!a.wav", "text": "a"}]) == 1
        out, err = capsys.readouterr()
        assert f"a.{suffix}: not a tar that can be read" in err
        assert json.loads(out.splitlines()[-1])["failed"] == 1


def test_text_is_compared_without_case_and_punctuation() -> None:
    assert normalize("  It\u2019s \u201cnine\u201d o'clock,\nMr. Smith-Jones! ") == "it's nine o'clock mr smith jones"
    assert normalize("a_b") == "a b"


def test_letters_are_compared_composed_and_keep_their_marks() -> None:
    assert normalize("Cafe\u0301") == normalize("caf\u00e9") == "caf\u00e9"
    hindi = "\u0939\u093f\u0928\u094d\u0926\u0940"  # six code points, four of them marks, one word
    assert normalize(hindi) == hindi


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "cannot be read"),
        ("{", "line 1: not JSON"),
        ("\n3", "line 2: got 3, expected an object"),
        ("{}", "line 1: audio_filepath: got nothing, expected a text"),
        ('{"audio_filepath": "a.wav"}', "line 1: text: got nothing, expected a text"),
        ('{"audio_filepath": "a.wav", "text": null}', "line 1: text: got null, expected a text"),
        ('{"audio_filepath": "a.wav", "text": 9}', "line 1: text: got 9, expected a text"),
        ('{"audio_filepath": "a.wav", "text": "", "offset": -1}', "line 1: offset: got -1, expected seconds from 0"),
        ('{"audio_filepath": "a.wav", "text": "", "duration": "2"}', 'duration: got "2", expected seconds from 0'),
        ('{"audio_filepath": "a.wav", "text": "", "duration": NaN}', "duration: got NaN, expected seconds from 0"),
        ("\n", "no line to evaluate"),
    ],
)
def test_a_bad_manifest_is_one_sentence(
    tmp_path: Path, content: str | None, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = tmp_path / "m.jsonl"
    if content is not None:
        manifest.write_text(content)
    assert sentence in failing(capsys, "eval", "--manifest", str(manifest))[1]
