"""One client's life: events and what was heard in, actions out. Knows no socket, no engine, no clock: time is a value.

`now` is seconds of any clock that never goes back; the server ticks a session a few times a second. A session is open,
then ending (the engine finishes the stream), then done. However it ends: an error where there is one, an answer to
every finalize that still waits, one final for the open segment, with words or without, `closed`, the Hangup.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from streamer.actions import Action, Feed, Finish, Fork, Hangup, Heard, Say
from streamer.audio import RATE, BadAudio, WireAudio
from streamer.errors import Refusal
from streamer.protocols.events import (
    Audio,
    Close,
    Closed,
    Configure,
    Endpointing,
    Error,
    Finalize,
    KeepAlive,
    Malformed,
    Ready,
)
from streamer.transcript.endpoint import Rules
from streamer.transcript.transcript import Transcript
from streamer.transcript.words import Speller
from streamer.wording import Wording, final

if TYPE_CHECKING:
    import numpy.typing as npt

    from models.config import ModelConfig
    from models.tokenizer import Tokenizer
    from streamer.protocols.events import ClientEvent, Opening
    from streamer.transcript.utterance import Segment

__all__ = ["Action", "Feed", "Finish", "Fork", "Hangup", "Heard", "Say", "Session", "SessionSettings"]

MAX_FORKS = 16  # of one stream; the engine makes one at a time


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


@dataclass(frozen=True, slots=True)
class _Asked:
    """A fork under way: why, for how many finalizes, and where the audio ended for it."""

    mark: int
    reason: str
    answers: int
    samples: int


@dataclass(frozen=True, slots=True)
class _Ending:
    """How a stream ends: the last final's reason, the close code, when it began."""

    reason: str
    code: int
    since: float


class Session:
    """Say `start()` first; after a Hangup it has nothing more to say."""

    chunk: int
    """C, encoder frames of a chunk: what the engine opens the stream with."""
    prompt: int | None
    """The language's prompt index, None where the model has no prompts."""

    def __init__(
        self, opening: Opening, model: ModelConfig, tokenizer: Tokenizer, settings: SessionSettings, now: float
    ) -> None:
        self.chunk = model.chunk_of(opening.latency_ms)
        self.prompt = model.prompt_index(opening.language)
        self._opening, self._settings, self._model_name = opening, settings, model.name
        self._endpointing, self._interim = opening.endpointing, opening.interim
        self._audio = WireAudio(opening.sample_rate, opening.encoding, opening.channels)
        speller = Speller(tokenizer, (model.eou_id, model.eob_id))
        eou = () if model.eou_id is None else (model.eou_id,)
        self._transcript = Transcript(
            speller, _rules(opening.endpointing), self.chunk, eou, settings.emission_delay_ms / 1000
        )
        self._began = self._last_audio = self._last_message = self._last_heard = now
        self._fed = 0  # samples given to the engine
        self._quiet_from = 0  # samples that a stall has already finalised
        self._errors = 0
        self._marks = 0
        self._asked: deque[_Asked] = deque()  # forks under way; the engine makes them one after the other
        self._waiting = 0  # finalizes beyond MAX_FORKS: the next fork answers them, or the end
        self._wording = Wording()
        self._ending: _Ending | None = None
        self._done = False

    @property
    def audio_seconds(self) -> float:
        """Audio fed so far, in seconds."""
        return self._fed / RATE

    @property
    def done(self) -> bool:
        """The Hangup has been given out."""
        return self._done

    @property
    def ending(self) -> bool:
        """No more audio is taken."""
        return self._ending is not None

    # What happens to a session, in the order of a life.

    def start(self, session_id: str) -> list[Action]:
        """The stream has its slot: say ready."""
        return [
            Say(
                event=Ready(
                    session_id=session_id,
                    model=self._model_name,
                    latency_ms=self._opening.latency_ms,
                    sample_rate=self._opening.sample_rate,
                )
            )
        ]

    def receive(self, event: ClientEvent, now: float) -> list[Action]:
        """The client said something (Malformed included). Audio that comes after the end began is not heard."""
        if self._done:
            return []
        self._last_message = now
        if self._ending is not None:
            self._waiting += isinstance(event, Finalize)
            return self._refused(event.refusal, now) if isinstance(event, Malformed) else []
        match event:
            case Audio(pcm=data):
                return self._receive_audio(data, now)
            case Finalize():
                return self._finalize()
            case Close():
                return self._end(_Ending("close", 1000, now))
            case Configure():
                return self._configure(event)
            case KeepAlive():
                return []
            case Malformed(refusal=refusal):
                return self._refused(refusal, now)

    def heard(self, heard: Heard, now: float) -> list[Action]:
        """The engine heard something."""
        if self._done:
            return []
        self._last_heard = now
        if heard.mark is not None:
            return self._heard_fork(heard)
        actions = self._finals(self._transcript.hear(heard.tokens, heard.frames), "endpoint")
        if heard.finished:
            assert self._ending is not None, "heard.finished: got it before Finish, expected it after"
            return actions + self._finished()
        if self._interim and heard.tokens:
            actions += self._partial()
        return actions

    def tick(self, now: float, *, listening: bool = True) -> list[Action]:
        """Time passed. While nobody listens to the client, its silence is none of its own."""
        settings = self._settings
        if self._done:
            return []
        if self._ending is not None:
            if now - max(self._ending.since, self._last_heard) >= settings.finish_s:
                return self.failed("internal", f"engine: silent for {settings.finish_s:g} s, expected the end", now)
            return []
        if not listening:
            self._last_message = self._last_audio = now
        longest = max(now - self._began, self.audio_seconds)
        if longest >= settings.max_session_s:
            return self._limit("session_limit", f"session: expected at most {settings.max_session_s:g} s", now)
        if now - self._last_message >= settings.idle_s:
            expected = f"audio or keepalive within {settings.idle_s:g} s"
            return self._limit("idle_timeout", f"stream: got nothing, expected {expected}", now)
        if (now - self._last_audio) * 1000 >= settings.stall_ms:
            return self._stall()
        return []

    def shutdown(self, now: float) -> list[Action]:
        """The server goes: finish as if closed, with reason shutdown."""
        if self._done or self._ending is not None:
            return []
        return self._end(_Ending("shutdown", 1001, now))

    def failed(self, code: str, message: str, now: float) -> list[Action]:
        """The engine cannot go on with this stream: error, a final of what was heard, closed, hang up 1011."""
        if self._done:
            return []
        if self._ending is None:
            self._fed += self._audio.preview_tail().size  # what a fork may have heard of it already
        self._ending = _Ending("error", 1011, now)
        return [Say(event=Error(code=code, message=message)), *self._finished()]

    # What the client says.

    def _receive_audio(self, data: bytes, now: float) -> list[Action]:
        if data:
            self._last_audio = now
        most = self._settings.max_message_bytes
        if len(data) > most:
            wrong = Refusal("audio", f"{len(data)} bytes", f"at most {most} bytes a message", code="bad_audio")
            return self._stop(_error(wrong), _Ending("error", 1009, now))
        try:
            return self._feed(self._audio.feed(data))
        except BadAudio as bad:  # the rest cannot be trusted either: what was heard before it is the last final
            return self._feed(bad.before) + self._stop(_error(bad), _Ending("error", 1003, now))

    def _feed(self, pcm: npt.NDArray[np.float32]) -> list[Action]:
        self._fed += pcm.size
        return [Feed(pcm=pcm)] if pcm.size else []

    def _finalize(self) -> list[Action]:
        """A fork of what was sent so far, whatever is under way; several where no audio came between share one."""
        last = self._asked[-1] if self._asked else None
        if last and last.reason == "finalize" and last.samples == self._fed + self._audio.preview_tail().size:
            self._asked[-1] = dataclasses.replace(last, answers=last.answers + 1)
            return []
        if len(self._asked) >= MAX_FORKS:
            self._waiting += 1
            return []
        return self._fork("finalize", 1)

    def _fork_waiting(self) -> list[Action]:
        waiting, self._waiting = self._waiting, 0
        return self._fork("finalize", waiting) if waiting else []

    def _fork(self, reason: str, answers: int) -> list[Action]:
        tail = self._audio.preview_tail()
        self._marks += 1
        self._asked.append(_Asked(self._marks, reason, answers, self._fed + tail.size))
        return [Fork(mark=self._marks, pcm=np.concatenate([tail, self._silence()]))]

    def _stall(self) -> list[Action]:
        """Audio has stopped coming: finalise what hangs, once, until audio comes again."""
        if self._asked or (self._quiet_from == self._fed and not self._transcript.pending):
            return []
        self._quiet_from = self._fed
        return self._fork("stall", 0)

    def _configure(self, event: Configure) -> list[Action]:
        if event.interim is not None:
            self._interim = event.interim
        names = {
            "enabled": event.endpointing,
            "silence_ms": event.endpoint_silence_ms,
            "start_ms": event.endpoint_start_ms,
            "max_ms": event.endpoint_max_ms,
        }
        changes = {name: value for name, value in names.items() if value is not None}
        self._endpointing = dataclasses.replace(self._endpointing, **changes)  # type: ignore[arg-type]
        self._transcript.rules = _rules(self._endpointing)
        return []

    def _refused(self, refusal: Refusal, now: float) -> list[Action]:
        """Say it, and live on; but not for ever."""
        self._errors += 1
        most = self._settings.max_errors
        if self._errors <= most:
            return [Say(event=_error(refusal))]
        if self._ending is not None:
            return []
        message = f"errors={self._errors}: expected at most {most} on one stream"
        return self._stop(Error(code="too_many_errors", message=message), _Ending("error", 1008, now))

    # How a stream ends.

    def _limit(self, code: str, message: str, now: float) -> list[Action]:
        return self._stop(Error(code=code, message=message), _Ending("limit", 1008, now))

    def _stop(self, why: Error, ending: _Ending) -> list[Action]:
        """The client learns at once why nothing more is heard."""
        return [Say(event=why), *self._end(ending)]

    def _end(self, ending: _Ending) -> list[Action]:
        self._ending = ending
        said: list[Action] = []
        try:
            rest = self._audio.flush()
        except BadAudio as bad:  # the first bytes, fewer than it takes to tell a file's header
            self._ending = _Ending("error", 1003, ending.since)
            said = [Say(event=_error(bad))]
            rest = np.concatenate([bad.before, self._audio.flush()])
        self._fed += rest.size
        self._transcript.end(self._fed)
        return [*said, Finish(pcm=np.concatenate([rest, self._silence()]))]

    def _finished(self) -> list[Action]:
        """The stream's last words; finalizes that still wait are answered before its last final."""
        assert self._ending is not None
        waiting = self._waiting + sum(asked.answers for asked in self._asked)
        actions: list[Action] = []
        for reason in ["finalize"] * waiting + [self._ending.reason]:
            actions += self._finals([self._transcript.cut(self._fed)], reason)
        self._done = True
        closed = Say(event=Closed(audio_seconds=self.audio_seconds))
        return [*actions, closed, Hangup(code=self._ending.code, reason=self._ending.reason)]

    # What the engine heard.

    def _heard_fork(self, heard: Heard) -> list[Action]:
        assert self._asked, f"mark: got {heard.mark}, expected none: no fork is under way"
        asked = self._asked.popleft()
        assert asked.mark == heard.mark, f"mark: got {heard.mark}, expected that of {asked}"
        self._transcript.ahead(heard.tokens, heard.frames)
        actions: list[Action] = []
        for _ in range(max(asked.answers, self._transcript.pending)):  # a stall without words says nothing
            actions += self._finals([self._transcript.cut(asked.samples)], asked.reason)
        return actions if self._ending is not None else actions + self._fork_waiting()

    def _partial(self) -> list[Action]:
        event = self._wording.partial(self._transcript.draft())
        return [Say(event=event)] if event else []

    def _finals(self, segments: Sequence[Segment], reason: str) -> list[Action]:
        return [Say(event=final(segment, reason)) for segment in segments]

    def _silence(self) -> npt.NDArray[np.float32]:
        return np.zeros(self._settings.tail_ms * RATE // 1000, np.float32)


def _rules(endpointing: Endpointing) -> Rules:
    return Rules.of_ms(endpointing.silence_ms, endpointing.start_ms, endpointing.max_ms, endpointing.enabled)


def _error(refusal: Refusal) -> Error:
    return Error(code=refusal.code, message=str(refusal))
