"""When a segment ends by itself: rules as data, and one stream's clock. Knows nothing of words, tokens or chunks.

Everything counts encoder frames of 80 ms on the stream's audio clock and is asked once per frame, so that neither
chunks nor the pieces on the wire can move a cut. A cut is of the text alone: encoder and decoder go on.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from models.config import FRAME_MS


class Cut(Enum):
    """What a segment's clock can ask for."""

    SILENCE = "silence after speech: the segment ends"
    RESTART = "silence without speech: the segment's clock starts anew, nothing is said"
    LENGTH = "the segment is too long: it ends before its last word"
    OVERLONG = "one word lasts as long as two segments may: the segment ends in it"


@dataclass(frozen=True, slots=True)
class Rules:
    """Lengths in frames that end a segment. Switched off, only the length remains: every segment has an end."""

    silence: int
    start: int
    longest: int
    enabled: bool = True

    @classmethod
    def of_ms(cls, silence_ms: int, start_ms: int, max_ms: int, enabled: bool = True) -> Rules:
        """Milliseconds, rounded up to whole frames."""
        return cls(-(-silence_ms // FRAME_MS), -(-start_ms // FRAME_MS), -(-max_ms // FRAME_MS), enabled)


@dataclass(slots=True)
class Clock:
    """One segment's time: the frame it began with and the last frame that spoke."""

    began: int = 0
    spoke: int | None = None

    def restart(self, frame: int) -> None:
        """A new segment begins with this frame."""
        self.began, self.spoke = frame, None

    def cut(self, rules: Rules, frame: int, words: int) -> Cut | None:
        """What is due when this frame has been heard and the segment says so many words."""
        length = frame + 1 - self.began
        if not words:
            return Cut.RESTART if length >= rules.start else None
        if rules.enabled and self.spoke is not None and frame - self.spoke >= rules.silence:
            return Cut.SILENCE
        if words > 1 and length >= rules.longest:
            return Cut.LENGTH
        return Cut.OVERLONG if length >= 2 * rules.longest else None
