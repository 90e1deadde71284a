"""One stream's words and when each was first seen, stable and final. Knows no socket and no clock: arrivals are values.

Messages are the daemon's own JSON as it was parsed: a load of many streams has no time for more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from models.config import FRAME_S, FRAME_SAMPLES
from streamer.backends.base import FIRST_SHORTER_BY

NEAR = 0.02  # frames: times are told in milliseconds


class Told(NamedTuple):
    """A final word: where it ends in the audio, and when it was seen as it stayed, seconds of the caller's clock."""

    end_s: float
    first: float
    stable: float
    final: float


@dataclass(slots=True)
class _Shown:
    text: str
    first: float
    stable: float | None = None


class Emission:
    """Partials and finals in, words with their arrivals out."""

    def __init__(self) -> None:
        self.words: list[str] = []
        """Of all finals so far."""
        self.finals = 0
        """How many; they are numbered from 0 without a gap."""
        self.broken = 0
        """Stable words that changed all the same."""
        self.revised = 0
        """Words that changed or went away after they had been shown."""
        self._shown: list[_Shown] = []

    def partial(self, message: dict[str, Any], now: float) -> float:
        """The open segment so far; where its newest word ends, seconds of audio."""
        words = message["words"]
        self._show([word["word"] for word in words], message["stable_words"], now)
        return float(words[-1]["end"]) if words else 0.0

    def final(self, message: dict[str, Any], now: float) -> list[Told]:
        """What a segment said."""
        words = message["words"]
        held = self._shown[len(words) :]  # cut before the last word: that one begins the next segment
        self._show([word["word"] for word in words], len(words), now)
        told = [
            Told(float(word["end"]), shown.first, now if shown.stable is None else shown.stable, now)
            for word, shown in zip(words, self._shown, strict=True)
        ]
        self.words += [shown.text for shown in self._shown]
        self.finals += 1
        self._shown = [shown for shown in held if shown.stable is None]
        return told

    @property
    def certain(self) -> list[str]:
        """The words that cannot change any more."""
        return [*self.words, *(shown.text for shown in self._shown if shown.stable is not None)]

    def _show(self, texts: Sequence[str], stable: int, now: float) -> None:
        shown = self._shown
        self.broken += sum(one.stable is not None for one in shown[len(texts) :])
        self.revised += len(shown[len(texts) :])
        del shown[len(texts) :]
        for place, text in enumerate(texts):
            if place == len(shown):
                shown.append(_Shown(text, now))
            elif shown[place].text != text:
                self.broken += shown[place].stable is not None
                self.revised += 1
                shown[place] = _Shown(text, now)
            if place < stable and shown[place].stable is None:
                shown[place].stable = now


def last_sample(end_s: float, chunk: int) -> int:
    """How many samples at 16 kHz a stream had sent when the chunk of `chunk` frames was whole that a word ends in.

    A partial comes when its newest word has a new token, and that word ends with the frame of the token; so this is the
    chunk that made the partial. Where the audio that was heard ends inside of that frame, the word ends there.
    """
    number = math.ceil(max(1, math.ceil(end_s / FRAME_S - NEAR)) / chunk)
    return FRAME_SAMPLES * chunk * number - FIRST_SHORTER_BY
