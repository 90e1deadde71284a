"""All that was seen under a load, added up: delays with the moments they belong to, and whether the words are right.

Knows no process and no clock. Moments are seconds since the load began, delays seconds.
"""

from __future__ import annotations

import math
import re
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from streamer.bench.notes import Ended, Notes


@dataclass(slots=True)
class Delays:
    """Delays and when they were met."""

    at: array[float] = field(default_factory=lambda: array("d"))
    seconds: array[float] = field(default_factory=lambda: array("d"))

    def add(self, at: float, seconds: float) -> None:
        self.at.append(at)
        self.seconds.append(seconds)

    def between(self, begin: float, end: float) -> Delays:
        """Those of a part of the time, the beginning included."""
        found = Delays()
        for at, seconds in zip(self.at, self.seconds, strict=True):
            if begin <= at < end:
                found.add(at, seconds)
        return found

    def milliseconds(self) -> dict[str, float]:
        """p50, p95, p99 and max, to a tenth, and how many there are; nothing but that where there are none."""
        return spread(self.seconds)


def spread(seconds: Sequence[float]) -> dict[str, float]:
    """The quantiles of delays in milliseconds."""
    if not seconds:
        return {"count": 0}
    ordered = sorted(seconds)
    figures = {f"p{percent}": quantile(ordered, percent / 100) for percent in (50, 95, 99)} | {"max": ordered[-1]}
    return {name: round(1000 * value, 1) for name, value in figures.items()} | {"count": len(ordered)}


def quantile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of them do not exceed."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


class Tally:
    """`add` what generators tell. What a load had to say is in `references`, by recording."""

    def __init__(self, references: Sequence[Sequence[str]], *, counted: tuple[float, float], letters: bool) -> None:
        """counted: from when to when delays count. letters: segments may end within words, so that words differ where
        their letters do."""
        self._references, self._counted, self._letters = references, counted, letters
        self.open: dict[int, int] = {}
        self.at = 0.0
        self.sent = self.received = 0
        self.audio_s = 0.0
        self.cpu_s: dict[int, float] = {}
        self.late = array("d")
        self.first, self.stable, self.final = Delays(), Delays(), Delays()
        self.chunks, self.finalizes, self.closes = Delays(), Delays(), Delays()
        self.hows: Counter[str] = Counter()
        self._errors: dict[str, list[str]] = {}  # those that differ in numbers alone
        self.ends = array("d")  # when streams ended
        self.words = 0  # of the recordings that were said to their end, or as far as they were heard
        self.different = 0
        self.wrong_streams = self.cut_streams = 0
        self.finals_lost = self.broken = 0

    def add(self, part: int, notes: Notes) -> None:
        """What one process saw lately."""
        self.open[part] = notes.open
        self.at = max(self.at, notes.at)
        self.sent += notes.sent
        self.received += notes.received
        self.audio_s += notes.audio_s
        self.cpu_s[part] = notes.cpu_s
        self.late.extend(notes.late)
        for at, first, stable, final in notes.words:
            if self._counts(at):
                self.first.add(at, first)
                self.stable.add(at, stable)
                self.final.add(at, final)
        for told, kept in (
            (notes.chunks, self.chunks),
            (notes.finalizes, self.finalizes),
            (notes.closes, self.closes),
        ):
            for at, seconds in told:
                if self._counts(at):
                    kept.add(at, seconds)
        for one in notes.ended:
            self.ends.append(notes.at)
            self._judge(one)

    def _counts(self, at: float) -> bool:
        return self._counted[0] <= at <= self._counted[1]

    def _judge(self, ended: Ended) -> None:
        self.hows[ended.how] += 1
        self.finals_lost += ended.owed
        self.broken += ended.broken
        if ended.error:
            self._errors.setdefault(re.sub(r"\d+", "0", ended.error), []).append(ended.error)
        if ended.how == "refused":
            return
        expected = self._references[ended.recording]
        if ended.how != "closed":  # what was final before holds all the same
            expected = expected[: len(ended.words)]
        self.words += len(expected)
        self.cut_streams += bool(ended.cuts)
        if different := differences(ended.words, expected, self._letters):
            self.wrong_streams += 1
            self.different += different

    @property
    def errors(self) -> dict[str, int]:
        """What went wrong how often, the most frequent first; of errors that differ in numbers alone the first."""
        return {same[0]: len(same) for same in sorted(self._errors.values(), key=len, reverse=True)}

    @property
    def well(self) -> bool:
        """Whether every final came, every word is right and every stream went to its end."""
        bad = self.finals_lost + self.different + self.broken
        return not bad and not self.hows["failed"] and not self.hows["refused"]


def differences(got: Sequence[str], expected: Sequence[str], letters: bool = False) -> int:
    """How many words were changed, left out or put in; none where only the blanks differ and `letters` count."""
    if list(got) == list(expected) or (letters and "".join(got) == "".join(expected)):
        return 0
    row = list(range(len(expected) + 1))
    for number, word in enumerate(got, 1):
        before, row = row, [number]
        for (left, above), other in zip(pairwise(before), expected, strict=True):
            row.append(min(left + (word != other), above + 1, row[-1] + 1))
    return max(1, row[-1])
