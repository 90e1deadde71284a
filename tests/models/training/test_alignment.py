"""Claims about alignment: the path is the likeliest of all, and words get its frames."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import soundfile

from models import store
from models.config import ConfigError
from models.training.alignment import Aligner, best_path


def collapsed(path: tuple[int, ...], blank: int) -> list[int]:
    return [label for label, _ in itertools.groupby(path) if label != blank]


@pytest.mark.parametrize("ids", [[0], [0, 1], [1, 1], [0, 1, 0], [0, 0, 0]])
@pytest.mark.parametrize("seed", range(4))
def test_the_path_is_the_best_of_all_paths(ids: list[int], seed: int) -> None:
    logits = 2 * np.random.default_rng(seed).standard_normal((6, 3))
    logprobs = (logits - np.log(np.exp(logits).sum(1, keepdims=True))).astype(np.float32)
    paths = [path for path in itertools.product(range(3), repeat=6) if collapsed(path, 2) == ids]
    best = max(paths, key=lambda path: sum(logprobs[frame, label] for frame, label in enumerate(path)))
    runs, at = [], 0
    for label, group in itertools.groupby(best):
        size = len(list(group))
        runs += [(at, at + size - 1)] if label != 2 else []
        at += size
    assert best_path(logprobs, ids) == runs


def test_too_few_frames_and_no_labels_have_no_path() -> None:
    logprobs = np.log(np.full((2, 3), 1 / 3, np.float32))
    assert best_path(logprobs, [0, 1, 0]) is None
    assert best_path(logprobs, [1, 1]) is None
    assert best_path(logprobs, []) is None


def test_words_of_a_text_get_times_in_order(golden: Path) -> None:
    aligner = Aligner(*store.load(golden / "models" / "hybrid_bpe" / "hybrid_bpe.nemo"))
    pcm, _ = soundfile.read(golden / "clips" / "pause.wav", dtype="float32")
    words = aligner.words(pcm, "Hello there, good morning!")
    assert words is not None
    assert [word for word, _, _ in words] == ["hello", "there", "good", "morning"]
    times = [time for _, start, end in words for time in (start, end)]
    assert times == sorted(times)
    assert 0 <= times[0] < times[-1] <= len(pcm) / 16000 + 0.08
    assert aligner.words(pcm, "\u4f60\u597d") is None
    assert aligner.words(pcm[:2000], "hello there good morning") is None
    with pytest.raises(ConfigError, match="expected a model with a CTC head"):
        Aligner(*store.load(golden / "models" / "rnnt_char" / "rnnt_char.nemo"))
