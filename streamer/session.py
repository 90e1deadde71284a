"""One client's life: events and what was heard in, actions out. Knows no socket, no engine, no clock: time is a value.

`now` is seconds of any clock that never goes back; the server ticks a session a few times a second.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from streamer.actions import Action, Feed, Finish, Fork, Hangup, Heard, Say

if TYPE_CHECKING:
    from models.config import ModelConfig
    from models.tokenizer import Tokenizer
    from streamer.protocols.events import ClientEvent, Opening

__all__ = ["Action", "Feed", "Finish", "Fork", "Hangup", "Heard", "Say", "Session", "SessionSettings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionSettings:
    """Limits and rhythms of every session of a server."""

    tail_ms: int = 640
    """Silence that a finalize or close lets the model hear after the audio, for words it emits late."""
    stall_ms: int = 1_000
    """Pause on the wire after which pending words are finalised."""
    idle_s: float = 60.0
    """Neither audio nor any message for this long ends the stream."""
    max_session_s: float = 14_400.0
    """Longest session, on the wall and on the audio clock."""
    finish_s: float = 60.0
    """The engine's time to finish a stream; past it the stream ends with what was heard."""
    emission_delay_ms: int = 0
    """How late the model emits on average; subtracted from word times (the model card says it)."""
    max_errors: int = 32
    """Refused messages on one stream before it is ended."""


class Session:
    """Say `start()` first; after a Hangup it has nothing more to say."""

    chunk: int
    """C, encoder frames of a chunk: what the engine opens the stream with."""
    prompt: int | None
    """The language's prompt index, None where the model has no prompts."""

    def __init__(self, opening: Opening, model: ModelConfig, tokenizer: Tokenizer, settings: SessionSettings,
                 now: float) -> None:
        raise NotImplementedError

    def start(self, session_id: str) -> list[Action]:
        """The stream has its slot: say ready."""
        raise NotImplementedError

    def receive(self, event: ClientEvent, now: float) -> list[Action]:
        """The client said something (Malformed included)."""
        raise NotImplementedError

    def heard(self, heard: Heard, now: float) -> list[Action]:
        """The engine heard something."""
        raise NotImplementedError

    def tick(self, now: float) -> list[Action]:
        """Time passed."""
        raise NotImplementedError

    def shutdown(self, now: float) -> list[Action]:
        """The server goes: finish as if closed, with reason shutdown."""
        raise NotImplementedError

    def failed(self, code: str, message: str, now: float) -> list[Action]:
        """The engine cannot go on with this stream: error, a final of what was heard, closed, hang up 1011."""
        raise NotImplementedError

    @property
    def audio_seconds(self) -> float:
        """Audio fed so far, in seconds."""
        raise NotImplementedError

    @property
    def done(self) -> bool:
        """The Hangup has been given out."""
        raise NotImplementedError
