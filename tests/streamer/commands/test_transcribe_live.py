"""Claims about `streamer transcribe -`: any audio on a pipe, words as they are spoken, and every way it can end."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import IO

import numpy as np
import pytest
import soundfile
import webvtt

from models.config import FRAME_SAMPLES
from streamer.backends.fake import FakeBackend, Faults, spell
from streamer.cli import main
from streamer.commands import live, standard_input
from streamer.commands.listening import Chunks
from streamer.transcriber import Transcriber
from tests.conftest import ROOT
from tests.shell import failing

PAUSE = 12 * " "  # frames of 80 ms, more than ends a segment
TEXT = "good day" + PAUSE + "sir"


class Pipe:
    """The command on the toy, fed with bytes as they come from a pipe: a few at a time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.faults = Faults()
        self._set = monkeypatch.setattr
        self._set(live, "open_listener", self._listener)

    def _listener(self, _args: object, tail_ms: int, slots: int) -> Chunks:
        return Chunks(Transcriber(backend=FakeBackend(slots, self.faults), chunk=2, tail_ms=tail_ms), 160)

    def __call__(self, data: bytes, *argv: str, piece: int = 999) -> int:
        source = io.BytesIO(data)
        return self.feed(lambda size: source.read(min(size, piece)), *argv)

    def feed(self, read1: Callable[[int], bytes], *argv: str) -> int:
        """With a pipe that is read like this."""
        return self.take(SimpleNamespace(read1=read1), *argv)

    def take(self, buffer: object, *argv: str) -> int:
        """From a stream of bytes."""
        self._set(sys, "stdin", SimpleNamespace(buffer=buffer, isatty=lambda: False))
        return main(["transcribe", *argv, "-"])


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Pipe:
    return Pipe(monkeypatch)


def s16(text: str = TEXT) -> bytes:
    return (spell(text) * 32767).astype("<i2").tobytes()


def wav(*texts: str, rate: int = 16000, size: int | None = None) -> bytes:
    """A WAV file whose channels say these; its header gives `size` bytes of samples."""
    out = io.BytesIO()
    spoken = [spell(text) for text in texts]
    longest = max(map(len, spoken))
    soundfile.write(out, np.stack([np.pad(pcm, (0, longest - len(pcm))) for pcm in spoken], 1), rate, format="WAV")
    data = bytearray(out.getvalue())
    if size is not None:
        data[40:44] = struct.pack("<I", size)
    return bytes(data)


# What comes in.


@pytest.mark.parametrize("piece", [1, 7, 4096, 1 << 20])
def test_segments_are_lines_however_the_bytes_come(pipe: Pipe, piece: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert pipe(s16(), piece=piece) == 0
    assert capsys.readouterr().out == "good day\nsir\n"


def test_bare_samples_are_what_the_flags_say(pipe: Pipe, capsys: pytest.CaptureFixture[str]) -> None:
    stereo = np.repeat(spell(TEXT), 2).astype("<f4").tobytes()
    assert pipe(stereo, "--encoding", "pcm_f32le", "--channels", "2") == 0
    assert capsys.readouterr().out == "good day\nsir\n"
    assert pipe(s16()[: len(s16()) // 2], "--sample-rate", "8000", "--json") == 0
    assert json.loads(capsys.readouterr().out)["duration"] == pytest.approx(len(spell(TEXT)) / 16000, abs=0.001)


@pytest.mark.parametrize("size", [None, 0, 0x7FFFFFFF, 0xFFFFFFFF])
def test_wav_is_told_by_its_header_also_one_that_was_written_to_a_pipe(
    pipe: Pipe, size: int | None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pipe(wav(TEXT, size=size)) == 0
    assert capsys.readouterr().out == "good day\nsir\n"


def test_a_wav_that_ends_before_its_header_says_is_said(pipe: Pipe, capsys: pytest.CaptureFixture[str]) -> None:
    assert pipe(wav(TEXT)[:-16000]) == 1
    out, err = capsys.readouterr()
    assert out == "good day\nsir\n"[: len(out)]
    assert err == "streamer: standard input: ends 0.50 s before its header says (cut off?)\n"


def test_a_file_that_only_files_can_be_is_not_heard_as_samples(pipe: Pipe, capsys: pytest.CaptureFixture[str]) -> None:
    out = io.BytesIO()
    soundfile.write(out, spell(TEXT), 16000, format="AIFF")
    assert pipe(out.getvalue()) == 1
    assert capsys.readouterr() == (
        "",
        "streamer: standard input: audio='an AIFF header': expected bare pcm_s16le samples without a file header, "
        "or wav, webm, flac, ogg, mp4, mp3\n",
    )


@pytest.mark.skipif(importlib.util.find_spec("av") is None, reason="PyAV, the extra codecs")
def test_compressed_audio_is_told_by_its_header(pipe: Pipe, capsys: pytest.CaptureFixture[str]) -> None:
    out = io.BytesIO()
    soundfile.write(out, spell(TEXT), 16000, format="FLAC")
    assert pipe(out.getvalue()) == 0
    assert capsys.readouterr().out == "good day\nsir\n"


def test_without_pyav_the_extra_is_named(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert pipe(b"fLaC" + bytes(100)) == 1
    assert "standard input: flac needs PyAV, which is not installed: " in capsys.readouterr().err


def test_bytes_that_turn_out_to_be_no_audio_end_it_and_what_was_heard_is_final(
    pipe: Pipe, capsys: pytest.CaptureFixture[str]
) -> None:
    floats = np.concatenate([spell(TEXT), np.full(100, np.nan, np.float32)]).astype("<f4").tobytes()
    assert pipe(floats, "--encoding", "pcm_f32le") == 1
    out, err = capsys.readouterr()
    assert out == "good day\nsir\n"
    assert err.startswith("streamer: standard input: audio=nan: expected pcm_f32le samples")


@pytest.mark.parametrize("data", [b"", wav(" ")[:44]])
def test_nothing_at_all_is_no_success(pipe: Pipe, data: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    assert pipe(data) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("streamer: standard input: ")
    assert len(err.splitlines()) == 1


def test_a_terminal_is_no_audio(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))
    code, err = failing(capsys, "transcribe", "-")
    assert code == 2
    assert "standard input is a terminal, expected audio" in err


# What goes out.


def test_every_format_is_written_live(pipe: Pipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert pipe(s16(), "--out", str(tmp_path / "a.vtt")) == 0
    assert [caption.text for caption in webvtt.read(str(tmp_path / "a.vtt")).captions] == ["good day", "sir"]
    assert pipe(s16(), "--out", f"{tmp_path}/", "--format", "jsonl") == 0
    lines = [json.loads(line) for line in (tmp_path / "stdin.jsonl").read_text("utf-8").splitlines()]
    assert [line["text"] for line in lines] == ["good day", "sir"]
    assert capsys.readouterr().out == ""


def test_a_cue_before_a_pause_is_written_while_the_next_segment_is_spoken(pipe: Pipe, tmp_path: Path) -> None:
    words = s16("good day" + PAUSE + "we went on")
    data, out, seen = io.BytesIO(words + s16(" and on" * 30)), tmp_path / "a.vtt", []

    def read1(size: int) -> bytes:
        if data.tell() >= len(words) and not seen:
            seen.append(out.read_text("utf-8"))
        return data.read(min(size, 999))

    assert pipe.feed(read1, "--out", str(out)) == 0
    assert "good day" in seen[0], "30 s before the second segment ends"
    assert "we went" not in seen[0]


def test_json_is_one_object_at_the_end(pipe: Pipe, capsys: pytest.CaptureFixture[str]) -> None:
    assert pipe(s16(), "--json") == 0
    line = json.loads(capsys.readouterr().out)
    assert (line["audio_filepath"], line["text"]) == ("-", "good day sir")
    assert len(line["tokens"]) == len(line["frames"]) == len(" good day sir")


def test_each_channel_is_heard_by_itself(pipe: Pipe, capsys: pytest.CaptureFixture[str]) -> None:
    data = wav("hello" + 20 * " " + "fine", 12 * " " + "how are you")
    assert pipe(data, "--multichannel") == 0
    assert capsys.readouterr().out.splitlines() == ["1: hello", "2: how are you", "1: fine"]
    assert pipe(data, "--multichannel", "--format", "vtt") == 0
    captions = webvtt.from_buffer(io.StringIO(capsys.readouterr().out)).captions
    assert [(caption.voice, caption.text) for caption in captions] == [
        ("Channel 1", "hello"),
        ("Channel 2", "how are you"),
        ("Channel 1", "fine"),
    ]


def test_what_was_heard_before_the_model_failed_is_final(pipe: Pipe, capsys: pytest.CaptureFixture[str]) -> None:
    pipe.faults = Faults(on_row=lambda row: ValueError("broken") if row.last else None)
    assert pipe(s16("some words and more")) == 1
    out, err = capsys.readouterr()
    assert out.startswith("some words")
    assert err == "streamer: standard input: broken\n"


# A pipe that pauses.


class Heard(io.StringIO):
    """A stdout that says when it was written to."""

    def __init__(self) -> None:
        super().__init__()
        self.come = threading.Event()

    def write(self, text: str) -> int:
        written = super().write(text)
        self.come.set()
        return written


@pytest.mark.skipif(os.name != "posix", reason="select is for sockets elsewhere")
@pytest.mark.parametrize("header", [b"", wav("", size=0x7FFFFFFF)[:44]], ids=["bare", "wav"])
def test_words_before_a_pause_of_the_pipe_are_final_and_come_once(
    pipe: Pipe, header: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, (read_end, write_end) = Heard(), os.pipe()
    audio = header + s16("good day   to you   sir")
    paused = [len(header) + 2 * FRAME_SAMPLES * len(said) for said in ("good day ", "good day   to you ")]
    ends = [*paused, len(audio)]
    monkeypatch.setattr(sys, "stdout", out)

    def speak() -> None:
        with os.fdopen(write_end, "wb") as end:
            for begin, until in pairwise([0, *ends]):
                out.come.clear()
                end.write(audio[begin:until])
                end.flush()
                assert out.come.wait(60)

    speaker = threading.Thread(target=speak)
    speaker.start()
    with os.fdopen(read_end, "rb") as stdin:
        assert pipe.take(stdin) == 0
    speaker.join()
    assert out.getvalue() == "good day\nto you\nsir\n"


@pytest.mark.skipif(os.name != "posix", reason="select is for sockets elsewhere")
def test_a_fault_in_a_pause_is_said(pipe: Pipe, capsys: pytest.CaptureFixture[str]) -> None:
    read_end, write_end = os.pipe()

    def broken(_slot: int) -> None:
        os.close(write_end)
        raise OSError("no memory")

    pipe.faults = Faults(on_take=broken)
    os.write(write_end, s16("good day"))
    with os.fdopen(read_end, "rb") as stdin:
        assert pipe.take(stdin) == 1
    assert "no memory" in capsys.readouterr().err


# How it is told to end.


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize(("kind", "expected"), [(signal.SIGTERM, 143), (signal.SIGINT, 0)])
def test_told_to_end_it_finishes_with_what_was_heard(
    pipe: Pipe, kind: signal.Signals, expected: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = io.BytesIO(s16("good day and more")), tmp_path / "a.srt"

    def read1(size: int) -> bytes:
        if not (data := source.read(min(size, 999))):
            os.kill(os.getpid(), kind)
            os.kill(os.getpid(), signal.SIGTERM)  # as process managers do: to the process, then to its group
            raise AssertionError("the signal ends the read")
        return data

    assert pipe.feed(read1, "--out", str(out)) == expected
    assert "good day and more" in out.read_text("utf-8")
    assert capsys.readouterr() == ("", "")


def test_told_twice_it_leaves_at_once(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standard_input, "ECHO_S", -1.0)
    before = signal.getsignal(signal.SIGTERM)
    pipe.faults = Faults(on_row=lambda _: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(SystemExit) as left:
        pipe(s16())
    assert left.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is before


# As a process among others.


def started(hybrid: Path, **options: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "streamer", "transcribe", "--model", str(hybrid), "--latency", "80", "-"]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, **options)  # type: ignore[call-overload]


def said_first(process: subprocess.Popen[bytes], speech: bytes) -> bytes:
    """Speak and fall silent until a line comes; the pipe stays open."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(speech + bytes(2 * 16000 * 3))
    process.stdin.flush()
    return process.stdout.readline()


def speech(golden: Path) -> bytes:
    return soundfile.read(golden / "clips" / "speech.wav", dtype="int16")[0].tobytes()


def test_words_come_while_more_is_still_to_come(golden: Path, hybrid: Path) -> None:
    with started(hybrid, stdout=subprocess.PIPE) as process:
        assert said_first(process, speech(golden)).strip()
        process.communicate(timeout=100)
    assert process.returncode == 0


@pytest.mark.skipif(os.name != "posix", reason="SIGINT as a terminal sends it")
def test_ctrl_c_finishes_with_what_was_heard(golden: Path, hybrid: Path) -> None:
    with started(hybrid, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        heard = said_first(process, speech(golden))
        stdin: IO[bytes] | None = process.stdin
        assert stdin is not None
        stdin.write(speech(golden))
        stdin.flush()
        process.send_signal(signal.SIGINT)
        process.stdin = None  # stays open, as a microphone's does
        out, err = process.communicate(timeout=100)
        stdin.close()
    assert (process.returncode, err) == (0, b"")
    assert heard
    assert not out or out.endswith(b"\n")


def test_a_reader_that_goes_is_no_error(golden: Path, hybrid: Path) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    process = started(hybrid, stdout=write_end, stderr=subprocess.PIPE)
    os.close(write_end)
    _, err = process.communicate(speech(golden) + bytes(2 * 16000 * 3), timeout=100)
    assert (process.returncode, err) == (0, b"")


def test_on_a_terminal_partial_words_are_rewritten_in_place(golden: Path, hybrid: Path) -> None:
    pty = pytest.importorskip("pty", reason="pseudo-terminals are for POSIX")
    ours, theirs = pty.openpty()
    process = started(hybrid, stdout=theirs, env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "100"})
    os.close(theirs)
    assert process.stdin is not None
    process.stdin.write(speech(golden))
    process.stdin.close()
    seen = b""
    try:
        while piece := os.read(ours, 65536):
            seen += piece
    except OSError:  # how Linux says that the other side is closed
        pass
    os.close(ours)
    assert process.wait(100) == 0
    assert b"\x1b[2K" in seen
    assert b" - " in seen
