"""What waits to be sent to one client: a bounded queue in which partials coalesce. Knows nothing of sockets."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

from streamer.actions import Hangup
from streamer.protocols.events import Partial, ServerEvent


@dataclass(frozen=True, slots=True)
class Ping:
    """Ask the client whether it is there."""


@dataclass(frozen=True, slots=True)
class Letter:
    """One event and what its latency counts from, on the server's clock."""

    event: ServerEvent | Hangup | Ping
    since: float | None = None


class Outbox:
    """At most `high` letters. A partial takes the place of an unsent one at the end; nothing else is ever dropped."""

    def __init__(self, high: int) -> None:
        self._high = high
        self._letters: deque[Letter] = deque()
        self._filled = asyncio.Event()

    def __len__(self) -> int:
        return len(self._letters)

    def put(self, letter: Letter) -> bool:
        """False when it is full: the reader is too slow and the letter was not taken. A Hangup always fits."""
        if isinstance(letter.event, Partial) and self._letters and isinstance(self._letters[-1].event, Partial):
            self._letters[-1] = letter
            return True
        if len(self._letters) >= self._high and not isinstance(letter.event, Hangup):
            return False
        self._letters.append(letter)
        self._filled.set()
        return True

    async def get(self) -> Letter:
        """The oldest letter; waits for one."""
        while not self._letters:
            self._filled.clear()
            await self._filled.wait()
        return self._letters.popleft()
