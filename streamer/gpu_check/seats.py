"""Who speaks when: seats with phases of their own, each taken by one stream after the other. Knows no engine or socket.

Time comes in as a value, seconds from the load's start.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from dataclasses import dataclass
from typing import Any

from models.config import FRAME_S, FRAME_SAMPLES


@dataclass(slots=True, eq=False)
class Seat:
    """One of the streams that are heard at any time; a message a chunk."""

    number: int
    phase: float  # seconds in which its messages come after the turn's beginning
    first_turn: int
    left: int  # messages until its stream ends
    at: int  # sample of the audio that is said next
    stream: int = 0  # how many it had before
    link: Any = None  # whatever carries its stream


@dataclass(frozen=True, slots=True)
class Load:
    """What is put on: streams of `chunk` frames for `seconds`, those of the ramp before not counted.

    This generator has every `of`-th seat, from `part` on. utterance_s: shortest and longest stream.
    """

    streams: int
    chunk: int
    seconds: float
    ramp_s: float
    utterance_s: tuple[float, float]
    part: int = 0
    of: int = 1

    @property
    def chunk_s(self) -> float:
        return self.chunk * FRAME_S

    @property
    def samples(self) -> int:
        """Of a message."""
        return self.chunk * FRAME_SAMPLES

    def seats(self, audio_samples: int) -> list[Seat]:
        """In the order of their phases, which are spread evenly; all else is random."""
        luck = random.Random(self.part)
        places = list(range(self.streams))
        random.Random(0).shuffle(places)  # who starts early in the ramp is not who is early in the chunk
        seats = []
        for number in range(self.part, self.streams, self.of):
            begin = self.ramp_s * places[number] / self.streams
            left = max(1, round(luck.uniform(0.1, 1.0) * self.messages(luck)))
            phase = self.chunk_s * (number + luck.random()) / self.streams
            seats.append(Seat(number, phase, int(begin / self.chunk_s), left, luck.randrange(audio_samples)))
        return sorted(seats, key=lambda seat: seat.phase)

    def messages(self, luck: random.Random) -> int:
        """Of a whole stream."""
        return max(1, round(luck.uniform(*self.utterance_s) / self.chunk_s))


class Wheel:
    """Seats in the order in which they speak, round and round; finds who is due without a look at each."""

    def __init__(self, seats: list[Seat], period_s: float) -> None:
        self._seats, self._period_s = seats, period_s
        self._phases = [seat.phase for seat in seats]
        self._ramp = max(seat.first_turn for seat in seats)
        self._turn = self._at = 0

    @property
    def next_s(self) -> float:
        """When the next one speaks."""
        return self._turn * self._period_s + self._phases[self._at]

    def due(self, now: float) -> list[tuple[float, list[Seat]]]:
        """Those whose message is due, a turn after the other, each with when it was due first.

        Seats that have not begun are passed over.
        """
        found = []
        while (first := self.next_s) <= now:
            turn, at = self._turn, self._at
            self._at = bisect_right(self._phases, now - turn * self._period_s, at)
            seats = self._seats[at : self._at]
            if turn < self._ramp:
                seats = [seat for seat in seats if turn >= seat.first_turn]
            if seats:
                found.append((first, seats))
            if self._at == len(self._seats):
                self._at, self._turn = 0, turn + 1
        return found
