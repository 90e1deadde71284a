"""The open segment: its tokens as words, which of them are stable, and what a cut says. The only place text is made.

A word is stable once the next one has begun; from then on its text, times and confidence are frozen together.
Knows nothing of endpoints, forks or the wire.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from streamer.transcript.words import Bounds, Group, Speller, Word, timed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from streamer.decoding import Token


@dataclass(frozen=True, slots=True)
class Segment:
    """What was said between two cuts; without words, start and end are the end of the last final word."""

    index: int
    words: tuple[Word, ...]
    start_s: float
    end_s: float
    tokens: tuple[Token, ...]


@dataclass(frozen=True, slots=True)
class Draft:
    """What the open segment says so far."""

    index: int
    words: tuple[Word, ...]
    stable: int


class Utterance:
    """Tokens in, drafts and segments out, one segment after the other."""

    def __init__(self, speller: Speller, delay_s: float = 0.0) -> None:
        self._speller, self._delay_s = speller, delay_s
        self._index = 0
        self._floor_s = 0.0
        self._clear()

    def _clear(self) -> None:
        self._tokens: list[Token] = []
        self._closed: list[Group] = []  # groups that the next word mark has ended
        self._closed_words = 0
        self._closed_at = 0  # where the last of them begins among all tokens
        self._open: list[Token] = []  # visible tokens since the last word mark
        self._open_at = 0  # where they begin
        self._last: Group | None = None  # what the open tokens spell
        self._frozen: list[Word] = []
        self._frozen_groups = 0

    @property
    def words(self) -> int:
        """How many words the segment has."""
        return self._closed_words + (len(self._last.texts) if self._last else 0)

    def add(self, token: Token) -> None:
        """One more token; hidden ones are kept for the record and never seen."""
        self._tokens.append(token)
        if not self._speller.visible(token):
            return
        if not self._open or self._speller.starts_word(token):
            if self._last is not None:
                self._closed.append(self._last)
                self._closed_words += len(self._last.texts)
                self._closed_at = self._open_at
            self._open, self._open_at = [], len(self._tokens) - 1
        self._open.append(token)
        self._last = self._speller.group(self._open)

    def draft(self, audio_s: float) -> Draft:
        """The words so far; all but the last are stable from here on."""
        words = self._freeze(audio_s)
        return Draft(self._index, words, len(self._frozen))

    def cut(self, audio_s: float) -> Segment:
        """The whole segment is final."""
        return self._end(self._freeze(audio_s), [])

    def cut_before_last(self, audio_s: float) -> Segment:
        """All but the last word are final; the last one begins the next segment. There must be two."""
        assert self.words > 1, f"words: got {self.words}, expected two or more"
        self._freeze(audio_s)
        at = self._open_at if self._last is not None else self._closed_at
        return self._end(tuple(self._frozen), self._tokens[at:])

    def last_word_frame(self) -> int:
        """The frame that the last word begins in; there must be one."""
        return self._groups()[-1].start

    def _groups(self) -> list[Group]:
        return self._closed if self._last is None else [*self._closed, self._last]

    def _freeze(self, audio_s: float) -> tuple[Word, ...]:
        """All words of the segment; those that have become stable are kept as they are now."""
        groups = self._groups()
        at = self._frozen_groups
        while 0 < at < len(groups) and groups[at - 1].start == groups[at].start:
            at -= 1  # words of one frame share it, so they are timed together
        skip = sum(len(group.texts) for group in groups[at : self._frozen_groups])
        floor_s = self._frozen[-1].end_s if self._frozen else self._floor_s
        bounds = Bounds(floor_s=floor_s, audio_s=audio_s, delay_s=self._delay_s)
        fresh = timed(groups[at:], bounds)[skip:]
        stable = len(fresh) - (len(groups[-1].texts) if groups else 0)
        words = (*self._frozen, *fresh)
        if stable > 0:
            self._frozen += fresh[:stable]
            self._frozen_groups = len(groups) - 1
        return words

    def _end(self, words: tuple[Word, ...], rest: Sequence[Token]) -> Segment:
        start_s, end_s = (words[0].start_s, words[-1].end_s) if words else (self._floor_s, self._floor_s)
        said = self._tokens[: len(self._tokens) - len(rest)]
        segment = Segment(self._index, words, start_s, end_s, tuple(said))
        self._index += 1
        self._floor_s = end_s
        self._clear()
        for token in rest:
            self.add(token)
        return segment
