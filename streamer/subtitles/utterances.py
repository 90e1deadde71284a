"""Words one after the other to utterances, for files that have a line for each. Knows nothing of cues or formats."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from streamer.protocols.events import Word

PAUSE_S = 0.8  # silence that parts two utterances, as it parts two segments of the daemon
LONGEST_S = 30.0  # of an utterance, as of a segment of the daemon


class Utterances:
    """One channel's words in, utterances out, each once the next one has begun."""

    def __init__(self) -> None:
        self._words: list[Word] = []

    @property
    def waiting_s(self) -> float | None:
        """Where the open utterance begins; None if there is none."""
        return self._words[0].start if self._words else None

    def add(self, words: Iterable[Word]) -> list[Sequence[Word]]:
        """The utterances that these words end."""
        ended: list[Sequence[Word]] = []
        for word in words:
            if self._words and self._parted(word):
                ended += self.end()
            self._words.append(word)
        return ended

    def end(self) -> list[Sequence[Word]]:
        """No word comes any more, or not soon: the open utterance, if there is one."""
        words, self._words = self._words, []
        return [words] if words else []

    def _parted(self, word: Word) -> bool:
        pause_ms = round((word.start - self._words[-1].end) * 1000)
        return pause_ms >= PAUSE_S * 1000 or word.end - self._words[0].start > LONGEST_S
