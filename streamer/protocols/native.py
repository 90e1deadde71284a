"""Our own dialect, `/v1/stream`: query, text and bytes to events, and events to text. Knows no socket and no clock."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from streamer.protocols.events import ClientEvent, Endpointing, Opening, ServerEvent


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What this server offers a client that connects: the model's choices and the defaults."""

    latencies_ms: tuple[int, ...]
    latency_ms: int
    """The default; one of latencies_ms."""
    languages: tuple[str, ...] = ()
    language: str | None = None
    """The default where there are languages."""
    endpointing: Endpointing = Endpointing()


def parse_query(query: Iterable[tuple[str, str]], offer: Offer) -> Opening:
    """The connection's query as (name, value) pairs, URL-decoded; raises Refusal."""
    raise NotImplementedError


class Native:
    """One connection's talk: what may be said now, and how it is written. Starts in `opening`; `Ready` opens it."""

    def __init__(self) -> None:
        raise NotImplementedError

    def receive(self, message: bytes | str) -> ClientEvent:
        """One WebSocket message, binary or text. What is wrong with it comes back as Malformed; never raises."""
        raise NotImplementedError

    def send(self, event: ServerEvent) -> str:
        """The text message that says it; an event out of turn is our own bug and raises AssertionError."""
        raise NotImplementedError
