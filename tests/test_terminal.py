"""Claims about what a person at a terminal sees, and that results stay clean when they go elsewhere."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.served import served

pty = pytest.importorskip("pty", reason="pseudo-terminals are for POSIX")
COLOUR = re.compile(r"\x1b\[[0-9;]*3[0-7]m")


def at_a_terminal(argv: list[str], *, stdout_too: bool, **env: str) -> tuple[str, str]:
    """What a command wrote to a terminal on stderr (and, if asked, stdout), and what it wrote to a pipe on stdout."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "streamer", *argv],
        cwd=ROOT,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", **env},
        stdout=theirs if stdout_too else subprocess.PIPE,
        stderr=theirs,
        text=True,
    )
    os.close(theirs)
    seen = b""
    while piece := _read(ours):
        seen += piece
    piped = process.stdout.read() if process.stdout else ""
    assert process.wait(60) == 0
    os.close(ours)
    return seen.decode(), piped


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # how Linux says that the other side is closed
        return b""


def test_a_progress_bar_is_drawn_for_people_and_stays_out_of_the_results(golden: Path, hybrid: Path) -> None:
    clips = [str(golden / "clips" / "short.wav")] * 3
    seen, piped = at_a_terminal(["transcribe", "--model", str(hybrid), "--json", *clips], stdout_too=False)
    assert "3/3" in seen
    assert len(piped.splitlines()) == 3
    assert "\x1b" not in piped


def test_a_single_file_and_a_dumb_terminal_draw_nothing(golden: Path, hybrid: Path) -> None:
    clip = str(golden / "clips" / "short.wav")
    assert at_a_terminal(["transcribe", "--model", str(hybrid), clip], stdout_too=False)[0] == ""
    assert at_a_terminal(["transcribe", "--model", str(hybrid), clip, clip], stdout_too=False, TERM="dumb")[0] == ""


async def test_partials_are_rewritten_in_place_and_finals_stay(golden: Path) -> None:
    clip = str(golden / "clips" / "speech.wav")
    async with served() as url:
        argv = ["stream", "--latency", "80", "--url", url, clip]
        seen, _ = await asyncio.to_thread(at_a_terminal, argv, stdout_too=True)
    assert "\x1b[2K" in seen
    assert re.search(r"^ +\d+\.\d\d - +\d+\.\d\d  \w", seen.replace("\r", "\n").replace("\x1b[2K", ""), re.MULTILINE)


def test_no_color_is_respected(golden: Path, hybrid: Path) -> None:
    argv = ["transcribe", "--model", str(hybrid), *[str(golden / "clips" / "short.wav")] * 2]
    assert COLOUR.search(at_a_terminal(argv, stdout_too=False)[0])
    assert not COLOUR.search(at_a_terminal(argv, stdout_too=False, NO_COLOR="1")[0])


def test_json_at_a_terminal_is_whole_lines(golden: Path, hybrid: Path) -> None:
    clips = [str(golden / "clips" / "speech.wav")] * 2
    seen, _ = at_a_terminal(["transcribe", "--model", str(hybrid), "--json", *clips], stdout_too=True, COLUMNS="40")
    lines = seen.splitlines()
    assert [json.loads(line)["audio_filepath"] for line in lines] == clips
    assert max(map(len, lines)) > 100


async def test_events_at_a_terminal_are_whole_lines(golden: Path) -> None:
    async with served() as url:
        argv = ["stream", "--fast", "--json", "--url", url, str(golden / "clips" / "speech.wav")]
        seen, _ = await asyncio.to_thread(lambda: at_a_terminal(argv, stdout_too=True, COLUMNS="40"))
    lines = seen.splitlines()
    assert json.loads(lines[-1])["type"] == "closed"
    assert all(json.loads(line)["type"] for line in lines)
    assert max(map(len, lines)) > 100
