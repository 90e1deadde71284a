"""Claims about `streamer transcribe` and odd names: of recordings, of outputs, of what is no file at all."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from streamer.cli import main
from tests.shell import failing
from tests.streamer.commands.test_transcribe import faults, record, run

__all__ = ["faults", "run"]

Run = Callable[..., int]
NO_UTF8 = os.fsdecode(b"caf\xe9.wav")


def named(name: str, text: str) -> str:
    """A recording of this name, which says this text."""
    os.rename(record("made.wav", text), name)
    return name


@pytest.mark.skipif(sys.platform != "linux", reason="file systems that take UTF-8 only")
def test_a_name_that_is_no_utf8_is_a_name_like_others(run: Run, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    files = [named(NO_UTF8, "good day"), named("b.wav", "yes")]
    assert run(*files) == 0
    assert capsysbinary.readouterr().out == b"caf\\xe9.wav: good day\nb.wav: yes\n"
    assert run("--json", *files) == 0
    first, second = map(json.loads, capsysbinary.readouterr().out.splitlines())
    assert os.fsencode(first["audio_filepath"]) == b"caf\xe9.wav"
    assert (first["text"], second["text"]) == ("good day", "yes")
    for kind in ("txt", "srt", "vtt", "jsonl", "ctm"):
        assert run("--format", kind, "--out", kind, *files) == 0
        assert sorted(os.listdir(os.fsencode(kind))) == sorted([f"b.{kind}".encode(), b"caf\xe9." + kind.encode()])
    assert (Path("ctm") / os.fsdecode(b"caf\xe9.ctm")).read_text("utf-8").startswith("caf 1 0.")


def test_what_a_name_holds_never_reaches_the_terminal_raw(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    odd = "a\x1b[31m\n\u202eb.wav"
    assert run(named(odd, "good day"), named("\u00fc \u00e9.wav", "yes"), "no\nfile\x07.wav") == 1
    out, err = capsys.readouterr()
    assert out == "a\\x1b[31m\\n\\u202eb.wav: good day\n\u00fc \u00e9.wav: yes\n"
    assert err == "streamer: no\\nfile\\x07.wav: no such file\n"
    assert run("--json", odd) == 0
    assert json.loads(capsys.readouterr().out)["audio_filepath"] == odd
    Path("x\x1b.txt").touch()
    assert main(["transcribe", "--out", "x\x1b.txt", odd]) == 1
    assert capsys.readouterr().err == "streamer: x\\x1b.txt: is there already; --force overwrites it\n"


@pytest.mark.usefixtures("run")
def test_no_name_is_not_the_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert failing(capsys, "transcribe", "") == (1, "streamer: '': no name of a file")


@pytest.mark.usefixtures("run")
def test_a_pipe_is_told_how_it_is_heard(capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo("p")
    code, err = failing(capsys, "transcribe", "p")
    assert code == 1
    assert err == "streamer: p: a pipe, expected a file, or - for standard input: ffmpeg ... | streamer transcribe -"


def test_what_is_no_file_loses_nothing_and_needs_no_force(run: Run) -> None:
    assert run("--format", "srt", "--out", "/dev/null", record("a.wav", "good day")) == 0


@pytest.mark.usefixtures("run")
def test_a_name_that_says_another_format_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    code, err = failing(capsys, "transcribe", "--format", "vtt", "--out", "x.srt", record("a.wav", "good day"))
    assert code == 2
    assert err == "streamer: --out x.srt: the name says srt, --format says vtt, expected the same"
    assert not Path("x.srt").exists()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_an_output_on_a_full_disk_is_named_and_the_others_go_on(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    files = [record("a.wav", "lost words"), record("b.wav", "yes"), record("c.wav", "fine")]
    Path("texts").mkdir()
    Path("texts/a.txt").symlink_to("/dev/full")
    assert run("--format", "txt", "--out", "texts", *files) == 1
    assert capsys.readouterr().err == "streamer: texts/a.txt: No space left on device\n"
    assert [Path(f"texts/{name}.txt").read_text("utf-8") for name in "bc"] == ["yes\n", "fine\n"]


@pytest.mark.parametrize("flag", [["--tail-ms", "60001"], ["--sample-rate", "192001"], ["--sample-rate", "7999"]])
@pytest.mark.usefixtures("run")
def test_numbers_have_bounds(flag: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        main(["transcribe", *flag, "-"])
    assert done.value.code == 2
    assert "expected a whole number from" in capsys.readouterr().err
