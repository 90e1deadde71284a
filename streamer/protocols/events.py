"""What can be said on a stream, both ways: frozen events that validate themselves. Knows nothing of bytes or JSON.

An event that exists is valid. Times are seconds of the stream's own audio clock (0 = its first sample), rounded to
milliseconds by `Word` and `Final` themselves; confidences are 0..1, four decimals. Do not subclass these.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable
from dataclasses import dataclass

from streamer.errors import CODES, Refusal

BARE = ("pcm_s16le", "pcm_f32le", "mulaw", "alaw")  # samples without a header
CONTAINERS = ("webm", "ogg", "flac", "mp3", "mp4", "wav")  # what a decoder makes samples of
ENCODINGS = (*BARE, "auto", *CONTAINERS)
REASONS = ("endpoint", "finalize", "close", "limit", "stall", "shutdown", "error")
SAMPLE_RATES = (8000, 192_000)  # hertz, lowest and highest
CHANNELS = (1, 8)
CLOSE_CODES = {  # the WebSocket close code -> when
    1000: "the stream was closed by the client, and everything was said",
    1001: "the server shuts down; the last final has reason shutdown",
    1002: "the client broke the rules of WebSocket itself; nothing more was said",
    1003: "the bytes were not the audio that was announced",
    1007: "a text message was not UTF-8; nothing more was said",
    1008: "a limit: idle, the longest session, too many refused messages, unread messages; or a refused connection",
    1009: "a message longer than the server allows; beyond four times its limit nothing more was said",
    1011: "a fault of the server",
    1013: "the server is full; try again later",
}
SILENCE_MS = (80, 60_000)  # bounds of endpoint_silence_ms: one encoder frame to a minute
START_MS = (80, 600_000)
MAX_MS = (1_000, 300_000)  # a partial repeats its segment: five minutes are about a thousand words


def _whole(where: str, got: object, bounds: tuple[int, int], unit: str = "") -> None:
    """A whole number within bounds, both included; True and 3.0 are not whole numbers."""
    if isinstance(got, bool) or not isinstance(got, int) or not bounds[0] <= got <= bounds[1]:
        raise Refusal(where, got, f"a whole number, {bounds[0]} to {bounds[1]}{unit}")


def _flag(where: str, got: object) -> None:
    if not isinstance(got, bool):
        raise Refusal(where, got, "true or false")


def _number(where: str, got: object, highest: float, unit: str) -> float:
    """A number from 0 to `highest`, which NaN and the infinities are not."""
    if isinstance(got, bool) or not isinstance(got, (int, float)) or not 0 <= got <= highest:
        raise Refusal(where, got, f"{unit}, 0 to {highest:g}", code="bad_message")
    return float(got)


def _seconds(where: str, got: object) -> float:
    """Seconds of the audio clock, rounded to milliseconds."""
    return round(_number(where, got, 1e9, "seconds"), 3)


def _text(where: str, got: object) -> str:
    if not isinstance(got, str):
        raise Refusal(where, got, "text", code="bad_message")
    return got


def _member(where: str, got: object, known: Iterable[str], code: str = "bad_message") -> None:
    if _text(where, got) not in known:
        raise Refusal(where, got, f"one of {', '.join(known)}", code=code)


_ROOM = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")


def room_name(got: object) -> str:
    """The name that a room is kept under: two that differ in case alone are one room. Raises Refusal."""
    if not isinstance(got, str) or not _ROOM.match(got):
        raise Refusal("room", got, "1 to 64 of A-Z a-z 0-9 _ -")
    return got.lower()


_COUNT = (0, 1 << 53)  # what a JSON number holds exactly


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpointing:
    """When a segment ends by itself, on the audio clock. Milliseconds."""

    enabled: bool = True
    silence_ms: int = 800
    """Silence after speech that ends a segment."""
    start_ms: int = 5_000
    """Silence without speech after which the segment's clock starts anew (nothing is sent)."""
    max_ms: int = 30_000
    """Longest segment; it is cut before its last word."""

    def __post_init__(self) -> None:
        _flag("endpointing", self.enabled)
        _whole("endpoint_silence_ms", self.silence_ms, SILENCE_MS, " ms")
        _whole("endpoint_start_ms", self.start_ms, START_MS, " ms")
        _whole("endpoint_max_ms", self.max_ms, MAX_MS, " ms")


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """What a client asked for when it connected, with the server's defaults filled in."""

    sample_rate: int = 16000
    """Hertz, of each channel on the wire."""
    encoding: str = "pcm_s16le"
    channels: int = 1
    multichannel: bool = False
    """Each channel is heard by itself, not their mean."""
    latency_ms: int
    interim: bool = True
    language: str | None = None
    room: str | None = None
    """Where viewers may watch what is said."""
    endpointing: Endpointing = Endpointing()

    def __post_init__(self) -> None:
        _whole("sample_rate", self.sample_rate, SAMPLE_RATES, " Hz")
        _member("encoding", self.encoding, ENCODINGS, code="bad_request")
        _whole("channels", self.channels, CHANNELS)
        _flag("multichannel", self.multichannel)
        _whole("latency", self.latency_ms, (1, 60_000), " ms")
        _flag("interim", self.interim)
        if self.room is not None:
            room_name(self.room)


# What the client says.


@dataclass(frozen=True, slots=True, kw_only=True)
class Audio:
    """Wire bytes as they came, any number of them."""

    pcm: bytes

    def __post_init__(self) -> None:
        if not isinstance(self.pcm, bytes):
            raise Refusal("audio", type(self.pcm).__name__, "bytes", code="bad_message")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finalize:
    """Make everything said so far final, now; always answered with a final."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Close:
    """No more audio comes: the last final, then closed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepAlive:
    """I am still here, though no audio comes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Configure:
    """New values from here on; None leaves a value as it is."""

    interim: bool | None = None
    endpointing: bool | None = None
    endpoint_silence_ms: int | None = None
    endpoint_start_ms: int | None = None
    endpoint_max_ms: int | None = None

    def __post_init__(self) -> None:
        for name in ("interim", "endpointing"):
            if getattr(self, name) is not None:
                _flag(name, getattr(self, name))
        for name, bounds in _CONFIGURE_BOUNDS.items():
            if getattr(self, name) is not None:
                _whole(name, getattr(self, name), bounds, " ms")


_CONFIGURE_BOUNDS = {"endpoint_silence_ms": SILENCE_MS, "endpoint_start_ms": START_MS, "endpoint_max_ms": MAX_MS}


@dataclass(frozen=True, slots=True, kw_only=True)
class Malformed:
    """A message that could not become an event; the session answers it with an error and lives on."""

    refusal: Refusal


ClientEvent = Audio | Finalize | Close | KeepAlive | Configure | Malformed


# What the server says.


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """One word with its span in seconds and its confidence, 0..1."""

    word: str
    start: float
    end: float
    confidence: float

    def __post_init__(self) -> None:
        _text("word", self.word)
        if not self.word or self.word != "".join(self.word.split()):
            raise Refusal("word", self.word, "a word: not empty, no white space", code="bad_message")
        object.__setattr__(self, "start", _seconds("word.start", self.start))
        object.__setattr__(self, "end", _seconds("word.end", self.end))
        if self.end < self.start:
            raise Refusal("word.end", self.end, f"not before its start {self.start}", code="bad_message")
        confidence = _number("word.confidence", self.confidence, 1, "a share")
        object.__setattr__(self, "confidence", round(confidence, 4))


def _words(text: str, words: tuple[Word, ...]) -> None:
    """The text is its words, and their times never go back."""
    _text("text", text)
    if " ".join([w.word for w in words]) != text:
        raise Refusal("text", text, "the words joined by one blank", code="bad_message")
    starts, ends = [w.start for w in words[1:]], [w.end for w in words]
    if any(map(operator.lt, starts, ends)):  # in C: a partial of a long segment has a thousand words
        start, end = next(pair for pair in zip(starts, ends, strict=False) if pair[0] < pair[1])
        raise Refusal("words.start", start, f"not before the end {end} of the word before", code="bad_message")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """The stream is open; audio may come."""

    session_id: str
    model: str
    latency_ms: int
    sample_rate: int
    """Hertz on the wire, as asked for."""

    def __post_init__(self) -> None:
        _text("session_id", self.session_id)
        _text("model", self.model)
        _whole("latency_ms", self.latency_ms, _COUNT)
        _whole("sample_rate", self.sample_rate, SAMPLE_RATES, " Hz")


@dataclass(frozen=True, slots=True, kw_only=True)
class Partial:
    """What a segment says so far; the first `stable_words` words will never change."""

    channel: int = 0
    segment: int
    start: float
    text: str
    words: tuple[Word, ...]
    stable_words: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "start", _seconds("start", self.start))
        _whole("channel", self.channel, _COUNT)
        _whole("segment", self.segment, _COUNT)
        _words(self.text, self.words)
        _whole("stable_words", self.stable_words, (0, len(self.words)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Final:
    """What a segment said; sent once."""

    channel: int = 0
    segment: int
    start: float
    end: float
    text: str
    words: tuple[Word, ...]
    reason: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "start", _seconds("start", self.start))
        object.__setattr__(self, "end", _seconds("end", self.end))
        _whole("channel", self.channel, _COUNT)
        _whole("segment", self.segment, _COUNT)
        _words(self.text, self.words)
        _member("reason", self.reason, REASONS)
        if self.end < self.start:
            raise Refusal("end", self.end, f"not before the start {self.start}", code="bad_message")


@dataclass(frozen=True, slots=True, kw_only=True)
class Closed:
    """The last message of a stream: how much audio was heard, in seconds."""

    audio_seconds: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "audio_seconds", _seconds("audio_seconds", self.audio_seconds))


@dataclass(frozen=True, slots=True, kw_only=True)
class Error:
    """Something was refused or broke; the message says where, what was got and what was expected."""

    code: str
    message: str

    def __post_init__(self) -> None:
        _member("code", self.code, CODES)
        _text("message", self.message)


ServerEvent = Ready | Partial | Final | Closed | Error
