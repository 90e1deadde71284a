"""What a stream says, into a writer while it is spoken: each word as soon as nothing changes it. Knows no connections.

Cues need not wait for the end of a segment, which can be half a minute long. Writers of whole lines do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from streamer.protocols.events import Final, Partial
    from streamer.subtitles.writers import Writer


class Spoken:
    """Partials and finals of one stream, of all its channels, in the order in which they come."""

    def __init__(self, writer: Writer) -> None:
        self.writer = writer
        self._given: dict[int, tuple[int, int]] = {}  # of each channel the open segment, and its words that are written

    def partial(self, partial: Partial) -> None:
        """Its stable words are written; no word comes that begins before the first of the others."""
        if self.writer.whole_lines:
            return
        given, stable, channel = self._words_given(partial), partial.stable_words, partial.channel
        if stable > given:
            self.writer.add(partial.words[given:stable], channel)
            self._given[channel] = (partial.segment, stable)
        if stable < len(partial.words):
            self.writer.heard(partial.words[stable].start, channel)

    def final(self, final: Final) -> None:
        """What no partial has brought."""
        self.writer.add(final.words[self._words_given(final) :], final.channel)

    def _words_given(self, event: Partial | Final) -> int:
        segment, words = self._given.get(event.channel, (-1, 0))
        return words if segment == event.segment else 0
