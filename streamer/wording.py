"""Drafts and segments as the events that say them. Knows nothing of why they are said, or to whom."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from streamer.protocols.events import Final, Partial, Word

if TYPE_CHECKING:
    from streamer.transcript.utterance import Draft, Segment
    from streamer.transcript.words import Word as SpokenWord


class Wording:
    """One stream's partials. A word that has become stable is put into its form once, however often it is sent."""

    def __init__(self, channel: int = 0) -> None:
        self._channel = channel
        self._segment = -1
        self._stable: list[Word] = []
        self._text = ""  # of the last partial of the segment

    def partial(self, draft: Draft) -> Partial | None:
        """The open segment so far; None if that is nothing, or nothing new."""
        if draft.index != self._segment:
            self._segment, self._stable, self._text = draft.index, [], ""
        self._stable += _words(draft.words[len(self._stable) : draft.stable])
        words = (*self._stable, *_words(draft.words[draft.stable :]))
        text = " ".join([word.word for word in words])
        if text == self._text:
            return None
        self._text = text
        start, stable = words[0].start, draft.stable
        return Partial(
            channel=self._channel, segment=draft.index, start=start, text=text, words=words, stable_words=stable
        )


def final(segment: Segment, reason: str, channel: int = 0) -> Final:
    """What a segment said."""
    return Final(
        channel=channel,
        segment=segment.index,
        start=segment.start_s,
        end=segment.end_s,
        text=" ".join(word.text for word in segment.words),
        words=_words(segment.words),
        reason=reason,
    )


def _words(spoken: Iterable[SpokenWord]) -> tuple[Word, ...]:
    return tuple(Word(word=w.text, start=w.start_s, end=w.end_s, confidence=w.confidence) for w in spoken)
