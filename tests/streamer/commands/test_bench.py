"""Claims about `streamer bench`: what its words mean, and that each stream is held to its own recording."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from clients.send import read
from streamer.bench.load import Heard, Load, load, table
from streamer.cli import main
from streamer.commands import TAIL_MS, listening
from streamer.commands.bench import parted
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
    files, options = parted(["engine.slots=64"])
    assert [Path(file).name for file in files] == ["shepherd.opus"]
    assert options == ["engine.slots=64"]


def test_options_are_not_for_a_daemon_of_others(capsys: pytest.CaptureFixture[str]) -> None:
    code, err = failing(capsys, "bench", "load", "--url", "ws://127.0.0.1:1", "engine.slots=64")
    assert code == 2
    assert "engine.slots=64" in err


def test_each_stream_is_compared_with_its_own_recording() -> None:
    said = [["a"], ["b"], ["a"], ["x"], ["a"]]
    heard = [Heard(words=words) for words in said]
    heard[4].errors.append("gone")
    assert Load(heard, 1.0, None, 1.0).wrong([["a"], ["b"]]) == [3, 4]


async def test_streams_take_the_recordings_in_turn(tmp_path: Path) -> None:
    for name, seconds in (("a", 0.3), ("b", 0.6)):
        soundfile.write(tmp_path / f"{name}.wav", np.full(int(16000 * seconds), 0.1, np.float32), 16000)
    recordings = [read(tmp_path / f"{name}.wav") for name in "ab"]
    async with served() as url:
        outcome = await load(url, recordings, 3, 80)
    assert outcome.audio_s == pytest.approx(1.2)
    assert [heard.errors for heard in outcome.streams] == [[], [], []]
    assert outcome.streams[0].words == outcome.streams[2].words != outcome.streams[1].words
    assert "| streams | 3 |" in table(outcome, [["no"], ["no"]], "t")


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
