"""Limits and rhythms of the sessions of a server, as values. Knows nothing of options files or of sessions."""

from __future__ import annotations

from dataclasses import dataclass


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
    """The engine's time to hear something of a stream that ends; past it the stream ends with what was heard."""
    emission_delay_ms: int = 0
    """How late the model emits on average; subtracted from word times (the model card says it)."""
    max_errors: int = 32
    """Refused messages on one stream before it is ended."""
    max_message_bytes: int = 1 << 20
    """Longest audio message."""
