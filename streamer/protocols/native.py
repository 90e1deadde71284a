"""Our own dialect, `/v1/stream`: query, text and bytes to events, and events to text. Knows no socket and no clock.

Rule: what may be said when is in TRANSITIONS and nowhere else. An event that is not in the row of the present state is
refused in a sentence and moves nothing.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, get_args

from streamer.errors import Refusal, one_of
from streamer.protocols.events import (
    Audio,
    ClientEvent,
    Close,
    Closed,
    Configure,
    Endpointing,
    Error,
    Final,
    Finalize,
    KeepAlive,
    Malformed,
    Opening,
    Partial,
    Ready,
    ServerEvent,
    Word,
)

MAX_TEXT = 4096  # characters of a text message; the longest sensible configure has 200

# The state machine, read aloud: in this state, this event leads there.


class State(Enum):
    """Where a stream's talk stands."""

    OPENING = "opening"
    STREAMING = "streaming"
    CLOSING = "closing"
    CLOSED = "closed"


TRANSITIONS: dict[State, dict[type, State]] = {
    State.OPENING: {Ready: State.STREAMING, Error: State.CLOSED},
    State.STREAMING: {
        Audio: State.STREAMING,
        Finalize: State.STREAMING,
        KeepAlive: State.STREAMING,
        Configure: State.STREAMING,
        Close: State.CLOSING,
        Partial: State.STREAMING,
        Final: State.STREAMING,
        Error: State.STREAMING,
        Closed: State.CLOSED,
    },
    State.CLOSING: {
        KeepAlive: State.CLOSING,
        Partial: State.CLOSING,
        Final: State.CLOSING,
        Error: State.CLOSING,
        Closed: State.CLOSED,
    },
    State.CLOSED: {},
}

CLIENT_MESSAGES: dict[str, type] = {
    "finalize": Finalize,
    "close": Close,
    "keepalive": KeepAlive,
    "configure": Configure,
}
SERVER_MESSAGES: dict[str, type] = {
    "ready": Ready,
    "partial": Partial,
    "final": Final,
    "closed": Closed,
    "error": Error,
}
NAMES: dict[type, str] = {Audio: "audio"} | {kind: name for name, kind in (CLIENT_MESSAGES | SERVER_MESSAGES).items()}
assert set(NAMES) == {*get_args(ClientEvent), *get_args(ServerEvent)} - {Malformed}


class Native:
    """One connection's talk: what may be said now, and how it is written. Starts in `opening`; `Ready` opens it."""

    def __init__(self) -> None:
        self.state = State.OPENING
        self._written: dict[int, _Written] = {}  # by channel

    @property
    def streaming(self) -> bool:
        """Audio may be said."""
        return self.state is State.STREAMING

    def receive(self, message: bytes | str) -> ClientEvent:
        """One WebSocket message, binary or text. What is wrong with it comes back as Malformed; never raises."""
        try:
            event = Audio(pcm=message) if isinstance(message, bytes) else read_client(message)
            self._move(event)
            return event
        except Refusal as refusal:
            return Malformed(refusal=refusal)

    def send(self, event: ServerEvent) -> str:
        """The text message that says it; an event out of turn is our own bug and raises AssertionError."""
        try:
            self._move(event)
        except Refusal as refusal:
            raise AssertionError(f"send: {refusal}") from refusal
        if isinstance(event, Partial):
            return self._written.setdefault(event.channel, _Written()).partial(event)
        return write(event)

    def _move(self, event: ClientEvent | ServerEvent) -> None:
        row = TRANSITIONS[self.state]
        if type(event) not in row:
            name = NAMES[type(event)]
            states = " or ".join(state.value for state, events in TRANSITIONS.items() if type(event) in events)
            raise Refusal("state", self.state.value, f"{states}, for {name} to be said", code="bad_state")
        self.state = row[type(event)]


class _Written:
    """Partials as `write` writes them; how stable words are written is kept, since each next partial repeats them."""

    def __init__(self) -> None:
        self._words: tuple[Word, ...] = ()
        self._texts: list[str] = []  # their JSON, joined into one as it grows

    def partial(self, event: Partial) -> str:
        """The text message that says it."""
        stable = event.words[: event.stable_words]
        if stable[: len(self._words)] != self._words:  # another segment; quick where the words are the same objects
            self._words, self._texts = (), []
        self._texts = _joined(self._texts, stable[len(self._words) :])
        self._words = stable
        words = _joined(self._texts, event.words[len(stable) :])
        before = {"type": "partial", "channel": event.channel, "segment": event.segment, "start": event.start}
        head = _json({**before, "text": event.text})[:-1]
        return f'{head},"words":[{"".join(words)}],"stable_words":{event.stable_words}}}'


def _joined(texts: list[str], words: Iterable[Word]) -> list[str]:
    """One text of all, or none where there is nothing."""
    texts = [*texts, *map(_json, words)]
    return [",".join(texts)] if texts else []


# The query of the connection.


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What this server offers a client that connects: the model's choices and the defaults."""

    latencies_ms: tuple[int, ...]
    latency_ms: int
    """The default; one of latencies_ms."""
    languages: tuple[str, ...] = ()
    language: str | None = None
    """The default where there are languages."""
    endpointing: Endpointing = field(default_factory=Endpointing)


PARAMETERS = (
    "sample_rate",
    "encoding",
    "channels",
    "multichannel",
    "latency",
    "interim",
    "language",
    "room",
    "endpointing",
    "endpoint_silence_ms",
    "endpoint_start_ms",
    "endpoint_max_ms",
)
_WHOLE = re.compile(r"[0-9]{1,9}\Z")


def parse_query(query: Iterable[tuple[str, str]], offer: Offer) -> Opening:
    """The connection's query as (name, value) pairs, URL-decoded; raises Refusal."""
    given: dict[str, str] = {}
    for name, value in query:
        if name not in PARAMETERS:
            raise Refusal("parameter", name, one_of(PARAMETERS, name))
        if name in given:
            raise Refusal(name, value, f"one value; the first was {given[name]}")
        given[name] = value
    default = offer.endpointing
    endpointing = Endpointing(
        enabled=_flag(given, "endpointing", default.enabled),
        silence_ms=_whole(given, "endpoint_silence_ms", default.silence_ms),
        start_ms=_whole(given, "endpoint_start_ms", default.start_ms),
        max_ms=_whole(given, "endpoint_max_ms", default.max_ms),
    )
    return Opening(
        sample_rate=_whole(given, "sample_rate", 16000),
        encoding=given.get("encoding", "pcm_s16le"),
        channels=_whole(given, "channels", 1),
        multichannel=_flag(given, "multichannel", False),
        latency_ms=_latency(given, offer),
        interim=_flag(given, "interim", True),
        language=_language(given, offer),
        room=given.get("room"),
        endpointing=endpointing,
    )


def _whole(given: Mapping[str, str], name: str, default: int) -> Any:
    """A number; what is none stays as it is, for who knows the range to refuse it."""
    value = given.get(name)
    if value is None:
        return default
    return int(value) if _WHOLE.match(value) else value


def _flag(given: Mapping[str, str], name: str, default: bool) -> bool:
    value = given.get(name)
    if value is None:
        return default
    if value not in ("true", "false"):
        raise Refusal(name, value, "true or false")
    return value == "true"


def _latency(given: Mapping[str, str], offer: Offer) -> int:
    latency_ms: int = _whole(given, "latency", offer.latency_ms)
    if latency_ms not in offer.latencies_ms:
        choices = ", ".join(map(str, sorted(offer.latencies_ms)))
        raise Refusal("latency", latency_ms, f"one of the model's, in ms: {choices}")
    return latency_ms


def _language(given: Mapping[str, str], offer: Offer) -> str | None:
    language = given.get("language", offer.language)
    if language is not None and language not in offer.languages:
        none = "no language: this model has no choice of them"
        raise Refusal("language", language, one_of(offer.languages, language) if offer.languages else none)
    return language


# Text messages.


def read_client(text: str) -> ClientEvent:
    """A client's text message; raises Refusal (bad_message)."""
    message = _object(text)
    kind = message.pop("type", None)
    if not isinstance(kind, str):
        raise Refusal("type", kind, one_of(CLIENT_MESSAGES, ""), code="bad_message")
    if kind not in CLIENT_MESSAGES:
        raise Refusal("type", kind, one_of(CLIENT_MESSAGES, kind), code="bad_message")
    event = CLIENT_MESSAGES[kind]
    _check_fields(kind, message, [item.name for item in dataclasses.fields(event)])
    try:
        result: ClientEvent = event(**message)
        return result
    except Refusal as refusal:
        raise Refusal(f"{kind}.{refusal.where}", refusal.got, refusal.expected, code="bad_message") from refusal


def _check_fields(kind: str, message: dict[str, Any], names: list[str]) -> None:
    """Only known fields, each with a value; the sentence repeats nothing of the client's but in quotes."""
    for name, value in message.items():
        if name == "language" and kind == "configure":
            raise Refusal("configure.language", value, "in the query of the connection only", code="bad_message")
        if name not in names:
            expected = one_of(names, name) if names else "no field beside type"
            raise Refusal(f"{kind} field", name, expected, code="bad_message")
        if value is None:
            raise Refusal(f"{kind}.{name}", None, "a value, or no such field", code="bad_message")


def read_server(text: str) -> ServerEvent:
    """A server's text message, as a client reads it; fields that are not known are passed over. Raises Refusal."""
    message = _object(text, longest=None)
    kind = message.pop("type", None)
    if not isinstance(kind, str) or kind not in SERVER_MESSAGES:
        raise Refusal("type", kind, one_of(SERVER_MESSAGES, str(kind)), code="bad_message")
    event = SERVER_MESSAGES[kind]
    values = _known(kind, event, message)
    if "words" in values:
        if not isinstance(values["words"], list):
            raise Refusal("words", values["words"], "a list", code="bad_message")
        values["words"] = tuple(Word(**_known("word", Word, word)) for word in values["words"])
    result: ServerEvent = event(**values)
    return result


def write(event: ClientEvent | ServerEvent) -> str:
    """The text message of an event (audio has none: it is sent as bytes)."""
    return _json({"type": NAMES[type(event)], **_values(event)})


def _values(event: Any) -> dict[str, Any]:
    """The fields that have a value, one level deep (dataclasses.asdict copies all, and is slow)."""
    kind = type(event)
    if (names := _FIELDS.get(kind)) is None:
        names = _FIELDS[kind] = tuple(item.name for item in dataclasses.fields(kind))
    values = [(name, getattr(event, name)) for name in names]
    return {name: value for name, value in values if value is not None}


_FIELDS: dict[type, tuple[str, ...]] = {}  # by kind of event, those that have been written


_json = json.JSONEncoder(
    default=_values, ensure_ascii=False, separators=(",", ":")
).encode  # json.dumps makes a new one


def _object(text: str, longest: int | None = MAX_TEXT) -> dict[str, Any]:
    """A JSON object, each key in it once; NaN and infinities are not JSON, whatever Python says."""
    if longest is not None and len(text) > longest:
        raise Refusal("message", f"{len(text)} characters", f"at most {longest}", code="bad_message")
    try:
        message = json.loads(text, parse_constant=_no_constant, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise Refusal("message", text, f"a JSON object ({error})", code="bad_message") from error
    if not isinstance(message, dict):
        raise Refusal("message", text, "a JSON object", code="bad_message")
    return message


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        raise ValueError("each key once")
    return result


def _known(name: str, kind: type, values: object) -> dict[str, Any]:
    """The fields of `kind` that are there; all that have no default must be."""
    fields = dataclasses.fields(kind)
    if not isinstance(values, dict):
        raise Refusal(name, values, "a JSON object", code="bad_message")
    missing = [f.name for f in fields if f.default is dataclasses.MISSING and f.name not in values]
    if missing:
        raise Refusal(name, ", ".join(sorted(values)), f"also {', '.join(missing)}", code="bad_message")
    return {f.name: values[f.name] for f in fields if f.name in values}
