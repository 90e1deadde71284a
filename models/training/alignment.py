"""When known words were spoken, by a CTC head's best path through them. Knows nothing of manifests or of streams."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from models import transcribe
from models.config import FRAME_S, ConfigError
from models.tokenizer import Tokenizer
from models.training.manifest import Spelling
from models.training.text import normalize
from models.transducer import Model

IMPOSSIBLE = -np.inf
Word = tuple[str, float, float]  # seconds of the recording at which it begins and ends


def best_path(logprobs: NDArray[np.float32], ids: Sequence[int]) -> list[tuple[int, int]] | None:
    """First and last frame of each label on the likeliest CTC path through all of them; None where there is none.

    logprobs (T, V + 1), blank last. Places of the path are blank, label, blank, ..., blank.
    """
    if not ids:
        return None
    blank = logprobs.shape[1] - 1
    states = np.array([blank, *(label for one in ids for label in (one, blank))])
    leap = np.zeros(len(states), bool)  # a label may follow another without a blank, if it is another one
    leap[3::2] = states[3::2] != states[1:-2:2]
    scores = np.full(len(states), IMPOSSIBLE)
    scores[:2] = logprobs[0, states[:2]]
    steps = np.zeros((len(logprobs), len(states)), np.int8)
    for frame in range(1, len(logprobs)):
        one = np.concatenate([[IMPOSSIBLE], scores[:-1]])
        two = np.where(leap, np.concatenate([[IMPOSSIBLE] * 2, scores[:-2]]), IMPOSSIBLE)
        ways = np.stack([scores, one, two])
        steps[frame] = ways.argmax(0)
        scores = ways.max(0) + logprobs[frame, states]
    place = len(states) - (1 if scores[-1] >= scores[-2] else 2)
    if scores[place] == IMPOSSIBLE:
        return None
    spans: list[tuple[int, int]] = [(len(logprobs), -1)] * len(ids)
    for frame in range(len(logprobs) - 1, -1, -1):
        if place % 2:
            spans[place // 2] = (frame, max(frame, spans[place // 2][1]))
        place -= int(steps[frame, place])
    return spans


class Aligner:
    """A model with a CTC head, hearing whole recordings at its longest latency."""

    def __init__(self, model: Model, tokenizer: Tokenizer) -> None:
        if not model.config.ctc:
            raise ConfigError("aligner", model.config.name, "a model with a CTC head")
        self._model, self._tokenizer = model, tokenizer
        self._spelling = Spelling(tokenizer)
        self._context = max(model.config.contexts, key=lambda context: context[1])

    def spelled(self, text: str) -> str | None:
        """The text as the tokenizer can spell it: as it is, or without case and punctuation; None if not at all."""
        said = " ".join(text.split())
        return next((one for one in (said, normalize(text)) if one and not self._spelling.missing(one)), None)

    def words(self, pcm: NDArray[np.float32], text: str) -> list[Word] | None:
        """16 kHz samples and their text to words, starts and ends; None where that cannot be spelled or fitted."""
        said = self.spelled(text)
        if said is None:
            return None
        frames = transcribe.offline(self._model, pcm, self._context).frames
        with torch.inference_mode():
            prompted = self._model.with_prompt(frames[None], torch.zeros(1, dtype=torch.int64))
            logprobs = self._model.ctc(prompted)[0].numpy()
        pieces = [self._tokenizer.encode(word) for word in said.split()]
        ids = self._tokenizer.encode(said)
        if self._tokenizer.kind == "labels":  # the blank between two words is a label, too
            pieces = [[*(self._tokenizer.encode(" ") if place else []), *one] for place, one in enumerate(pieces)]
        spans = best_path(logprobs, ids) if sum(map(len, pieces)) == len(ids) and len(frames) else None
        if spans is None:
            return None
        spoken, at = [], 0
        for word, piece in zip(said.split(), pieces, strict=True):
            first, last = spans[at][0], spans[at + len(piece) - 1][1]
            spoken.append((word, first * FRAME_S, (last + 1) * FRAME_S))
            at += len(piece)
        return spoken
