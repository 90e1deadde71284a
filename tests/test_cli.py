"""Claims about the command line: results, exit codes, and one sentence for everything that can go wrong."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import socket
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import streamer
from streamer.cli import COMMANDS, main
from streamer.commands.evaluate import normalize
from tests.conftest import ROOT
from tests.served import served

NAMES = ("serve", "transcribe", "stream", "eval", "models", "export", "train", "bench", "demo")
LATENCIES = {"14_13": "1120", "14_6": "560", "14_1": "160", "14_0": "80"}  # of the golden hybrid model


def failing(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str]:
    """Exit code and stderr of a command; it is one line, and stdout stays empty."""
    code = main(argv)
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1, err
    return code, err.strip()


def cli(*argv: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own."""
    command = [sys.executable, "-m", "streamer", *argv]
    return subprocess.run(command, cwd=ROOT, text=True, capture_output=True, timeout=100, check=False, **options)


# Help, version and usage.


def test_every_command_explains_itself_with_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(COMMANDS) == len(NAMES)
    for name in NAMES:
        with pytest.raises(SystemExit) as done:
            main([name, "--help"])
        assert done.value.code == 0
        out = capsys.readouterr().out
        assert f"examples:\n  streamer {name}" in out
        assert max(map(len, out.splitlines())) <= 120


def test_the_version_is_the_packages_own(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"streamer {streamer.__version__}\n"


def test_no_command_shows_the_help_and_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "transcribe" in capsys.readouterr().out


@pytest.mark.parametrize(
    "argv", [["listen"], ["transcribe"], ["serve", "--prot", "1"], ["transcribe", "--tail-ms", "-1", "a"]]
)
def test_wrong_usage_is_exit_code_two(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        main(argv)
    assert done.value.code == 2
    assert "error:" in capsys.readouterr().err


# Transcribe.


@pytest.mark.parametrize("context", LATENCIES)
def test_transcribe_json_gives_nemos_tokens_and_frames(
    context: str, golden: Path, hybrid: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clips = ("speech", "pause", "short")
    files = [str(golden / "clips" / f"{clip}.wav") for clip in clips]
    code = main(["transcribe", "--model", str(hybrid), "--latency", LATENCIES[context], "--json", *files])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert code == 0
    assert [line["audio_filepath"] for line in lines] == files
    for clip, line in zip(clips, lines, strict=True):
        reference = np.load(golden / "models" / "hybrid_bpe" / f"{clip}.npz")
        assert line["tokens"] == reference[f"transcribe/{context}/rnnt_tokens"].tolist()
        assert line["frames"] == reference[f"transcribe/{context}/rnnt_frames"].tolist()
        assert " ".join(word["word"] for word in line["words"]) == line["text"]
        assert all(0 <= word["start"] <= word["end"] <= line["duration"] for word in line["words"])


def test_many_files_come_in_their_order_however_long_they_are(
    golden: Path, hybrid: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [str(golden / "clips" / f"{clip}.wav") for clip in ("speech", "short") * 12]
    assert main(["transcribe", "--model", str(hybrid), "--json", *files]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["audio_filepath"] for line in lines] == files
    assert len({line["text"] for line in lines}) == 2


def test_any_rate_and_channels_are_heard(
    tmp_path: Path, golden: Path, hybrid: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pcm, rate = soundfile.read(golden / "clips" / "short.wav", dtype="float32")
    soundfile.write(tmp_path / "stereo.flac", np.stack([pcm, pcm], axis=1), rate)
    soundfile.write(tmp_path / "slow.wav", pcm, 44100)
    files = [str(tmp_path / "stereo.flac"), str(tmp_path / "slow.wav"), str(golden / "clips" / "short.wav")]
    assert main(["transcribe", "--model", str(hybrid), "--json", *files]) == 0
    stereo, slow, plain = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert stereo["tokens"] == plain["tokens"]
    assert slow["duration"] == pytest.approx(len(pcm) / 44100, abs=0.001)


def test_a_bad_file_is_said_and_the_others_are_heard(
    tmp_path: Path, golden: Path, hybrid: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.wav").write_text("no sound")
    soundfile.write(tmp_path / "nan.wav", np.full(1600, np.nan, np.float32), 16000, subtype="FLOAT")
    bad = [str(tmp_path / name) for name in ("missing.wav", "text.wav", "nan.wav")]
    good = str(golden / "clips" / "short.wav")
    assert main(["transcribe", "--model", str(hybrid), *bad, good]) == 1
    out, err = capsys.readouterr()
    assert out.startswith(f"{good}: ")
    assert [line.rpartition("/")[2].split(": ")[:2] for line in err.splitlines()] == [
        ["missing.wav", "no such file"],
        ["text.wav", "not audio that libsndfile reads (Format not recognised)"],
        ["nan.wav", "holds samples that are not numbers (NaN or infinite)"],
    ]


def test_a_latency_the_model_lacks_is_answered_with_those_it_has(
    hybrid: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for latency in ("100", "offline", "fast"):
        code, err = failing(capsys, "transcribe", "--model", str(hybrid), "--latency", latency, "a.wav")
        assert code == 2
        assert "80, 160, 560, 1120 ms" in err


def test_a_full_context_model_is_heard_offline_only(golden: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = str(golden / "models" / "offline_bpe" / "offline_bpe.nemo")
    clip = str(golden / "clips" / "speech.wav")
    assert main(["transcribe", "--model", model, "--latency", "offline", "--json", clip]) == 0
    reference = np.load(golden / "models" / "offline_bpe" / "speech.npz")
    (key,) = [key for key in reference if key.startswith("transcribe/") and key.endswith("rnnt_tokens")]
    assert json.loads(capsys.readouterr().out)["tokens"] == reference[key].tolist()
    code, err = failing(capsys, "transcribe", "--model", model, clip)
    assert code == 1
    assert "--latency offline" in err


# Models.


def test_no_model_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert failing(capsys, "transcribe", "--model", str(tmp_path / "gone"), "a.wav")[1].endswith(
        "no such file or folder"
    )


def test_a_nemo_file_is_exported_once_into_the_cache(
    golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STREAMER_CACHE", str(tmp_path / "cache"))
    model = str(golden / "models" / "ctc_bpe" / "ctc_bpe.nemo")
    clip = str(golden / "clips" / "short.wav")
    assert main(["transcribe", "--model", model, clip]) == 0
    first = capsys.readouterr().out
    (made,) = (tmp_path / "cache").iterdir()
    monkeypatch.setitem(sys.modules, "torch", None)  # the second time nothing needs it
    assert main(["transcribe", "--model", model, clip]) == 0
    assert capsys.readouterr().out == first
    assert list((tmp_path / "cache").iterdir()) == [made]


def test_without_torch_a_nemo_file_names_the_extra(
    golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STREAMER_CACHE", str(tmp_path))
    monkeypatch.setitem(sys.modules, "torch", None)
    model = str(golden / "models" / "hybrid_bpe" / "hybrid_bpe.nemo")
    code, err = failing(capsys, "transcribe", "--model", model, "a.wav")
    assert code == 1
    assert "pip install 'streamer-asr[torch]'" in err


def test_models_info_says_what_a_model_is(golden: Path, hybrid: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for model in (hybrid, golden / "models" / "hybrid_bpe" / "hybrid_bpe.nemo"):
        assert main(["models", "info", str(model), "--json"]) == 0
        facts = json.loads(capsys.readouterr().out)
        assert facts["latencies_ms"] == [80, 160, 560, 1120]
        assert facts["vocabulary"] == "64 pieces (sentencepiece)"
        assert facts["licence"]


def test_export_does_not_overwrite_what_is_no_model(
    golden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    model = str(golden / "models" / "hybrid_bpe" / "hybrid_bpe.nemo")
    code, err = failing(capsys, "export", model, "--out", str(tmp_path))
    assert code == 1
    assert "no exported model" in err
    assert (tmp_path / "thesis.txt").exists()


@pytest.mark.parametrize("content", [None, "no_such_key: 1\n"])
def test_a_bad_training_file_is_one_sentence(
    tmp_path: Path, content: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "train.yaml"
    if content is not None:
        config.write_text(content)
    code, err = failing(capsys, "train", "--config", str(config))
    assert code == (1 if content is None else 2)
    assert str(config) in err


# Eval.


def test_eval_reads_tar_members_and_ends_with_one_json_object(
    tmp_path: Path, golden: Path, hybrid: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for clip in ("speech", "short"):
            data = (golden / "clips" / f"{clip}.wav").read_bytes()
            member = tarfile.TarInfo(f"{clip}.wav")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    heard = json.loads(_transcribed(hybrid, golden / "clips" / "short.wav", capsys))["text"]
    entries = [
        {"audio_filepath": "a.tar!short.wav", "text": f"  {heard.upper()}!", "source": "right"},
        {"audio_filepath": "a.tar!speech.wav", "text": "not a word of this", "source": "wrong"},
    ]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    argv = ["eval", "--model", str(hybrid), "--tail-ms", "0", "--json", "--manifest", str(tmp_path / "m.jsonl")]
    assert main(argv) == 0
    lines = capsys.readouterr().out.splitlines()
    scores = json.loads(lines[-1])
    assert scores["per_source"]["right"] == 0.0
    assert scores["per_source"]["wrong"] >= 1.0
    assert 0.0 < scores["wer"] < scores["per_source"]["wrong"]
    assert {json.loads(line)["audio_filepath"] for line in lines[:2]} == {entry["audio_filepath"] for entry in entries}
    assert main([*argv, "--limit", "1"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["recordings"] == 1


def _transcribed(hybrid: Path, clip: Path, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["transcribe", "--model", str(hybrid), "--json", str(clip)]) == 0
    return capsys.readouterr().out


def test_text_is_compared_without_case_and_punctuation() -> None:
    assert normalize("  It\u2019s \u201cnine\u201d o'clock,\nMr. Smith-Jones! ") == "it's nine o'clock mr smith jones"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "cannot be read"),
        ("{", "line 1: not JSON"),
        ("{}", "audio_filepath was expected"),
        ("\n", "no line to evaluate"),
        ('{"audio_filepath": "b.tar!x"}', "not a tar that can be read"),
    ],
)
def test_a_bad_manifest_is_one_sentence(
    tmp_path: Path, hybrid: Path, content: str | None, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = tmp_path / "m.jsonl"
    if content is not None:
        manifest.write_text(content)
    assert sentence in failing(capsys, "eval", "--model", str(hybrid), "--manifest", str(manifest))[1]


# The daemon and a file through it.


def test_serve_refuses_an_unknown_option_with_the_nearest_one(capsys: pytest.CaptureFixture[str]) -> None:
    code, err = failing(capsys, "serve", "server.prot=1")
    assert code == 2
    assert "server.port" in err


def test_a_port_in_use_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, err = failing(capsys, "serve", f"server.port={port}", "model.backend=fake", "log.level=error")
    assert code == 1
    assert f"127.0.0.1:{port}" in err


def test_the_printed_configuration_can_be_read_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--print-config", "server.port=9123"]) == 0
    first = capsys.readouterr().out
    (tmp_path / "c.yaml").write_text(first)
    assert main(["serve", "--print-config", "--config", str(tmp_path / "c.yaml")]) == 0
    assert capsys.readouterr().out == first
    assert "port: 9123" in first


async def test_stream_prints_timed_finals_without_escape_codes(
    golden: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = str(golden / "clips" / "speech.wav")
    async with served() as url:
        assert await asyncio.to_thread(main, ["stream", "--fast", "--url", url, clip]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()
    for line in out.splitlines():
        start, end = float(line[:7]), float(line[10:16])
        assert 0 <= start <= end
    assert "\x1b" not in out


async def test_stream_json_is_the_protocols_events(golden: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip = str(golden / "clips" / "speech.wav")
    async with served() as url:
        assert await asyncio.to_thread(main, ["stream", "--fast", "--json", "--url", url, clip]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {event["type"] for event in events} <= {"partial", "final", "closed"}
    assert [event["type"] for event in events][-2:] == ["final", "closed"]


def test_no_daemon_is_one_sentence(golden: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip = str(golden / "clips" / "short.wav")
    code, err = failing(capsys, "stream", "--url", "ws://127.0.0.1:1", clip)
    assert code == 1
    assert "Connection refused" in err
    assert "streamer serve" in err


async def test_an_interrupt_is_quiet(golden: Path) -> None:
    async with served() as url:
        command = [
            sys.executable,
            "-m",
            "streamer",
            "stream",
            "--json",
            "--url",
            url,
            str(golden / "clips" / "speech.wav"),
        ]
        process = await asyncio.create_subprocess_exec(
            *command, cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        await process.stdout.readline()  # it streams by now
        process.send_signal(signal.SIGINT)
        _, err = await process.communicate()
    assert process.returncode == 130
    assert err == b""


def test_a_reader_that_goes_is_no_error(golden: Path, hybrid: Path) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    command = [
        sys.executable,
        "-m",
        "streamer",
        "transcribe",
        "--model",
        str(hybrid),
        str(golden / "clips" / "short.wav"),
    ]
    done = subprocess.run(command, cwd=ROOT, stdout=write_end, stderr=subprocess.PIPE, timeout=100, check=False)
    os.close(write_end)
    assert (done.returncode, done.stderr) == (0, b"")


def test_the_demo_ends_by_itself(hybrid: Path) -> None:
    done = cli("demo", "--fast", "--model", str(hybrid))
    assert done.returncode == 0, done.stderr
    assert all(float(line[:7]) >= 0 for line in done.stdout.splitlines())
    assert done.stdout
