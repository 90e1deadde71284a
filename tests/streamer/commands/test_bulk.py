"""Claims about `transcribe --device`: it writes what recordings give alone, in their order; an error is a sentence."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from models.batching import Budget
from models.bulk import Bulk
from streamer.cli import main
from streamer.commands import hands
from streamer.commands.bulk import summary
from streamer.commands.device import Heard
from tests.models import golden
from tests.shell import failing

CLIPS = [str(golden.ROOT / "clips" / f"{name}.wav") for name in ("short", "speech", "pause", "short")]
ROOT = Path(__file__).resolve().parents[3]
Run = Callable[..., list[dict[str, Any]]]


def thread(_count: int) -> Executor:
    return ThreadPoolExecutor(1)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command with its readers in a thread; the objects that it prints."""
    monkeypatch.setattr(hands, "open_hands", thread)
    monkeypatch.chdir(tmp_path)

    def objects(name: str, *argv: str, code: int = 0) -> list[dict[str, Any]]:
        capsys.readouterr()
        assert main(["transcribe", "--json", "--threads", "1", "--model", str(golden.checkpoint(name)), *argv]) == code
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return objects


def assert_alike(got: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    """But for the last digits of confidences."""
    assert len(got) == len(expected)
    for one, other in zip(got, expected, strict=True):
        assert {**one, "words": []} == {**other, "words": []}
        for word, wanted in zip(one["words"], other["words"], strict=True):
            assert word == {**wanted, "confidence": pytest.approx(wanted["confidence"], abs=2e-4)}


@pytest.mark.parametrize("latency", ["80", "560", "1120"])
def test_a_streaming_model_hears_what_it_hears_chunk_by_chunk(run: Run, latency: str) -> None:
    expected = run("hybrid_bpe", "--backend", "pytorch", "--latency", latency, *CLIPS)
    assert len(expected[1]["words"]) > 2
    assert_alike(run("hybrid_bpe", "--device", "cpu", "--latency", latency, *CLIPS), expected)
    assert_alike(run("hybrid_bpe", "--device", "cpu", "--latency", latency, "--batch-seconds", "1", *CLIPS), expected)


def test_a_full_context_model_hears_what_it_hears_whole(run: Run) -> None:
    expected = run("offline_bpe", "--latency", "offline", *CLIPS)
    assert_alike(run("offline_bpe", "--device", "cpu", *CLIPS), expected)
    assert_alike(run("offline_bpe", "--device", "cpu", "--latency", "offline", *CLIPS), expected)


def test_silence_behind_a_recording_is_heard_as_chunk_by_chunk(run: Run) -> None:
    options = ("--latency", "560", "--tail-ms", "700", CLIPS[1])
    assert_alike(run("hybrid_bpe", "--device", "cpu", *options), run("hybrid_bpe", "--backend", "pytorch", *options))


def test_a_language_is_the_one_that_was_asked_for(run: Run) -> None:
    for language in dict(golden.loaded("prompt_rnnt")[0].config.prompts):
        options = ("--language", language, "--latency", "560", CLIPS[1])
        expected = run("prompt_rnnt", "--backend", "pytorch", *options)
        assert_alike(run("prompt_rnnt", "--device", "cpu", *options), expected)


def test_a_manifest_is_heard_line_by_line_in_its_order_with_its_parts(run: Run, tmp_path: Path) -> None:
    lines: list[dict[str, Any]] = [
        {"audio_filepath": "speech.wav", "duration": 1.5, "offset": 0.5, "text": "not needed"},
        {"audio_filepath": "short.wav"},
        {"audio_filepath": "speech.wav", "duration": 0.5},
    ]
    Path("m.jsonl").write_text("\n".join(map(json.dumps, lines)), "utf-8")
    options = ("--latency", "560", "--device", "cpu", "--manifest", "m.jsonl", "--audio-root")
    got = run("hybrid_bpe", *options, str(golden.ROOT / "clips"))
    assert [line["audio_filepath"] for line in got] == ["speech.wav", "short.wav", "speech.wav"]
    assert [line["duration"] for line in got] == [1.5, pytest.approx(0.2494), 0.5]
    assert [line.get("offset") for line in got] == [0.5, None, None]
    soundfile.write("part.wav", golden.clip("speech")[8000:32000], 16000, "FLOAT")
    (alone,) = run("hybrid_bpe", "--backend", "pytorch", "--latency", "560", "part.wav")
    assert (got[0]["tokens"], got[0]["frames"]) == (alone["tokens"], alone["frames"])
    for name in ("speech", "short"):  # below the manifest's own folder, where no root is given
        (tmp_path / f"{name}.wav").write_bytes((golden.ROOT / "clips" / f"{name}.wav").read_bytes())
    assert run("hybrid_bpe", *options[:-1]) == got


@pytest.mark.parametrize("kind", ["txt", "srt", "vtt", "ctm", "jsonl"])
def test_every_kind_of_file_is_written_as_chunk_by_chunk(run: Run, kind: str) -> None:
    del run  # sets up the folder and the readers
    model = ["transcribe", "--threads", "1", "--model", str(golden.checkpoint("hybrid_bpe")), "--latency", "560"]
    assert main([*model, "--backend", "pytorch", "--format", kind, "--out", "alone", *CLIPS]) == 0
    assert main([*model, "--device", "cpu", "--format", kind, "--out", "bulk", *CLIPS]) == 0
    written = {path.name: path.read_text("utf-8") for path in Path("bulk").iterdir()}
    assert len(written) == len(CLIPS)
    if kind in ("ctm", "jsonl"):  # hold confidences, whose last digits differ
        assert set(written) == {path.name for path in Path("alone").iterdir()}
        assert all(written.values())
    else:
        assert written == {path.name: path.read_text("utf-8") for path in Path("alone").iterdir()}


def test_lines_of_text_are_in_order(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    del run
    model = ["transcribe", "--threads", "1", "--model", str(golden.checkpoint("hybrid_bpe")), "--latency", "560"]
    assert main([*model, "--backend", "pytorch", *CLIPS]) == 0
    alone = capsys.readouterr().out
    assert main([*model, "--device", "cpu", *CLIPS]) == 0
    out, err = capsys.readouterr()
    assert out == alone
    assert "4 recordings, 6.3 s of audio in " in err


def test_what_cannot_be_heard_is_said_and_the_others_go_on(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    Path("text.wav").write_text("no audio")
    got = run("hybrid_bpe", "--device", "cpu", "gone.wav", CLIPS[0], "text.wav", CLIPS[1], code=1)
    assert [Path(line["audio_filepath"]).name for line in got] == ["short.wav", "speech.wav"]
    assert main(["transcribe", "--device", "cpu", "--model", str(golden.checkpoint("hybrid_bpe")), "gone.wav"]) == 1
    assert capsys.readouterr().err == "streamer: gone.wav: no such file\n"


def test_a_recording_too_long_for_a_full_context_model_is_refused_alone(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = Bulk.__init__

    def narrow(self: Bulk, *args: Any, **options: Any) -> None:
        made(self, *args, **options)
        self.budget = Budget(750, 30**2)

    monkeypatch.setattr(Bulk, "__init__", narrow)
    soundfile.write("long.wav", np.zeros(16000 * 3), 16000)
    capsys.readouterr()
    model = ("--threads", "1", "--model", str(golden.checkpoint("offline_bpe")))
    assert main(["transcribe", "--json", "--device", "cpu", *model, "long.wav", CLIPS[0]]) == 1
    out, err = capsys.readouterr()
    assert json.loads(out)["audio_filepath"] == CLIPS[0]
    assert "streamer: long.wav: lasts 3 s, expected at most 2 s of a full-context model in the memory of this" in err
    del run


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["--price", "3", "a.wav"], "--price: expected --device cuda or --device cpu with it"),
        (["--manifest", "m.jsonl"], "--manifest: expected --device cuda or --device cpu with it"),
        (["--device", "cpu", "-"], "-: standard input is heard as it comes, expected files with --device"),
        (["--device", "cpu", "--multichannel", "a.wav"], "--multichannel: not with --device"),
        (["--device", "cpu", "--precision", "int8", "a.wav"], "--precision int8: not with --device"),
        (["--device", "cpu", "--backend", "ort", "a.wav"], "--backend: not with --device"),
        (["--device", "cpu", "--audio-root", ".", "a.wav"], "--audio-root: expected --manifest with it"),
        (["--device", "cpu", "--latency", "90", "a.wav"], "--latency 90: "),
        (["--device", "cpu", "--latency", "offline", "a.wav"], "--latency offline: "),
    ],
)
def test_what_cannot_be_asked_for_is_one_sentence(
    capsys: pytest.CaptureFixture[str], argv: list[str], sentence: str
) -> None:
    code, err = failing(capsys, "transcribe", *argv)
    assert code == 2
    assert err.startswith(f"streamer: {sentence}")


@pytest.mark.parametrize(
    ("argv", "got"), [([], "no file and no manifest"), (["--manifest", "m", "a.wav"], "files and a manifest")]
)
def test_files_or_a_manifest_are_to_be_named(capsys: pytest.CaptureFixture[str], argv: list[str], got: str) -> None:
    with pytest.raises(SystemExit):
        main(["transcribe", "--device", "cpu", *argv])
    assert f"streamer: got {got}, expected either FILE ... or --manifest; see" in capsys.readouterr().err


@pytest.mark.parametrize("price", ["-1", "cheap", "nan", "inf"])
def test_a_price_is_a_number_from_nought(capsys: pytest.CaptureFixture[str], price: str) -> None:
    with pytest.raises(SystemExit):
        main(["transcribe", "--device", "cpu", "--price", price, "a.wav"])
    assert f"--price: got '{price}', expected a price from 0, like 3.50" in capsys.readouterr().err


class Dying(Executor):
    """Processes of which one has died."""

    def submit(self, *_: Any, **__: Any) -> Future[Any]:
        gone: Future[Any] = Future()
        gone.set_exception(BrokenExecutor("a process was terminated abruptly"))
        return gone


def test_a_reader_that_dies_is_a_sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(hands, "open_hands", lambda _count: Dying())
    model = ("--threads", "1", "--model", str(golden.checkpoint("ctc_bpe")))
    code, err = failing(capsys, "transcribe", "--device", "cpu", *model, CLIPS[0])
    assert (code, err) == (1, "streamer: a process that reads recordings died (out of memory? try fewer --readers)")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_cuda_is_refused_and_nothing_else_is_taken_instead(capsys: pytest.CaptureFixture[str]) -> None:
    code, err = failing(capsys, "transcribe", "--device", "cuda", CLIPS[0])
    assert code == 1
    assert err.startswith(f"streamer: --device cuda: torch {torch.__version__} finds no GPU, expected one with its")


def test_importing_it_touches_no_gpu() -> None:
    code = "import sys, torch, streamer.commands.device, models.bulk; sys.exit(torch.cuda.is_initialized())"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_processes_of_their_own_read_and_spell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--threads", "1", "--model", str(golden.checkpoint("hybrid_bpe")), "--latency", "560", "--json"]
    assert main(["transcribe", *options, "--device", "cpu", "--readers", "2", str(tmp_path / "gone"), *CLIPS]) == 1
    out = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert main(["transcribe", *options, "--backend", "pytorch", *CLIPS]) == 0
    assert_alike(out, [json.loads(line) for line in capsys.readouterr().out.splitlines()])


def test_speed_and_cost_are_said_with_and_without_files() -> None:
    speed, cost = summary(Heard(3, 7200.0, 0.5), 2.0, "H200 (bf16)", 3.5)
    assert speed == (
        "3 recordings, 7,200.0 s of audio in 2.00 s: RTFx 3,600.0 with reading, decoding and writing files; "
        "0.50 s on H200 (bf16): RTFx 14,400.0 without"
    )
    assert cost == "1,000,000 hours at 3.50 a GPU hour: 972.22 with files, 243.06 without"
    assert len(list(summary(Heard(3, 7200.0, 0.5), 2.0, "H200 (bf16)", None))) == 1
