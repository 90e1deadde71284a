"""What a load is, as a value that goes to a process and back: who speaks when, what they say, what happens to them.

The same order says the same in every run. Knows no socket and no clock.
"""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from models.config import SAMPLE_RATE
from streamer.bench.mishaps import Fate, Mishaps, fate

PAUSE_S = (0.1, 1.0)  # between a stream and the next one on its seat


@dataclass(frozen=True, slots=True, kw_only=True)
class Speech:
    """A recording among all samples, and the places, in messages, where it may be cut without harm to a word."""

    begin: int
    samples: int
    quiet: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Take:
    """One stream: what it says, when it begins after its seat is free, what happens to it."""

    recording: int
    wait_s: float
    fate: Fate
    seed: str

    def jitter(self) -> random.Random:
        """How late its messages leave."""
        return random.Random(f"{self.seed} jitter")


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """Seats, each taken by one stream after the other until `seconds`; one stream each where there are none."""

    url: str
    """With all that a stream asks for."""
    chunk: int
    """Frames of a chunk at the latency that is asked for."""
    streams: int
    audio: str
    """A .npy file of 16-bit samples at 16 kHz."""
    speeches: tuple[Speech, ...]
    seconds: float = 0.0
    ramp_s: float = 1.0
    """The seats' first streams begin within this."""
    message_ms: int = 80
    mishaps: Mishaps = dataclasses.field(default_factory=Mishaps)
    seed: int = 0
    part: int = 0
    """This process has every `of`-th seat from here on."""
    of: int = 1

    @property
    def message_samples(self) -> int:
        return SAMPLE_RATE * self.message_ms // 1000

    def seats(self) -> range:
        """Those of this process."""
        return range(self.part, self.streams, self.of)

    def takes(self, seat: int) -> Iterator[Take]:
        """The streams of a seat; where no time is given one, which says the recording of the seat's number."""
        turn = 0
        while turn == 0 or self.seconds:
            seed = f"{self.seed} {seat} {turn}"
            luck = random.Random(seed)
            recording = luck.randrange(len(self.speeches)) if self.seconds else seat % len(self.speeches)
            wait_s = luck.uniform(0, self.ramp_s) if turn == 0 else luck.uniform(*PAUSE_S)
            speech = self.speeches[recording]
            messages = max(1, -(-speech.samples // self.message_samples))
            happens = fate(self.mishaps, luck, messages, self.message_ms / 1000, speech.quiet)
            yield Take(recording=recording, wait_s=wait_s, fate=happens, seed=seed)
            turn += 1

    def to_json(self) -> str:
        """One line."""
        return json.dumps(dataclasses.asdict(self))


def from_json(line: str) -> Order:
    """The order that was written so."""
    fields: dict[str, Any] = json.loads(line)
    fields["mishaps"] = Mishaps(**fields["mishaps"])
    fields["speeches"] = tuple(Speech(**{**one, "quiet": tuple(one["quiet"])}) for one in fields["speeches"])
    return Order(**fields)
