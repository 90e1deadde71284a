"""Claims about `streamer mic` before and around a capture: what is refused, listed, said. No sound server is needed."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from websockets.asyncio.server import ServerConnection, serve

from streamer.backends.fake import LEVELS
from streamer.cli import main
from tests.portaudio import PortAudioError, Sound, Stream
from tests.served import served
from tests.shell import failing


@pytest.fixture
def sd(monkeypatch: pytest.MonkeyPatch) -> Sound:
    sound = Sound()
    monkeypatch.setitem(sys.modules, "sounddevice", sound)
    return sound


def test_the_list_marks_the_default_and_says_which_rates_a_device_takes(
    sd: Sound, capsys: pytest.CaptureFixture[str]
) -> None:
    sd.takes = lambda rate, _: None if rate >= 44100 else PortAudioError("Invalid sample rate", -9997)
    assert main(["mic", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("*")] == ["*   5  default  [ALSA]"]
    assert "    0  USB Audio: Desk Mic  [ALSA]" in lines
    assert "       1 channel, 48000 Hz by default; takes 44100, 48000" in lines
    assert not any("Speakers" in line for line in lines)


@pytest.mark.parametrize("argv", [["--list"], [], ["--local"]])
def test_no_microphone_is_one_sentence(
    argv: list[str], sd: Sound, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sd, "query_devices", lambda: [])
    code, err = failing(capsys, "mic", *argv)
    assert code == 1
    assert err.startswith("streamer: no microphone: this machine offers no input device")


def test_without_the_package_the_extra_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    code, err = failing(capsys, "mic")
    assert code == 1
    assert err.endswith("add the extra mic in the clone: .venv/bin/pip install -e '.[mic]'")


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["--latency", "offline"], "--latency offline: expected one of the model's, in milliseconds"),
        (["--latency", "0"], "--latency 0: expected one of the model's"),
        (["--model", "x.nemo", "--threads", "2"], "--model, --threads: the daemon has its model"),
        (["--local", "--room", "a"], "--room: viewers come to a daemon; expected without --local"),
        (["--local", "--url", "ws://h:1"], "--url: the model runs in this process; expected without --local"),
        (["--save", "talk.mp3"], "--save talk.mp3: expected a name that ends in one of"),
        (["--url", "ftp://h"], "url: got 'ftp://h'"),
    ],
)
@pytest.mark.usefixtures("sd")
def test_wrong_usage_is_one_sentence_before_anything_is_captured(
    argv: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, err = failing(capsys, "mic", *argv)
    assert code == 2
    assert sentence in err


@pytest.mark.usefixtures("sd")
def test_no_daemon_is_one_sentence_and_leaves_no_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, err = failing(capsys, "mic", "--url", "ws://127.0.0.1:1", "--save", str(tmp_path / "a.wav"))
    assert code == 1
    assert not list(tmp_path.iterdir())
    assert err == "streamer: no daemon at ws://127.0.0.1:1 (Connection refused); start one: streamer serve"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("127.0.0.1:1", "no daemon at ws://127.0.0.1:1 (Connection refused); expected ws://HOST:PORT"),
        ("http://127.0.0.1:1/", "no daemon at ws://127.0.0.1:1 (Connection refused); start one: streamer serve"),
    ],
)
@pytest.mark.usefixtures("sd")
def test_the_address_that_was_tried_is_said(url: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert failing(capsys, "mic", "--url", url) == (1, f"streamer: {said}")


async def test_a_latency_that_the_model_lacks_is_wrong_usage(sd: Sound, capsys: pytest.CaptureFixture[str]) -> None:
    async with served() as url:
        code, err = await asyncio.to_thread(failing, capsys, "mic", "--url", url, "--latency", "100")
    assert code == 2
    assert "latency=100: expected one of the model's" in err
    assert not sd.streams


async def test_a_device_of_another_rate_and_two_channels_is_heard_at_its_own(
    sd: Sound, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """44.1 kHz, stereo only: the first channel goes to the daemon as it is and into the file."""
    sd.takes = lambda rate, channels: None if (rate, channels) == (44100, 2) else PortAudioError("no", -9997)
    file = tmp_path / "talk.wav"
    letter, silence = round(5 / LEVELS * 32767), np.zeros(44100, np.int16)
    voice = np.concatenate([np.full(44100, letter, np.int16), silence])

    def speak(stream: Stream) -> None:
        block = stream.settings["blocksize"]
        for at in range(0, len(voice) - block + 1, block):
            stream.give(np.stack([voice[at : at + block], silence[:block] + 9], axis=1))
        stream.settings["finished_callback"]()

    sd.on_start = speak
    async with served() as url:
        code = await asyncio.to_thread(
            main, ["mic", "--json", "--url", url, "--latency", "80", "--device", "camera", "--save", str(file)]
        )
    out, err = capsys.readouterr()
    assert code == 1  # a device that ends by itself has gone
    assert "microphone  USB Camera, 44100 Hz, the first of 2 channels" in err
    events: list[dict[str, Any]] = [json.loads(line) for line in out.splitlines()]
    assert events[0]["sample_rate"] == 44100
    final = next(event for event in events if event["type"] == "final" and event["text"])
    assert "eeeeeeee" in final["text"]
    assert final["end"] == pytest.approx(1.0, abs=0.17)
    samples = len(voice) // 882 * 882
    assert file.read_bytes()[44:] == voice[:samples].astype("<i2").tobytes()


async def test_a_daemon_that_refuses_for_good_ends_the_capture(
    sd: Sound, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused: list[str] = []

    async def moody(socket: ServerConnection) -> None:
        """Hangs up on the first one, and refuses the second."""
        if not refused:
            ready = {"type": "ready", "session_id": "s", "model": "m", "latency_ms": 80, "sample_rate": 16000}
            await socket.send(json.dumps(ready))
        else:
            await socket.send(json.dumps({"type": "error", "code": "unauthorized", "message": "key: a new one"}))
        refused.append("once")

    sd.on_start = lambda stream: stream.give([1] * 320)
    async with serve(moody, "127.0.0.1", 0) as server:
        url = f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"
        assert await asyncio.to_thread(main, ["mic", "--url", url, "--save", str(tmp_path / "a.wav")]) == 1
    err = capsys.readouterr().err.splitlines()
    assert err[-1] == "streamer: key: a new one (unauthorized)"
    assert (tmp_path / "a.wav").read_bytes()[44:] == b"\1\0" * 320
    assert sd.streams[0].closed


async def test_what_nobody_took_in_time_is_silence_of_the_same_length(
    sd: Sound, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def stand_still(stream: Stream) -> None:
        for _ in range(550):  # eleven seconds in which nobody looks; ten are kept
            stream.give([5] * 320)
        threading.Timer(0.5, go_on, [stream]).start()

    def go_on(stream: Stream) -> None:
        stream.give([7] * 320)
        stream.settings["finished_callback"]()

    sd.on_start = stand_still
    file = tmp_path / "a.wav"
    async with served() as url:
        assert await asyncio.to_thread(main, ["mic", "--json", "--url", url, "--save", str(file)]) == 1
    assert "streamer: 1.0 s of audio were lost: nobody took them in time" in capsys.readouterr().err
    samples = np.frombuffer(file.read_bytes()[44:], "<i2")
    assert [(int(samples[at]), at) for at in (0, *np.flatnonzero(np.diff(samples)) + 1)] == [
        (5, 0), (0, 500 * 320), (7, 550 * 320)
    ]  # fmt: skip


async def test_a_daemon_that_never_says_the_rest_is_not_waited_for_for_ever(
    sd: Sound, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def silent(socket: ServerConnection) -> None:
        ready = {"type": "ready", "session_id": "s", "model": "m", "latency_ms": 80, "sample_rate": 16000}
        await socket.send(json.dumps(ready))
        await socket.wait_closed()

    def speak(stream: Stream) -> None:
        stream.give([1] * 320)
        stream.settings["finished_callback"]()

    sd.on_start = speak
    monkeypatch.setattr("streamer.commands.mic.FINAL_S", 0.3)
    async with serve(silent, "127.0.0.1", 0) as server:
        url = f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"
        assert await asyncio.to_thread(main, ["mic", "--json", "--url", url]) == 1
    assert "streamer: the daemon did not say the rest within 0.3 s" in capsys.readouterr().err
