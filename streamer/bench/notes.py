"""What generators have seen since they last told it: one line of JSON a second. Knows no socket, clock or figure.

Moments are seconds since the generator began; delays are seconds.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any, Literal

How = Literal["closed", "dropped", "failed", "refused"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """One stream, all of it."""

    recording: int
    how: How
    words: list[str]
    """Of its finals; of a dropped stream the stable ones of its last partial, too."""
    owed: int = 0
    """Finals that never came."""
    cuts: int = 0
    """Finalizes that were answered, and stalls: after each a segment begins."""
    broken: int = 0
    """Stable words that changed."""
    error: str = ""


@dataclass(slots=True)
class Notes:
    """Lists that are emptied whenever they have been told."""

    at: float = 0.0
    open: int = 0
    sent: int = 0
    received: int = 0
    audio_s: float = 0.0
    cpu_s: float = 0.0
    """Processor seconds that the clients have taken so far."""
    late: list[float] = field(default_factory=list)
    """Of each message: how much after its time it was sent."""
    words: list[tuple[float, float, float, float]] = field(default_factory=list)
    """When the word ended, and from then to its first partial, until stable, until final."""
    chunks: list[tuple[float, float]] = field(default_factory=list)
    """When the message with a chunk's last sample was sent, and from then to the partial that the chunk made."""
    finalizes: list[tuple[float, float]] = field(default_factory=list)
    """When a finalize was sent, and from then to its final."""
    closes: list[tuple[float, float]] = field(default_factory=list)
    """When a close was sent, and from then to `closed`."""
    ended: list[Ended] = field(default_factory=list)

    def line(self, at: float) -> str:
        """All of it as JSON, and nothing is left but what is open."""
        self.at = at
        text = json.dumps(dataclasses.asdict(self), separators=(",", ":"))
        self.sent = self.received = 0
        self.audio_s = 0.0
        for kept in (self.late, self.words, self.chunks, self.finalizes, self.closes, self.ended):
            kept[:] = []
        return text


def read(line: str | bytes) -> Notes:
    """A line as it was told."""
    fields: dict[str, Any] = json.loads(line)
    fields["ended"] = [Ended(**one) for one in fields["ended"]]
    return Notes(**fields)
