"""Word error rate over utterances and per source; greedy CTC texts. Knows nothing of training."""

from __future__ import annotations

from collections.abc import Sequence

import jiwer
from torch import Tensor

from models.tokenizer import Tokenizer


def wer(references: Sequence[str], heard: Sequence[str]) -> float:
    """Errors of all utterances by words of all utterances, as a fraction."""
    if len(references) != len(heard):
        raise ValueError(f"wer: got {len(heard)} hypotheses, expected {len(references)}")
    return float(jiwer.wer(list(references), list(heard)))


def wer_by_source(references: Sequence[str], heard: Sequence[str], sources: Sequence[str]) -> dict[str, float]:
    """The same for each source on its own, in alphabetical order."""
    out = {}
    for source in sorted(set(sources)):
        rows = [i for i, s in enumerate(sources) if s == source]
        out[source] = wer([references[i] for i in rows], [heard[i] for i in rows])
    return out


def ctc_texts(logprobs: Tensor, frames: Tensor, tokenizer: Tokenizer) -> list[str]:
    """Greedy CTC: the best of each frame, repeats joined, blanks (the last id) dropped; logprobs (B, T, V + 1)."""
    blank = logprobs.shape[-1] - 1
    texts = []
    for row, count in zip(logprobs.argmax(-1).tolist(), frames.tolist(), strict=True):
        ids = [i for t, i in enumerate(row[:count]) if i != blank and (t == 0 or row[t - 1] != i)]
        texts.append(tokenizer.decode(ids))
    return texts
