"""What a session asks of the engine and the socket, and what it is told. Plain values, no behaviour.

The server carries these between session and engine, so that neither knows the other. All PCM is 16 kHz mono float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from streamer.decoding import Token
    from streamer.protocols.events import ServerEvent


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Feed:
    """More audio of one channel of the stream."""

    channel: int = 0
    pcm: npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Fork:
    """A copy of the stream hears what is pending in the engine, then `pcm`, and finishes; the stream goes on."""

    channel: int = 0
    mark: int
    pcm: npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Finish:
    """The stream itself hears what is pending, then `pcm`, and finishes. Nothing is fed after it."""

    channel: int = 0
    pcm: npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Drain:
    """Compressed audio: what the decoder still holds is wanted, then `drained`. Nothing is taken from the client."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Say:
    """Send this to the client."""

    event: ServerEvent


@dataclass(frozen=True, slots=True, kw_only=True)
class Hangup:
    """Close the socket with this code; always a session's last action. The stream's slot can go."""

    code: int
    reason: str


Action = Feed | Fork | Finish | Drain | Say | Hangup


class Heard(NamedTuple):
    """What the engine got out of a stream since last time, or all that a fork heard beyond the stream."""

    tokens: tuple[Token, ...]
    frames: int
    """Encoder frames done in total, from the stream's start (a fork's count includes its silence)."""
    samples: int
    """Samples of the stream that were consumed, in total."""
    mark: int | None = None
    """The fork that this answers, complete; None for the stream itself."""
    finished: bool = False
    """The stream heard its last sample (after Finish)."""
