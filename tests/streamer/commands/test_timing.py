"""Claims about `streamer eval --timing`: when words were seen is on the audio's clock, held against when they ended."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from models.tokenizer import Tokenizer
from streamer.cli import main
from streamer.commands.listening import Listener, Said
from streamer.commands.timing import Latencies, Spoken, Watch, of_manifest, pairs
from streamer.decoding import Token
from streamer.transcript.words import Speller, Word
from tests.shell import failing

LABELS = ["a", "b", " "]


class Script(Listener):
    """Hears "ab a" in the first recording, nothing in the second: tokens by the step of 160 ms that brings them."""

    def __init__(self) -> None:
        self.config, self.latency_ms = SimpleNamespace(name="script"), 160  # type: ignore[assignment]
        self.speller = Speller(Tokenizer.from_labels(LABELS))

    def follow(self, recordings: Iterable[Iterable[np.ndarray]]) -> Iterator[Said]:
        list(recordings)
        brought = {1: [Token(0, 2, 0.0)], 2: [Token(1, 4, 0.0)], 3: [Token(2, 6, 0.0), Token(0, 7, 0.0)]}
        for step in range(6):
            tokens = tuple(brought.get(step, ()))
            yield Said(0, (), tokens, 0.0, min(0.8, 0.16 * (step + 1)), step == 5)
        yield Said(1, (), (), 0.0, 0.1, True)


@pytest.fixture
def watch() -> Watch:
    watch = Watch(Script())
    assert [heard.index for heard in watch.hear([np.zeros(12800), np.zeros(1600)])] == [0, 1]
    return watch


def test_a_word_is_seen_when_the_chunk_is_whole_that_says_it_as_it_stays(watch: Watch) -> None:
    seen = watch.seen[0]
    assert [word.text for word in seen.words] == ["ab", "a"]
    # A chunk of two frames is whole 67.5 ms before its last frame would be; "a" became "ab" with the third chunk.
    assert [told.first for told in seen.told] == pytest.approx([0.48 - 0.0675, 0.64 - 0.0675])
    assert [told.stable for told in seen.told] == pytest.approx([0.64 - 0.0675, 0.8]), "all is stable at the end"
    assert seen.revised == 1
    assert seen.final_s == pytest.approx(18 * 0.08 - 0.0675), "frame 7 and ten frames of silence lie in chunk 8"
    assert (watch.seen[1].words, watch.seen[1].final_s) == ((), None)


def test_latencies_are_of_words_that_were_heard_as_they_were_spoken(watch: Watch) -> None:
    latencies = Latencies()
    latencies.add(watch.seen[0], [Spoken("Ab", 0.1, 0.4), Spoken("b", 0.5, 0.55)], exact=True)
    latencies.add(watch.seen[1], None, exact=False)
    summary = latencies.summary()
    assert (summary["words"], summary["words_in_time"], summary["recordings_without_times"]) == (2, 1, 1)
    assert summary["emission_ms"] == {"p50": 12, "p95": 12}
    assert summary["final_ms"] is None, "the last word was heard as another"
    assert summary["word_start_error_ms"]["p50"] == round(1000 * abs(watch.seen[0].words[0].start_s - 0.1))
    assert summary["revised_words"] == 0.5


def test_words_are_paired_without_case_and_in_order() -> None:
    heard = [Word(text=text, start_s=0, end_s=0, confidence=1) for text in ("the", "cat's", "a", "hat")]
    spoken = [Spoken(text, 0, 0) for text in ("The", "cat\u2019s", "in", "the", "hat.")]
    assert pairs(spoken, heard) == [(0, 0), (1, 1), (4, 3)]


def test_times_of_a_manifest_are_taken_only_where_they_are_whole() -> None:
    word = {"word": "a", "start": 0.1, "end": 0.2}
    assert of_manifest({"words": [word]}) == [Spoken("a", 0.1, 0.2)]
    for fields in ({}, {"words": []}, {"words": "a"}, {"words": [{"word": "a"}]}, {"words": [{**word, "end": "x"}]}):
        assert of_manifest(fields) is None


def test_eval_ends_with_the_latencies_of_a_models_own_words(
    tmp_path: Path, golden: Path, hybrid: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["transcribe", "--model", str(hybrid), "--json", str(golden / "clips" / "pause.wav")]) == 0
    heard: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    line = {"audio_filepath": str(golden / "clips" / "pause.wav"), "text": heard["text"]}
    exact = {**line, "words": heard["words"]}
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(one) + "\n" for one in (line, exact)))
    nemo = golden / "models" / "hybrid_bpe" / "hybrid_bpe.nemo"
    flags = ["--model", str(hybrid), "--tail-ms", "0", "--timing", str(nemo)]
    assert main(["eval", "--manifest", str(tmp_path / "m.jsonl"), *flags]) == 0
    out = capsys.readouterr().out
    timing = json.loads(out.splitlines()[-1])["timing"]
    assert "word seen after its end: p50" in out
    assert timing["words_in_time"] == timing["words"] == 2 * len(heard["words"])
    assert timing["word_end_error_ms"] == {"p50": 0, "p95": 0}
    whole = ["--model", str(golden / "models" / "offline_bpe" / "offline_bpe.nemo"), "--latency", "offline"]
    code, err = failing(capsys, "eval", "--manifest", str(tmp_path / "m.jsonl"), *whole, "--timing")
    assert code == 2
    assert "--timing: got --latency offline, expected one of" in err
