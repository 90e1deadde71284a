"""Claims about the command line: results, exit codes, and one sentence for everything that can go wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

import streamer
from export.to_onnx import uncollected
from streamer.cli import COMMANDS, main
from streamer.commands import daemon
from streamer.commands.models import parameters
from tests.conftest import ROOT
from tests.shell import cli, failing

NAMES = ("serve", "transcribe", "stream", "mic", "eval", "models", "export", "train", "bench", "demo")
LATENCIES = {"14_13": "1120", "14_6": "560", "14_1": "160", "14_0": "80"}  # of the golden hybrid model


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
def test_wrong_usage_is_one_sentence_and_exit_code_two(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        main(argv)
    assert done.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith("streamer: ")
    command = "streamer" if argv == ["listen"] or "--prot" in argv else "streamer transcribe"
    assert err.endswith(f"; see {command} --help\n")
    assert len(err.splitlines()) == 1


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


def test_a_language_for_a_model_without_any_is_wrong_usage(hybrid: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, err = failing(capsys, "transcribe", "--model", str(hybrid), "--language", "de", "a.wav")
    assert code == 2
    assert "--language de: expected no language: this model has no prompts" in err


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


def test_what_is_no_model_is_said_without_asking_for_torch(
    tmp_path: Path, golden: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    for model in (tmp_path, golden / "clips" / "short.wav"):
        for argv in (["transcribe", "--model", str(model), "a.wav"], ["models", "info", str(model)]):
            code, err = failing(capsys, *argv)
            assert code == 1
            assert f"model {model}: neither a .nemo archive nor a model folder" in err


def test_a_nemo_file_is_exported_once_into_the_cache(
    golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STREAMER_CACHE", str(tmp_path / "cache"))
    model = str(golden / "models" / "ctc_bpe" / "ctc_bpe.nemo")
    clip = str(golden / "clips" / "short.wav")
    with uncollected():
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
    assert "pip install -e '.[torch]'" in err


def test_models_info_says_what_a_model_is(golden: Path, hybrid: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for model in (hybrid, golden / "models" / "hybrid_bpe" / "hybrid_bpe.nemo"):
        assert main(["models", "info", str(model), "--json"]) == 0
        facts = json.loads(capsys.readouterr().out)
        assert facts["latencies_ms"] == [80, 160, 560, 1120]
        assert facts["default_latency_ms"] == 560
        assert facts["vocabulary"] == "64 pieces (sentencepiece)"
        assert facts["licence"]


def test_parameters_are_what_was_learned_by_the_weights_own_header(tmp_path: Path) -> None:
    shapes = {"preprocessor.window": [400], "a.weight": [3, 5], "a.bias": [5], "norm.running_mean": [5], "scalar": []}
    tensors = {name: {"dtype": "F16", "shape": shape, "data_offsets": [0, 0]} for name, shape in shapes.items()}
    header = json.dumps({"__metadata__": {"format": "x"}, **tensors}).encode()
    (tmp_path / "whole").write_bytes(len(header).to_bytes(8, "little") + header)
    (tmp_path / "broken").write_bytes((1 << 60).to_bytes(8, "little") + header[:-2])
    assert parameters(tmp_path / "whole") == 3 * 5 + 5 + 1
    assert parameters(tmp_path / "broken") is None
    assert parameters(tmp_path / "gone") is None


# What surrounds a command.


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


@pytest.mark.skipif(os.name != "posix", reason="a shell that closes stdout")
def test_a_closed_stdout_is_one_sentence() -> None:
    command = f"{sys.executable} -m streamer models info x >&-"
    done = subprocess.run(["sh", "-c", command], cwd=ROOT, stderr=subprocess.PIPE, timeout=100, check=False)
    assert done.returncode == 1
    assert done.stderr == b"streamer: stdout is closed, expected a file, a pipe or a terminal for the results\n"


def test_a_cache_that_cannot_be_written_is_one_sentence(
    golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("STREAMER_CACHE", str(tmp_path / "file"))
    model = str(golden / "models" / "ctc_bpe" / "ctc_bpe.nemo")
    code, err = failing(capsys, "transcribe", "--model", model, "a.wav")
    assert code == 1
    assert err.startswith(f"streamer: {tmp_path / 'file'}")
    assert err.endswith("Not a directory") or err.endswith("File exists")


def test_the_demo_starts_nothing_for_a_file_that_cannot_be_read(
    hybrid: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(daemon, "Daemon", None)
    code, err = failing(capsys, "demo", "--model", str(hybrid), "gone.wav")
    assert code == 1
    assert err == "streamer: gone.wav: no such file"


def test_the_demo_ends_by_itself_and_names_the_model(hybrid: Path) -> None:
    done = cli("demo", "--fast", "--model", str(hybrid))
    assert done.returncode == 0, done.stderr
    assert all(float(line[:7]) >= 0 for line in done.stdout.splitlines())
    assert done.stdout
    name = json.loads((hybrid / "config.json").read_text("utf-8"))["name"]
    assert f"model     {name}\n" in done.stderr
