"""What the engine says: results for streams, notes on its steps, and why it has no room. Plain values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from streamer.actions import Heard


class Full(Exception):
    """No room for one more stream; the text says why."""


@dataclass(frozen=True, slots=True)
class Failed:
    """A stream that cannot go on."""

    code: str
    message: str


class Result(NamedTuple):
    """What a tick has for one stream."""

    stream_id: str
    heard: Heard | Failed
    arrived: float | None = None  # when the first chunk of its step was whole, on the engine's clock


@dataclass(frozen=True, slots=True)
class Step:
    """What a step was like, for whoever counts."""

    chunk: int
    seconds: float
    waits_s: tuple[float, ...]  # per row: from its audio's arrival to the step's start
    late_s: tuple[float, ...]  # per row: from when it was due to the step's end
    failed: bool
    expected_s: float = 0.0  # what the table said that it would take
    live_late_s: tuple[float, ...] = ()  # as late_s, of the rows alone that came as they were spoken and go on


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """The limits of admission and of a step."""

    budget_s: float = 0.25
    max_load: float = 0.75
    capacity_file: str = ""
    lanes: int = 1  # engines side by side
    threads: int = 0  # of a step
    processors: int = 0  # that steps and sockets share; 0 where steps are made elsewhere
    memory_bytes: int | None = None  # for the streams' states; None: all slots may be filled
