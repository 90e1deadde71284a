"""What a room's viewers are told, and how it is written. Knows no socket and no clock.

Between `live` and `away` a viewer gets the speaker's own partials and finals, as the speaker gets them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from streamer.protocols.events import Closed, Error, Final, Partial


@dataclass(frozen=True, slots=True, kw_only=True)
class Entered:
    """The first message: the room as it is now."""

    room: str
    """The name as the viewer wrote it."""
    live: bool
    left_out: int = 0
    """Finals that were said before and are not kept any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """A speaker's stream begins: the times that follow are on its audio clock, which begins at `at_seconds` of the
    room's: all that was heard before, and the time between."""

    session_id: str
    model: str
    latency_ms: int
    away_seconds: float | None
    """Wall-clock seconds since the last audio of the stream before came; None for the first."""
    at_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Away:
    """The speaker's stream has ended; another may follow."""

    session_id: str
    audio_seconds: float
    """Of that stream."""


WatchEvent = Entered | Live | Partial | Final | Away | Closed | Error


def write(event: Entered | Live | Away) -> str:
    """The text message of an event; those that a speaker is told, too, are written by `native`."""
    match event:
        case Entered(room=room, live=live, left_out=left_out):
            message = {"type": "room", "room": room, "live": live} | ({"left_out": left_out} if left_out else {})
        case Live():
            away_seconds = None if event.away_seconds is None else round(event.away_seconds, 3)
            message = {
                "type": "live",
                "session_id": event.session_id,
                "model": event.model,
                "latency_ms": event.latency_ms,
                "away_seconds": away_seconds,
                "at_seconds": round(event.at_seconds, 3),
            }
        case Away(session_id=session_id, audio_seconds=audio_seconds):
            message = {"type": "away", "session_id": session_id, "audio_seconds": round(audio_seconds, 3)}
    return json.dumps(message, ensure_ascii=False, separators=(",", ":"))
