"""Claims about `streamer transcribe`: which file holds what, nothing is overwritten unasked, nothing heard is lost."""

from __future__ import annotations

import io
import itertools
import json
import os
import signal
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pysubs2
import pytest
import soundfile
import webvtt

from streamer.backends.fake import FakeBackend, Faults, spell
from streamer.cli import main
from streamer.commands import listening
from streamer.commands.listening import Chunks
from streamer.commands.results import Files, Job
from streamer.commands.targets import names
from streamer.subtitles.writers import open_writer
from streamer.transcriber import Transcriber
from tests.shell import failing

Run = Callable[..., int]


@pytest.fixture
def faults() -> Faults:
    return Faults()


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, faults: Faults) -> Run:
    """The command in a folder of its own, hearing letters instead of speech."""

    def opened(_args: object, tail_ms: int, slots: int) -> Chunks:
        return Chunks(Transcriber(backend=FakeBackend(slots, faults), chunk=2, tail_ms=tail_ms), 160)

    monkeypatch.setattr(listening, "open_listener", opened)
    monkeypatch.chdir(tmp_path)
    return lambda *argv: main(["transcribe", *argv])


def record(name: str, *channels: str) -> str:
    """A WAV file whose channels say these letters."""
    spoken = [spell(text) for text in channels]
    longest = max(map(len, spoken))
    Path(name).parent.mkdir(exist_ok=True)
    soundfile.write(name, np.stack([np.pad(pcm, (0, longest - len(pcm))) for pcm in spoken], axis=1), 16000)
    return name


# On stdout.


def test_without_a_format_a_file_is_a_line(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(record("a.wav", "good day")) == 0
    assert capsys.readouterr().out == "good day\n"
    assert run(record("b.wav", "  ")) == 0
    assert capsys.readouterr().out == "\n"


def test_several_files_are_lines_with_names_in_their_order(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    files = [record("b.wav", "a long one that takes its time"), record("a.wav", "short"), record("c.wav", " ")]
    assert run(*files) == 0
    assert capsys.readouterr().out == "b.wav: a long one that takes its time\na.wav: short\nc.wav: \n"


def test_a_format_is_written_to_stdout(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    file = record("a.wav", "good day" + 12 * " " + "sir")
    assert run("--format", "txt", file) == 0
    assert capsys.readouterr().out == "good day\nsir\n"
    assert run("--format", "srt", file) == 0
    read = pysubs2.SSAFile.from_string(capsys.readouterr().out, "srt")
    assert [event.plaintext for event in read] == ["good day", "sir"]
    assert run("--format", "ctm", file) == 0
    assert [line.split()[:2] + line.split()[4:5] for line in capsys.readouterr().out.splitlines()] == [
        ["a", "1", "good"],
        ["a", "1", "day"],
        ["a", "1", "sir"],
    ]


def test_json_lines_are_the_words_and_times_of_json(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    files = [record("a.wav", "good day" + 12 * " " + "sir"), record("b.wav", "yes")]
    assert run("--json", *files) == 0
    whole = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert run("--format", "jsonl", "--tail-ms", "0", *files) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["text"] for line in lines] == ["good day", "sir", "yes"]
    for file in whole:
        own = [line for line in lines if line["audio_filepath"] == file["audio_filepath"]]
        assert [word for line in own for word in line["words"]] == file["words"]


# To files.


def test_the_name_of_the_file_says_the_format(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    file = record("a.wav", "good day")
    for kind in ("txt", "srt", "vtt", "ctm", "jsonl"):
        assert run("--out", f"new/talk.{kind}", file) == 0
    assert capsys.readouterr().out == ""
    assert Path("new/talk.txt").read_text("utf-8") == "good day\n"
    assert webvtt.read("new/talk.vtt").captions[0].text == "good day"
    assert run("--out", "new/talk.doc", "--format", "txt", file) == 0
    code, err = failing(capsys, "transcribe", "--out", "talk.doc", file)
    assert code == 2
    assert "--out talk.doc: expected a name that ends in .txt, .srt, .vtt, .ctm, .jsonl, or --format" in err


def test_several_files_go_into_a_folder_each_by_its_own_name(run: Run) -> None:
    files = [record("a/one.wav", "one"), record("a/two.wav", "two"), record("b/one.wav", "again")]
    assert run("--format", "txt", "--out", "texts", *files) == 0
    assert {path.name: path.read_text("utf-8") for path in Path("texts").iterdir()} == {
        "one.wav.txt": "one\n",
        "two.txt": "two\n",
        "one.wav-2.txt": "again\n",
    }


def test_no_two_inputs_ever_share_an_output() -> None:
    assert names(["a.wav", "a.flac", "b.wav"], "srt") == ["a.wav.srt", "a.flac.srt", "b.srt"]
    assert names(["x/A.wav", "y/a.wav", "a.wav.mp3"], "srt") == ["A.wav.srt", "a.wav-2.srt", "a.wav-3.srt"]
    assert names(["a.tar!talk.wav", "b.tar!talk.wav"], "vtt") == ["talk.wav.vtt", "talk.wav-2.vtt"]


def test_what_is_there_is_not_overwritten_unasked(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    file = record("a.wav", "new words")
    Path("a.srt").write_text("precious")
    code, err = failing(capsys, "transcribe", "--out", "a.srt", file)
    assert (code, err) == (1, "streamer: a.srt: is there already; --force overwrites it")
    assert Path("a.srt").read_text() == "precious"
    assert run("--out", "a.srt", "--force", file) == 0
    assert "new words" in Path("a.srt").read_text()


def test_a_recording_is_never_overwritten_by_its_words(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    file = record("a.wav", "good day")
    before = Path(file).read_bytes()
    argv = ["--format", "txt", "--out", "./a.wav", "--force", file]
    assert run(*argv) == 2
    assert "is a recording to be heard" in capsys.readouterr().err
    assert Path(file).read_bytes() == before


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["--json", "--format", "srt", "a.wav"], "--json writes to stdout"),
        (["--json", "--out", "x", "a.wav"], "--json writes to stdout"),
        (["--format", "srt", "a.wav", "b.wav"], "--format srt: 2 files need --out FOLDER"),
        (["--out", "x.srt", "a.wav", "b.wav"], "--out x.srt: one file for 2 inputs, expected a folder"),
        (["--sample-rate", "8000", "a.wav"], "--encoding, --sample-rate and --channels: for standard input"),
        (["-", "a.wav"], "-: got other files too, expected standard input alone"),
        (["--latency", "offline", "-"], "--latency offline hears whole files"),
    ],
)
@pytest.mark.usefixtures("run")
def test_flags_that_make_no_sense_together_are_wrong_usage(
    argv: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, err = failing(capsys, "transcribe", *argv)
    assert code == 2
    assert sentence in err


@pytest.mark.parametrize("flag", [["--line-length", "3"], ["--lines", "4"], ["--reading-speed", "0"]])
@pytest.mark.usefixtures("run")
def test_a_style_that_nobody_could_read_is_wrong_usage(flag: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        main(["transcribe", *flag, "a.wav"])
    assert done.value.code == 2
    assert "expected a whole number from" in capsys.readouterr().err


def test_the_style_is_the_one_asked_for(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    file = record("a.wav", "it was a fine day and they all went down to the sea")
    assert run("--format", "srt", "--line-length", "20", "--lines", "1", file) == 0
    read = pysubs2.SSAFile.from_string(capsys.readouterr().out, "srt")
    assert max(len(line) for event in read for line in event.plaintext.split("\n")) <= 20
    assert all("\n" not in event.plaintext for event in read)


def test_a_longer_recording_takes_no_more_memory(tmp_path: Path) -> None:
    peaks = []
    for repeats in (40, 40, 200):  # the first one is for what is loaded once
        blocks = itertools.repeat(spell("some words and more of them "), repeats)
        chunks = Chunks(Transcriber(backend=FakeBackend(1), chunk=7), 560)
        files = Files(lambda job: open_writer(tmp_path / job.name, "srt", overwrite=True))
        tracemalloc.start()
        for said in chunks.follow([blocks]):
            files.add(Job("a.srt", 0), said)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert len((tmp_path / "a.srt").read_text("utf-8")) > 200 * len("some words and more of them ")
    assert peaks[2] < 2 * peaks[1]  # a share of what comes would make it five times as much


# Recordings that are not whole, and channels.


def test_of_a_recording_cut_off_the_words_are_kept_and_it_is_said(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    file = record("a.wav", "these words are there these are not")
    data = Path(file).read_bytes()
    Path(file).write_bytes(data[: len(data) // 2])
    assert run("--out", "a.txt", file) == 1
    assert Path("a.txt").read_text("utf-8").startswith("these words are")
    err = capsys.readouterr().err
    assert err.startswith("streamer: a.wav: ends ")
    assert len(err.splitlines()) == 1
    for flag in ([], ["--json"]):
        assert run(*flag, file) == 1
        assert "these words are" in capsys.readouterr().out


def test_a_recording_of_a_header_alone_is_no_empty_success(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    soundfile.write("a.wav", np.zeros(0, np.float32), 16000)
    code, err = failing(capsys, "transcribe", "a.wav")
    assert (code, err) == (1, "streamer: a.wav: holds no samples")
    assert run("--out", "texts/", "a.wav", record("b.wav", "yes")) == 1
    assert [path.name for path in Path("texts").iterdir()] == ["b.txt"]


@pytest.mark.parametrize("faults", [Faults(on_row=lambda row: ValueError("broken") if row.last else None)])
def test_what_was_heard_before_the_model_failed_is_kept(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(record("a.wav", "some words and more")) == 1
    out, err = capsys.readouterr()
    assert out.startswith("some words")
    assert err == "streamer: a.wav: broken\n"


def test_each_channel_is_heard_by_itself(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    file = record("call.wav", "hello" + 20 * " " + "fine", 12 * " " + "how are you")
    assert run("--multichannel", file) == 0
    assert capsys.readouterr().out == "call.wav channel 1: hello fine\ncall.wav channel 2: how are you\n"
    assert run("--multichannel", "--json", file) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["channel"], line["text"]) for line in lines] == [(0, "hello fine"), (1, "how are you")]
    assert run("--multichannel", "--format", "vtt", file) == 0
    captions = webvtt.from_buffer(io.StringIO(capsys.readouterr().out)).captions
    assert [(caption.voice, caption.text) for caption in captions] == [
        ("Channel 1", "hello"),
        ("Channel 2", "how are you"),
        ("Channel 1", "fine"),
    ]
    assert run("--multichannel", "--format", "srt", file) == 0
    read = pysubs2.SSAFile.from_string(capsys.readouterr().out, "srt")
    assert [event.plaintext for event in read] == ["[1] hello", "[2] how are you", "[1] fine"]
    assert run("--multichannel", "--out", "calls", "--format", "ctm", file, record("b.wav", "one", "two")) == 0
    assert {path.name: len(path.read_text().splitlines()) for path in Path("calls").iterdir()} == {
        "call.ctm": 5,
        "b.ctm": 2,
    }


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_told_to_end_it_closes_what_it_has_written(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def heed(launch: int, _: object) -> None:
        if launch == 40:
            os.kill(os.getpid(), signal.SIGTERM)

    hearing = Chunks(Transcriber(backend=FakeBackend(1, Faults(on_launch=heed)), chunk=2, tail_ms=0), 160)
    monkeypatch.setattr(listening, "open_listener", lambda *_, **__: hearing)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as left:
        run("--out", "a.srt", record("a.wav", "good day and so on " * 60))
    assert left.value.code == 143
    assert "good day and so on" in (tmp_path / "a.srt").read_text("utf-8").replace("\n", " ")
    assert signal.getsignal(signal.SIGTERM) is before
