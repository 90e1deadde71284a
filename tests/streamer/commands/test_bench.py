"""Claims about `streamer bench`: what its words mean, and that each stream is held to its own recording."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from clients.send import read
from streamer import bench
from streamer.bench import Heard, Load
from streamer.commands.bench import parted
from tests.served import served
from tests.shell import failing


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
        outcome = await bench.load(url, recordings, 3, 80)
    assert outcome.audio_s == pytest.approx(1.2)
    assert [heard.errors for heard in outcome.streams] == [[], [], []]
    assert outcome.streams[0].words == outcome.streams[2].words != outcome.streams[1].words
    assert "| streams | 3 |" in bench.table(outcome, [["no"], ["no"]], "t")
