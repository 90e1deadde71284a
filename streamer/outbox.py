"""What waits to be sent to one client: a bounded queue in which partials coalesce. Knows nothing of sockets."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

from streamer.actions import Hangup
from streamer.protocols.events import Partial, ServerEvent
from streamer.protocols.watch import WatchEvent


@dataclass(frozen=True, slots=True)
class Ping:
    """Ask the client whether it is there."""


@dataclass(frozen=True, slots=True)
class Letter:
    """One event and what its latency counts from, on the server's clock."""

    event: ServerEvent | WatchEvent | Hangup | Ping
    since: float | None = None
    text: str | None = None
    """The message, where it is written already because it goes to many."""


class Outbox:
    """At most `high` letters. A partial takes the place of its channel's unsent one at the end; nothing else gives way.
    Who leaves more unread is given up: what is there already is followed by a Hangup, and by nothing else."""

    def __init__(self, high: int) -> None:
        self.given_up = False
        """The reader is too slow, or is not there: its socket is not worth waiting for."""
        self._high = high
        self._letters: deque[Letter] = deque()
        self._filled = asyncio.Event()

    def __len__(self) -> int:
        return len(self._letters)

    def put(self, letter: Letter) -> bool:
        """False when it is full and the letter was not taken. A Hangup always fits."""
        if isinstance(letter.event, Hangup):
            self._add(letter)
            return True
        if self.given_up:
            return False
        if isinstance(letter.event, Partial) and (place := self._unsent(letter.event.channel)) is not None:
            self._letters[place] = letter
            return True
        if len(self._letters) >= self._high:
            self.given_up = True
            self._add(Letter(Hangup(code=1008, reason="reads too slowly")))
            return False
        self._add(letter)
        return True

    def _add(self, letter: Letter) -> None:
        self._letters.append(letter)
        self._filled.set()

    def _unsent(self, channel: int) -> int | None:
        """Where a partial of this channel waits with nothing but partials behind it."""
        for place in range(len(self._letters) - 1, -1, -1):
            event = self._letters[place].event
            if not isinstance(event, Partial):
                return None
            if event.channel == channel:
                return place
        return None

    async def get(self) -> Letter:
        """The oldest letter; waits for one."""
        while not self._letters:
            self._filled.clear()
            await self._filled.wait()
        return self._letters.popleft()
