"""Results of bulk transcription, given out in the order of the input. Knows nothing of models or of who makes them."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import TYPE_CHECKING

from streamer.commands import say

if TYPE_CHECKING:
    from streamer.commands.ahead import Stored
    from streamer.commands.hands import Wanted
    from streamer.commands.listening import Said
    from streamer.commands.results import Results

Coming = Future["list[str | Said]"]


class Delivery:
    """Takes what will be said, by place in the input; a text is a whole line of stdout.

    `failed` is called while recordings are read, by another thread; everything else by one thread alone.
    """

    def __init__(self, results: Results, tick: Callable[[], None]) -> None:
        self._results, self._tick = results, tick
        self._coming: deque[tuple[Sequence[Stored], Coming]] = deque()
        self._there: dict[int, tuple[Stored, str | Said] | None] = {}  # by place; None where nothing was heard
        self._place = self._given = 0
        self.errors: list[str] = []

    def failed(self, wanted: Wanted, error: str) -> None:
        """A recording of which nothing can be heard."""
        self._tell(error)
        self._there[wanted.job.position] = None

    def expect(self, chosen: Sequence[Stored], coming: Coming) -> None:
        """What these recordings say is being written down; gives out what is there by now."""
        self._coming.append((chosen, coming))
        while self._coming and self._coming[0][1].done():
            self._take(*self._coming.popleft())
        self._give()

    def finish(self) -> None:
        """Wait for all, and give it out."""
        while self._coming:
            self._take(*self._coming.popleft())
            self._give()
        self._give()

    def _take(self, chosen: Sequence[Stored], coming: Coming) -> None:
        for stored, said in zip(chosen, coming.result(), strict=True):
            self._there[stored.wanted.job.position] = stored, said

    def _give(self) -> None:
        while self._place in self._there:
            place, self._place = self._place, self._place + 1
            if (entry := self._there.pop(place)) is None:
                self._tick()
                continue
            stored, said = entry
            if isinstance(said, str):
                print(said)
            else:
                self._results.add(stored.wanted.job, replace(said, index=self._given))
                self._given += 1
            self._tick()
            if stored.error is not None:
                self._tell(stored.error)
        sys.stdout.flush()

    def _tell(self, error: str) -> None:
        self.errors.append(error)
        say(f"streamer: {error}")
