"""Claims about `streamer mic` with a real sound server, whose microphone is a pipe, and a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
import time
import wave
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from websockets.asyncio.server import ServerConnection, serve

from streamer.backends.fake import LEVELS, FakeBackend
from streamer.server import Daemon
from tests import pulse as sound
from tests.conftest import ROOT
from tests.pulse import Pulse
from tests.served import config, served
from tests.shell import cli

pytestmark = pytest.mark.skipif(sound.missing() is not None, reason=str(sound.missing()))

SAMPLE = ROOT / "clients" / "samples" / "shepherd.opus"
WAIT_S = 60.0


@pytest.fixture(scope="module")
def pulse() -> Iterator[Pulse]:
    with sound.pulse() as server:
        yield server


@pytest.fixture
def own_pulse() -> Iterator[Pulse]:
    """One that a test may break."""
    with sound.pulse() as server:
        yield server


def tone(letter: str, seconds: float) -> bytes:
    """What the toy hears as this letter again and again, whatever the frames' beginnings; a little silence after it."""
    level = (ord(letter) - ord("a") + 1) / LEVELS
    loud = np.full(int(seconds * sound.RATE), round(level * 32767), "<i2")
    return loud.tobytes() + bytes(sound.RATE)


class Mic:
    """A running `streamer mic --json`: its events as they come, and its end."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.events: list[dict[str, Any]] = []

    async def until(self, kind: str, **fields: Any) -> dict[str, Any]:
        """The next event of this kind with these values."""
        assert self.process.stdout is not None
        async with asyncio.timeout(WAIT_S):
            while line := await self.process.stdout.readline():
                event: dict[str, Any] = json.loads(line)
                self.events.append(event)
                if event["type"] == kind and fields.items() <= event.items():
                    return event
        raise AssertionError(f"no {kind} came: {self.events}, {await self.process.communicate()}")

    async def end(self, *signals: signal.Signals) -> tuple[int, str]:
        """The exit code and stderr after these signals; what else it says is among the events."""
        for kind in signals:
            self.process.send_signal(kind)
        async with asyncio.timeout(WAIT_S):
            out, err = await self.process.communicate()
        self.events += [json.loads(line) for line in out.splitlines()]
        assert self.process.returncode is not None
        return self.process.returncode, err.decode()

    def words(self) -> str:
        return " ".join(event["text"] for event in self.events if event["type"] == "final" and event["text"])


@asynccontextmanager
async def listening(pulse: Pulse, *argv: str) -> AsyncIterator[Mic]:
    """A process that captures by now: its file of audio grows."""
    growing = [Path(word) for word in argv if word.endswith(".wav")]
    command = [sys.executable, "-m", "streamer", "mic", "--json", *argv]
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, env=pulse.env, stdout=PIPE, stderr=PIPE)
    mic = Mic(process)
    try:
        await mic.until("ready")
        for file in growing:
            async with asyncio.timeout(WAIT_S):
                while file.stat().st_size <= 44:
                    await asyncio.sleep(0.02)
        yield mic
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def captured(file: Path) -> bytes:
    with wave.open(str(file)) as wav:
        assert (wav.getframerate(), wav.getnchannels(), wav.getsampwidth()) == (16000, 1, 2)
        return wav.readframes(wav.getnframes())


def transcribed(file: Path) -> str:
    done = cli("transcribe", str(file))
    assert done.returncode == 0, done.stderr
    return " ".join(done.stdout.split())


def speech(seconds: float) -> bytes:
    pcm, rate = soundfile.read(SAMPLE, dtype="int16", frames=int(seconds * sound.RATE))
    assert rate == sound.RATE
    return bytes(pcm.astype("<i2").tobytes())


# With the model that ships.


@pytest.mark.parametrize(("local", "seconds"), [(False, 9.96), (True, 4.0)], ids=["daemon", "local"])
async def test_what_is_said_is_captured_bit_for_bit_and_heard_as_transcribe_hears_it(
    local: bool, seconds: float, pulse: Pulse, tmp_path: Path
) -> None:
    """Not a word may differ: the file holds the very samples that were heard, and cuts of text change no words."""
    audio, subtitles, said = tmp_path / "talk.wav", tmp_path / "talk.srt", speech(seconds)
    files = ("--save", str(audio), "--save", str(subtitles))
    async with _server(local) as argv, listening(pulse, *argv, *files) as mic:
        await asyncio.to_thread(pulse.say, said)
        await mic.until("partial")
        code, err = await mic.end(signal.SIGINT)
    if "lost audio" in err:
        pytest.skip("this machine was too busy to capture: PortAudio dropped audio")
    assert code == 0, err
    assert "microphone  default, 16000 Hz" in err
    assert [event["type"] for event in mic.events[-2:]] == ["final", "closed"]
    assert mic.events[-2]["reason"] == "close"
    heard = captured(audio)
    at = heard.find(said[: 2 * sound.RATE])
    assert at >= 0
    assert heard[at:].startswith(said[: len(heard) - at])
    assert len(heard) - at >= len(said) - sound.RATE  # the pipe may still hold the last moments when Ctrl-C comes
    assert mic.words() == transcribed(audio) != ""
    _check_subtitles(subtitles, mic.words())


@asynccontextmanager
async def _server(local: bool) -> AsyncIterator[list[str]]:
    """The flags for the model that ships: in the process, or in a daemon."""
    if local:
        yield ["--local"]
        return
    from streamer.commands import daemon

    with daemon.Daemon("log.level=warning", "model.threads=1") as running:
        yield ["--url", running.url]


def _check_subtitles(file: Path, words: str) -> None:
    import pysubs2

    cues = pysubs2.load(str(file))
    assert " ".join(cue.plaintext.replace("\n", " ") for cue in cues) == words
    assert all(0 <= cue.start < cue.end for cue in cues)


# With the toy.


async def test_an_interrupt_makes_final_what_was_said_and_a_second_one_leaves_at_once(pulse: Pulse) -> None:
    async def deaf(socket: ServerConnection) -> None:
        ready = {"type": "ready", "session_id": "s", "model": "m", "latency_ms": 80, "sample_rate": 16000}
        await socket.send(json.dumps(ready))
        async for message in socket:
            if isinstance(message, str):
                closing.set()

    closing = asyncio.Event()
    async with serve(deaf, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        async with listening(pulse, "--url", f"ws://127.0.0.1:{port}") as mic:
            mic.process.send_signal(signal.SIGINT)
            await asyncio.wait_for(closing.wait(), WAIT_S)
            code, _ = await mic.end(signal.SIGINT)
    assert code == 130


@pytest.mark.parametrize("how", ["unplug", "kill"])
async def test_a_microphone_that_goes_is_said_after_the_final_of_what_was_heard(own_pulse: Pulse, how: str) -> None:
    async with served() as url, listening(own_pulse, "--url", url, "--latency", "80") as mic:
        speaking = asyncio.create_task(asyncio.to_thread(own_pulse.say, tone("e", 1.0)))
        await mic.until("partial")
        await asyncio.to_thread(getattr(own_pulse, how))
        code, err = await mic.end()
        own_pulse.stop()
        await speaking
    assert code == 1
    assert "microphone 'default': is gone" in err
    assert mic.words()
    assert set(mic.words()) <= set("abcde ")  # frames at both ends are not full of it
    assert mic.events[-2]["reason"] in ("close", "stall")
    assert mic.events[-1]["type"] == "closed"


async def test_a_daemon_that_goes_and_comes_back_misses_nothing(pulse: Pulse, tmp_path: Path) -> None:
    audio = tmp_path / "talk.wav"
    first, end_first = await _daemon("server.port=0")
    url = f"ws://127.0.0.1:{first.port}"
    async with listening(pulse, "--url", url, "--latency", "80", "--save", str(audio)) as mic:
        await asyncio.to_thread(pulse.say, tone("e", 0.5))
        await mic.until("final")
        await end_first()
        await mic.until("away")
        await asyncio.to_thread(pulse.say, tone("m", 0.5))
        _, end_second = await _daemon(f"server.port={first.port}")
        await mic.until("ready")
        while "m" not in mic.words():
            await mic.until("final")
        code, err = await mic.end(signal.SIGINT)
        await end_second()
    assert code == 0, err
    assert "trying again until the daemon is back" in err
    assert "the daemon is back" in err
    finals = [event for event in mic.events if event["type"] == "final" and event["text"]]
    assert [event["segment"] for event in finals] == sorted({event["segment"] for event in finals})
    starts = [word["start"] for event in finals for word in event["words"]]
    assert starts == sorted(starts)
    spoken = np.frombuffer(captured(audio), "<i2")
    mid_s = float(np.flatnonzero(spoken == round(13 / LEVELS * 32767))[0]) / sound.RATE  # where the m begins
    (start_s,) = [word["start"] for event in finals for word in event["words"] if "mm" in word["word"]]
    assert start_s == pytest.approx(mid_s, abs=0.2)  # a frame, and the resumed stream's other raster


async def _daemon(port: str) -> tuple[Daemon, Callable[[], Awaitable[None]]]:
    """A daemon in this event loop, and how to end it."""
    daemon = Daemon(config(port, "endpoint.silence_ms=400"), FakeBackend(8))
    await daemon.start()
    running = asyncio.create_task(daemon.run())

    async def end() -> None:
        daemon.stop()
        await running

    return daemon, end


async def test_the_room_that_was_asked_for_is_told_to_the_daemon(pulse: Pulse) -> None:
    async def full(socket: ServerConnection) -> None:
        assert socket.request is not None
        asked.append(socket.request.path)
        await socket.send(json.dumps({"type": "error", "code": "at_capacity", "message": "server: full"}))

    asked: list[str] = []
    async with serve(full, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        done = await asyncio.to_thread(
            cli, "mic", "--room", "hall_1", "--url", f"http://127.0.0.1:{port}", env=pulse.env
        )
    assert (done.returncode, done.stderr) == (1, "streamer: server: full (at_capacity)\n")
    assert asked == ["/v1/stream?sample_rate=16000&room=hall_1"]


async def test_at_a_terminal_words_and_level_are_seen_and_the_cursor_comes_back(pulse: Pulse) -> None:
    pty = pytest.importorskip("pty", reason="pseudo-terminals are for POSIX")
    ours, theirs = pty.openpty()
    async with served("endpoint.silence_ms=400") as url:
        command = [sys.executable, "-m", "streamer", "mic", "--url", url, "--latency", "80"]
        env = {**pulse.env, "TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24", "LANG": "C.UTF-8"}
        process = await asyncio.create_subprocess_exec(
            *command, cwd=ROOT, env=env, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
        )
        os.close(theirs)
        terminal = _Terminal(ours)
        await asyncio.to_thread(terminal.until, "dBFS")
        await asyncio.to_thread(pulse.say, tone("e", 1.0))
        await asyncio.to_thread(terminal.until, r"\d\.\d\d - +\d+\.\d\d  \w*eeee")
        process.send_signal(signal.SIGINT)
        await asyncio.to_thread(terminal.until, None)
        assert await process.wait() == 0
    assert "\x1b[?25l" in terminal.seen
    assert terminal.seen.rindex("\x1b[?25h") > terminal.seen.rindex("\x1b[?25l")
    assert re.search(r"━+.*peak +-\d+ +rms +-\d+ dBFS", terminal.seen)


class _Terminal:
    """What was written to a pseudo-terminal."""

    def __init__(self, ours: int) -> None:
        self.seen = ""
        self._ours = ours

    def until(self, pattern: str | None) -> None:
        """Read on until it is seen; None: until the other side is closed."""
        while pattern is None or not re.search(pattern, self.seen):
            try:
                self.seen += os.read(self._ours, 65536).decode(errors="replace")
            except OSError:  # how Linux says that the other side is closed
                assert pattern is None, self.seen
                return os.close(self._ours)


async def test_silence_alone_is_noticed(pulse: Pulse) -> None:
    async with served() as url, listening(pulse, "--url", url) as mic:
        assert mic.process.stderr is not None
        deadline = time.monotonic() + WAIT_S
        while b"muted" not in (line := await mic.process.stderr.readline()):
            assert line, "it ended"
            assert time.monotonic() < deadline
        code, _ = await mic.end(signal.SIGTERM)
    assert code == 0
