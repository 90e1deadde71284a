"""When a client's socket is read: not while too much of its audio waits. Knows no sockets; time is a value."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Iterator

SHORT_S = 0.1  # what nobody takes for a pause of the client's
SETTLE_S = 0.5  # after it opens: time for the audio in the socket to come before a pause counts as the client's


class Gate:
    """Shut above `high_s` of waiting audio, open again at `low_s`. Less than a chunk never shuts it: that waits for
    the client, not for us."""

    def __init__(self, max_waiting_s: float, chunk_s: float) -> None:
        self.high_s = max(max_waiting_s, 2 * chunk_s)
        self.low_s = max(max_waiting_s / 4, chunk_s)
        self._open = asyncio.Event()
        self._open.set()
        self._opened = -math.inf
        self._held = False

    def watch(self, waiting_s: float, now: float) -> None:
        """So much audio waits now."""
        if waiting_s > self.high_s:
            self._open.clear()
        elif waiting_s <= self.low_s and not self._open.is_set():
            self._open.set()
            self._opened = now

    @property
    def shut(self) -> bool:
        """Whether `passed` would wait."""
        return not self._open.is_set()

    def listening(self, now: float) -> bool:
        """Whether silence is the client's own, and not because nobody reads what it says."""
        return self._open.is_set() and not self._held and now - self._opened >= SETTLE_S

    @contextlib.contextmanager
    def held(self, clock: Callable[[], float]) -> Iterator[None]:
        """While something else of ours (a decoder) keeps us from reading; if for long, as after a shut gate."""
        since, self._held = clock(), True
        try:
            yield
        finally:
            self._held = False
            if (now := clock()) - since >= SHORT_S:
                self._opened = now

    async def passed(self) -> None:
        """Wait until it is open."""
        await self._open.wait()
