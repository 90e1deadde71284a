"""Tokens with frames to words with times and confidence. Knows nothing of segments, endpoints or the wire.

Frames are encoder frames of 80 ms from the stream's start; times are seconds of the stream's audio clock.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from models.config import FRAME_S

if TYPE_CHECKING:
    from models.tokenizer import Tokenizer
    from streamer.decoding import Token

LANGUAGE_TAG = re.compile(r"\s*<[a-z]{2}-[A-Z]{2}>")  # as NeMo's strip_lang_tags, rnnt_decoding.py
WORD_MARK = "\u2581"


@dataclass(frozen=True, slots=True)
class Word:
    """A word as it was heard; seconds, confidence 0..1."""

    text: str
    start_s: float
    end_s: float
    confidence: float


@dataclass(frozen=True, slots=True)
class Group:
    """What the tokens from one word mark to the next spell: one word, but for odd pieces."""

    texts: tuple[str, ...]
    start: int
    """Frame of the first token that is more than a bare word mark."""
    end: int
    """Frame of the last token, plus one."""
    confidence: float


class Speller:
    """What the pieces of one vocabulary mean for text: which are hidden, which begin a word."""

    def __init__(self, tokenizer: Tokenizer, hidden: Iterable[int | None] = ()) -> None:
        self._tokenizer = tokenizer
        tags = (i for i, piece in enumerate(tokenizer.pieces) if LANGUAGE_TAG.fullmatch(piece.lstrip(WORD_MARK)))
        self._hidden = frozenset(i for i in (*hidden, *tags) if i is not None)
        self._bare = frozenset(i for i, piece in enumerate(tokenizer.pieces) if not piece.strip(WORD_MARK + " "))

    def visible(self, token: Token) -> bool:
        """False for language tags and end-of-utterance marks."""
        return token.id not in self._hidden

    def starts_word(self, token: Token) -> bool:
        return self._tokenizer.starts_word(token.id)

    def text(self, tokens: Iterable[Token]) -> str:
        """What the tokens say, words parted by one blank."""
        ids = [token.id for token in tokens if self.visible(token)]
        return " ".join(LANGUAGE_TAG.sub("", self._tokenizer.decode(ids)).split())

    def group(self, tokens: Sequence[Token]) -> Group | None:
        """Visible tokens from one word mark to the next; None where they spell nothing (a bare mark, a tag)."""
        texts = tuple(self.text(tokens).split())
        if not texts:
            return None
        spoken = next((token for token in tokens if token.id not in self._bare), tokens[0])
        logp = sum(token.logp for token in tokens) / len(tokens)
        return Group(texts, spoken.frame, tokens[-1].frame + 1, min(1.0, math.exp(logp)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Between what the times of words lie, in seconds."""

    floor_s: float
    """The end of the last final word."""
    audio_s: float
    """The audio's own end."""
    delay_s: float = 0.0
    """How late the model emits on average; subtracted."""

    def clamp(self, frames: float) -> float:
        """A place in frames as a time within the bounds."""
        return min(max(frames * FRAME_S - self.delay_s, self.floor_s), max(self.audio_s, self.floor_s))


def timed(groups: Sequence[Group], bounds: Bounds) -> list[Word]:
    """The words of the groups: times never go back, and words that begin in one frame share it in order."""
    spelled = [(group, text) for group in groups for text in group.texts]
    starts = _shared([group.start for group, _ in spelled])
    words = []
    for (group, text), start, after in zip(spelled, starts, [*starts, math.inf][1:], strict=True):
        start_s = bounds.clamp(start)
        end_s = max(start_s, bounds.clamp(min(group.end, after)))
        words.append(Word(text, start_s, end_s, group.confidence))
    return words


def _shared(frames: Sequence[int]) -> list[float]:
    """Frames in which several words begin, divided among them: [3, 7, 7] -> [3, 7, 7.5]."""
    places: list[float] = []
    for i, frame in enumerate(frames):
        first = i
        while first > 0 and frames[first - 1] == frame:
            first -= 1
        last = i
        while last + 1 < len(frames) and frames[last + 1] == frame:
            last += 1
        places.append(frame + (i - first) / (last - first + 1))
    return places
