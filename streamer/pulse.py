"""Whether a client that says nothing is still there. Knows no sockets; time is a value."""

from __future__ import annotations

from enum import Enum

ANSWER_SHARE = 0.5  # of the time to a ping: how long its answer may take


class Beat(Enum):
    """What a silence asks for."""

    PING = "ask whether the client is there"
    GONE = "it has not answered: nobody is there"


class Pulse:
    """After `every_s` without any message a ping is due; anything that comes is an answer to it."""

    def __init__(self, every_s: float, now: float) -> None:
        self._every_s = every_s
        self._felt = now
        self._asked: float | None = None

    def felt(self, now: float) -> None:
        """The client said something, or nobody listened to it."""
        self._felt, self._asked = now, None

    def doubt(self, now: float) -> None:
        """There is reason to ask at once; a ping that was sent already keeps its time."""
        self._felt = min(self._felt, now - self._every_s)

    def check(self, now: float) -> Beat | None:
        """What is due; a ping is due once."""
        if self._asked is not None:
            return Beat.GONE if now - self._asked >= self._every_s * ANSWER_SHARE else None
        if now - self._felt < self._every_s:
            return None
        self._asked = now
        return Beat.PING
