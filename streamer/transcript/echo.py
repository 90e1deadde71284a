"""What forks said ahead of the stream, so that the stream does not say it again. Knows nothing of words or time.

A fork hears the audio to a finalize and silence after it; its tokens are final at once. The stream hears the same
audio later. Its next tokens are dropped while they equal the fork's; the first difference ends that.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from streamer.decoding import Token

LATE_FRAMES = 6  # how much later than the fork's end the stream may repeat it (0.5 s): it hears speech, not silence


@dataclass(frozen=True, slots=True)
class Echo:
    """Token ids that the stream is expected to repeat, up to a frame."""

    ids: tuple[int, ...]
    until: int


class Echoes:
    """The echoes that still agree with the stream; several when finalizes followed each other closely."""

    def __init__(self, alive: Iterable[Echo] = ()) -> None:
        self._alive = tuple(alive)

    def add(self, tokens: Sequence[Token], frames: int) -> None:
        """A fork said these beyond the stream and ended after so many frames."""
        if tokens:
            self._alive += (Echo(tuple(token.id for token in tokens), frames + LATE_FRAMES),)

    def repeats(self, token: Token) -> bool:
        """The stream's next token: was it said by a fork?"""
        agreeing = [echo for echo in self._alive if echo.ids[0] == token.id and token.frame < echo.until]
        self._alive = tuple(Echo(echo.ids[1:], echo.until) for echo in agreeing if len(echo.ids) > 1)
        return bool(agreeing)

    def unsaid(self, tokens: Sequence[Token]) -> list[Token]:
        """Of a later fork's tokens those that no earlier fork has said; the stream's own place does not move."""
        ahead = Echoes(self._alive)
        return [token for token in tokens if not ahead.repeats(token)]
