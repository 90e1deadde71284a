"""Claims about `streamer bench`: what its flags mean, what it writes, and that words decide."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import soundfile

from streamer.backends.fake import spell
from streamer.bench.mishaps import BEFORE_S
from streamer.cli import main
from streamer.commands import TAIL_MS, listening
from streamer.commands.references import joined, parted, recordings, references
from streamer.config import load as load_config
from tests.served import served
from tests.shell import failing
from tests.streamer.commands.test_evaluate import Parrot, tone


def test_words_with_an_equals_sign_are_options_and_the_others_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a=b.wav").touch()
    assert parted(["x.wav", "engine.slots=64", "y.wav", "a=b.wav"]) == (
        ["x.wav", "y.wav", "a=b.wav"],
        ["engine.slots=64"],
    )
    assert parted(["engine.slots=64"]) == ([], ["engine.slots=64"])


def test_the_recording_that_ships_is_said_where_none_is_named() -> None:
    ((name, pcm),) = recordings([]).items()
    assert Path(name).name == "shepherd.opus"
    assert (pcm.dtype, len(pcm) / 16000) == (np.int16, pytest.approx(9.96))


def test_options_are_not_for_a_daemon_of_others(capsys: pytest.CaptureFixture[str]) -> None:
    code, err = failing(capsys, "bench", "load", "--url", "ws://127.0.0.1:1", "engine.slots=64")
    assert code == 2
    assert "engine.slots=64" in err


def test_shares_are_from_0_to_1(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["bench", "load", "--stalls", "1.5"])
    assert "expected a share from 0 to 1" in capsys.readouterr().err


def spoken(path: Path, text: str) -> str:
    """A recording that the toy backend hears as `text`."""
    soundfile.write(path, np.concatenate([spell(text), np.zeros(1080, np.float32)]), 16000, subtype="PCM_16")
    return str(path)


def test_recordings_are_joined_until_they_are_long_enough() -> None:
    said = {name: np.full(16000 * seconds, seconds, np.int16) for name, seconds in (("a", 2), ("b", 3), ("c", 4))}
    assert list(joined(said, 0)) == ["a", "b", "c"]
    assert {name: len(pcm) for name, pcm in joined(said, 4).items()} == {"a, b": 80000, "c": 64000}
    assert list(joined(said, 60)) == ["a, b, c"]


def test_places_for_cuts_are_in_pauses_where_the_audio_says_all_its_words(tmp_path: Path) -> None:
    said = recordings([spoken(tmp_path / "a.wav", "abc           de"), spoken(tmp_path / "b.wav", "fg hi")])
    found = references(said, "", "fake", 80, cut_at=320)
    assert found.words == [["abc", "de"], ["fg", "hi"]]
    (place,) = found.speeches[0].quiet
    assert 0.08 * 4 <= 0.02 * place <= 0.08 * 14 - BEFORE_S
    assert [(one.begin, one.samples) for one in found.speeches] == [(0, 20480), (20480, 6400)]


def test_a_load_is_a_line_of_json_and_files_with_the_same_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [spoken(tmp_path / "a.wav", "abc           de"), spoken(tmp_path / "b.wav", "fg hi")]
    command = [
        "bench",
        "load",
        "--streams",
        "3",
        "--latency",
        "80",
        "--finalize",
        "0.5",
        "--out",
        str(tmp_path / "out"),
    ]
    assert main([*command, "--json", "model.backend=fake", *files]) == 0
    line = capsys.readouterr().out
    found = json.loads(line)
    assert (found["ended"], found["words"], found["words_different"]) == ({"closed": 3}, 6, 0)
    assert (found["finals_lost"], found["stable_words_changed"]) == (0, 0)
    assert found["finalize_to_final_ms"]["count"] == 5
    assert found["step_ms"] > 0
    assert found["rss_mib"] > 1
    assert (tmp_path / "out" / "load-3x80ms.json").read_text() == line
    assert ElementTree.parse(tmp_path / "out" / "load-3x80ms.svg").getroot().tag.endswith("svg")
    table = (tmp_path / "out" / "load-3x80ms.md").read_text()
    assert "| words other than `streamer transcribe` has | 0 of 6 |" in table
    assert "](load-3x80ms.svg)" in table


async def test_other_words_and_a_daemon_that_is_not_there_are_failures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listening, "open_listener", lambda *_, **__: Parrot())  # says what nobody said
    command = ["bench", "load", "--streams", "1", "--latency", "560", spoken(tmp_path / "a.wav", "abc")]
    async with served() as url:
        code = await asyncio.to_thread(main, [*command, "--url", url])
    out, err = capsys.readouterr()
    assert code == 1
    assert "| words other than `streamer transcribe` has | 1 of 1 |" in out
    assert err == ""
    assert main([*command, "--url", "ws://127.0.0.1:9"]) == 1
    out, err = capsys.readouterr()
    assert "| streams that ended | 1 failed |" in out
    assert "127.0.0.1" in err


def test_accuracy_is_a_table_of_sources_and_latencies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bird = Parrot()
    monkeypatch.setattr(listening, "open_listener", lambda *_, **__: bird)
    lines = []
    for name, tenths, text, source in (("a", 3, "3", "x"), ("b", 5, "four", "x"), ("c", 7, "7", "y")):
        tone(tmp_path / f"{name}.wav", tenths)
        lines.append(json.dumps({"audio_filepath": f"{name}.wav", "text": text, "source": source}) + "\n")
    (tmp_path / "m.jsonl").write_text("".join(lines))
    bird.deaf_to = 7
    command = ["bench", "accuracy", "--manifest", str(tmp_path / "m.jsonl"), "--latency", "560"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 1, "a recording failed"
    bird.deaf_to = -1
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "accuracy-parrot-m.md").read_text()
    assert capsys.readouterr().out.endswith(text)
    for row in ("| source | 560 ms |", "| x | 50.00 |", "| y | 0.00 |", "| **all** | 33.33 |", "- reference words: 3"):
        assert row in text


def test_commands_hear_as_much_silence_after_a_recording_as_the_daemon() -> None:
    assert load_config().session.tail_ms == TAIL_MS
