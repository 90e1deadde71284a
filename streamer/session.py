"""One client's life: events and what was heard in, actions out. Knows no socket, no engine, no clock: time is a value.

`now` is seconds of any clock that never goes back; the server ticks a session a few times a second. A session is open,
then ending (the engine finishes the stream), then done. However it ends: an error where there is one, an answer to
every finalize that still waits, one final for the open segment, with words or without, `closed`, the Hangup.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from models.config import FRAME_SAMPLES
from streamer.actions import Action, Drain, Feed, Finish, Fork, Hangup, Heard, Say
from streamer.audio import RATE, BadAudio, DecodedAudio, WireAudio
from streamer.encodings import WIDTHS
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
from streamer.settings import SessionSettings
from streamer.transcript.endpoint import Rules
from streamer.transcript.transcript import CHUNK_SHORT, Transcript
from streamer.transcript.words import Speller
from streamer.voice import Voice

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from models.config import ModelConfig
    from models.tokenizer import Tokenizer
    from streamer.protocols.events import ClientEvent, Opening
    from streamer.voice import Tail

__all__ = ["Action", "Drain", "Feed", "Finish", "Fork", "Hangup", "Heard", "Say", "Session", "SessionSettings"]

RAW = "pcm_s16le"  # what encoding=auto takes bytes for that begin like no file


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
        self._audio: WireAudio | DecodedAudio = (
            self._bare(opening.encoding)
            if opening.encoding in WIDTHS
            else DecodedAudio(opening.channels, opening.multichannel)
        )
        self._flushed = False  # it has given out all it had
        silence = np.zeros(settings.tail_ms * RATE // 1000, np.float32)
        speller = Speller(tokenizer, (model.eou_id, model.eob_id))
        eou = () if model.eou_id is None else (model.eou_id,)
        rules, delay_s = _rules(opening.endpointing), settings.emission_delay_ms / 1000
        self._voices = [
            Voice(channel, Transcript(speller, rules, self.chunk, eou, delay_s), silence)
            for channel in range(opening.channels if opening.multichannel else 1)
        ]
        self._began = self._last_audio = self._last_message = self._last_heard = now
        self._errors = 0
        self._ending: _Ending | None = None
        self._done = False

    def _bare(self, encoding: str) -> WireAudio:
        opening = self._opening
        chunk = self.chunk * FRAME_SAMPLES
        chunks = chunk - CHUNK_SHORT, chunk
        return WireAudio(opening.sample_rate, encoding, opening.channels, opening.multichannel, chunks)

    @property
    def encoding(self) -> str:
        """What the client's bytes are."""
        return self._opening.encoding

    @property
    def voices(self) -> int:
        """Streams of the engine that it takes: one, or one for each channel."""
        return len(self._voices)

    @property
    def audio_seconds(self) -> float:
        """Audio that came so far, in seconds."""
        return (self._voices[0].fed + self._audio.kept) / RATE

    @property
    def done(self) -> bool:
        """The Hangup has been given out."""
        return self._done

    @property
    def ending(self) -> bool:
        """No more audio is taken from the client."""
        return self._ending is not None

    @property
    def deaf(self) -> bool:
        """Nor from a decoder."""
        return self._flushed

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
            if isinstance(event, Finalize):
                for voice in self._voices:
                    voice.finalize_at_end()
            return self._refused(event.refusal, now) if isinstance(event, Malformed) else []
        match event:
            case Audio(pcm=data):
                return self._receive_audio(data, now) + self._overlong(now)
            case Finalize():
                return self._forked(Voice.finalize)
            case Close():
                return self._end(_Ending("close", 1000, now))
            case Configure():
                return self._configure(event)
            case KeepAlive():
                return []
            case Malformed(refusal=refusal):
                return self._refused(refusal, now)

    def keep(self, data: bytes, now: float) -> bool:
        """Bytes that came, if they may be put aside because the engine could do nothing with them yet; else False, and
        `receive` them. Most messages of live audio are much shorter than a chunk."""
        if self._ending is not None or not self._audio.keep(data):
            return False
        self._last_message = self._last_audio = now
        return True

    def arrived(self, size: int, now: float) -> list[Action]:
        """So many bytes of compressed audio came; a decoder has them."""
        if self._done or self._ending is not None:
            return []
        self._last_message = now
        return self._arrived(size, now)

    def decoded(self, blocks: npt.NDArray[np.float32], sample_rate: int, now: float) -> list[Action]:
        """What a decoder made of compressed audio: [n, channels]. It may come until `drained`."""
        if self._done or self._flushed:
            return []
        assert isinstance(self._audio, DecodedAudio), "audio: got decoded samples, expected bytes"
        self._last_audio = now
        try:
            rows = self._audio.feed(blocks, sample_rate)
        except BadAudio as bad:
            return self._feed(bad.before) + self._bad(_error(bad), now)
        room = int(self._settings.max_session_s * RATE) - self._voices[0].fed
        if rows.shape[1] <= room:
            return self._feed(rows)
        return self._feed(rows[:, :room]) + self._full(now)

    def damaged(self, message: str, now: float) -> list[Action]:
        """A decoder cannot go on: what was heard before is the last final."""
        if self._done or self._flushed:
            return []
        return self._bad(Error(code="bad_audio", message=message), now)

    def drained(self, now: float, held: bytes = b"") -> list[Action]:
        """The decoder has given all it had. `held`: bytes too few to tell what they are, so they are bare samples."""
        if self._done or self._flushed:
            return []
        assert self._ending is not None, "drained: got it before Drain, expected it after"
        self._last_heard = now
        if not held:
            return self._flush()
        self._audio = self._bare(RAW)
        return self._feed(self._audio.feed(held)) + self._flush()

    def heard(self, heard: Heard, now: float, channel: int = 0) -> list[Action]:
        """The engine heard something of a channel."""
        if self._done:
            return []
        self._last_heard = now
        voice = self._voices[channel]
        if heard.mark is not None:
            actions = voice.hear_fork(heard)
            if self._ending is None:
                actions += self._feed(self._audio.release())
                actions += voice.fork_waiting(lambda: self._audio.preview_tail(channel))
            return actions
        assert not heard.finished or self._flushed, "heard.finished: got it before Finish, expected it after"
        actions = voice.hear(heard, self._interim)
        if heard.finished and all([each.finished for each in self._voices]):
            return actions + self._finished()
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
        if limit := self._overlong(now):
            return limit
        if now - self._last_message >= settings.idle_s:
            expected = f"audio or keepalive within {settings.idle_s:g} s"
            return self._limit("idle_timeout", f"stream: got nothing, expected {expected}", now)
        if (now - self._last_audio) * 1000 >= settings.stall_ms:
            return self._forked(Voice.stall)
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
        if not self._flushed:
            self._feed(self._audio.release())  # it counts, though nobody will hear it
            for channel, voice in enumerate(self._voices):
                voice.fed += self._audio.preview_tail(channel).size  # what a fork may have heard of it already
        self._flushed = True
        self._ending = _Ending("error", 1011, now)
        return [Say(event=Error(code=code, message=message)), *self._finished()]

    # What the client says.

    def _receive_audio(self, data: bytes, now: float) -> list[Action]:
        if too_long := self._arrived(len(data), now):
            return too_long
        if isinstance(self._audio, DecodedAudio):
            self._audio = self._bare(RAW)
        try:
            return self._feed(self._audio.feed(data))
        except BadAudio as bad:  # the rest cannot be trusted either: what was heard before it is the last final
            return self._feed(bad.before) + self._bad(_error(bad), now)

    def _arrived(self, size: int, now: float) -> list[Action]:
        if size:
            self._last_audio = now
        most = self._settings.max_message_bytes
        if size <= most:
            return []
        wrong = Refusal("audio", f"{size} bytes", f"at most {most} bytes a message", code="bad_audio")
        return self._stop(_error(wrong), _Ending("error", 1009, now))

    def _overlong(self, now: float) -> list[Action]:
        """The end of a session that has lasted, or whose audio lasts, as long as any may."""
        longest = self._settings.max_session_s
        if self._ending is not None or max(now - self._began, self.audio_seconds) < longest:
            return []
        return self._limit("session_limit", f"session: expected at most {longest:g} s", now)

    def _full(self, now: float) -> list[Action]:
        """A few compressed bytes held more than a session may have: the rest is not decoded."""
        since = now if self._ending is None else self._ending.since
        self._ending, self._flushed = _Ending("limit", 1008, since), True
        longest = f"session: expected at most {self._settings.max_session_s:g} s"
        ends = [action for voice in self._voices for action in voice.end(np.zeros(0, np.float32))]
        return [Say(event=Error(code="session_limit", message=longest)), *ends]

    def _bad(self, error: Error, now: float) -> list[Action]:
        """The end, with all that came out of the audio before; a decoder is asked for nothing more."""
        if self._ending is None:
            self._ending = _Ending("error", 1003, now)
        else:
            self._ending = _Ending("error", 1003, self._ending.since)
        return [Say(event=error), *self._flush()]

    def _feed(self, rows: npt.NDArray[np.float32]) -> list[Action]:
        return [action for voice, pcm in zip(self._voices, rows, strict=True) for action in voice.feed(pcm)]

    def _forked(self, ask: Callable[[Voice, Tail], list[Action]]) -> list[Action]:
        """Every voice is asked; what its resampler still holds it asks for itself."""
        actions = self._feed(self._audio.release())
        for channel, voice in enumerate(self._voices):
            actions += ask(voice, partial(self._audio.preview_tail, channel))
        return actions

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
        for voice in self._voices:
            voice.transcript.rules = _rules(self._endpointing)
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
        return [Drain()] if isinstance(self._audio, DecodedAudio) else self._flush()

    def _flush(self) -> list[Action]:
        """All audio is there: the engine may finish."""
        assert self._ending is not None
        said = self._feed(self._audio.release())
        try:
            rest = self._audio.flush()
        except BadAudio as bad:  # the first bytes, fewer than it takes to tell a file's header
            self._ending = _Ending("error", 1003, self._ending.since)
            said.append(Say(event=_error(bad)))
            rest = np.concatenate([bad.before, self._audio.flush()], axis=1)
        self._flushed = True
        ends = (voice.end(pcm) for voice, pcm in zip(self._voices, rest, strict=True))
        return [*said, *(action for end in ends for action in end)]

    def _finished(self) -> list[Action]:
        """The stream's last words; finalizes that still wait are answered before its last final."""
        assert self._ending is not None
        actions = [action for voice in self._voices for action in voice.owed()]
        actions += [action for voice in self._voices for action in voice.last_words(self._ending.reason)]
        self._done = True
        closed = Say(event=Closed(audio_seconds=self.audio_seconds))
        return [*actions, closed, Hangup(code=self._ending.code, reason=self._ending.reason)]


def _rules(endpointing: Endpointing) -> Rules:
    return Rules.of_ms(endpointing.silence_ms, endpointing.start_ms, endpointing.max_ms, endpointing.enabled)


def _error(refusal: Refusal) -> Error:
    return Error(code=refusal.code, message=str(refusal))
