"""A model opened for recordings, and what it heard as words. Shared by `transcribe`, `eval` and `bench`.

Knows nothing of the daemon. Two ways to hear: chunk by chunk through a backend, or the whole file at once with torch.
What is heard comes word by word while the recording is still read (`follow`), or as one transcript (`hear`).
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from models.config import FRAME_S, SAMPLE_RATE, ConfigError, ModelConfig
from models.tokenizer import Tokenizer
from streamer import artefacts
from streamer.backends import load_backend
from streamer.commands import DEFAULT_BACKEND, USAGE, CommandError, default_latency, processors, say
from streamer.commands.models import read as read_config
from streamer.decoding import Token
from streamer.recordings import Unreadable
from streamer.transcriber import Step, Transcriber
from streamer.transcript.utterance import Utterance
from streamer.transcript.words import Speller, Word

T = TypeVar("T")
OFFLINE = "offline"
Samples = NDArray[np.float32]  # [n] at 16 kHz
SLOTS = 16  # recordings heard together; more gains little on a CPU and costs memory per slot


@dataclass(frozen=True, slots=True)
class Transcript:
    """What was heard in one recording, or the error it met."""

    index: int
    words: tuple[Word, ...]
    tokens: tuple[Token, ...]
    duration_s: float
    error: str | None = None

    @property
    def text(self) -> str:
        return " ".join(word.text for word in self.words)


@dataclass(frozen=True, slots=True)
class Said:
    """What a recording said since the last time: whole words that nothing changes any more, and all its tokens."""

    index: int
    words: tuple[Word, ...]
    tokens: tuple[Token, ...]
    quiet_s: float
    """No word comes that begins before."""
    duration_s: float
    """Of the audio so far; all of it where this is the last of the recording."""
    last: bool
    error: str | None = None


class Opened(Generic[T]):
    """Recordings opened one by one as they are asked for; one that cannot be read is said and passed over."""

    def __init__(self, reads: Iterable[Callable[[], T]]) -> None:
        self._reads = reads
        self.failed = 0
        self.positions: list[int] = []  # of each recording given out, its place in the order of `reads`

    def __iter__(self) -> Iterator[T]:
        for position, read in enumerate(self._reads):
            try:
                recording = read()
            except Unreadable as error:
                self.failed += 1
                say(f"streamer: {error}")
                continue
            self.positions.append(position)
            yield recording


class Listener:
    """Hears recordings with one model at one latency."""

    def __init__(self, config: ModelConfig, tokenizer: Tokenizer, latency_ms: int | None) -> None:
        self.config, self.latency_ms = config, latency_ms
        self.speller = Speller(tokenizer, (config.eou_id, config.eob_id))

    def follow(self, recordings: Iterable[Iterable[Samples]]) -> Iterator[Said]:
        """What recordings say while their blocks are read, of one recording in its order; `index` says which."""
        raise NotImplementedError

    def hear(self, recordings: Iterable[Samples]) -> Iterator[Transcript]:
        """The transcripts as they get ready; `index` says which recording."""
        heard: dict[int, Heard] = {}
        for said in self.follow([pcm] for pcm in recordings):
            so_far = heard.setdefault(said.index, Heard())
            so_far.add(said)
            if said.last:
                yield heard.pop(said.index).transcript(said)

    def close(self) -> None:
        """Give back the backend's memory and threads."""


@dataclass(slots=True)
class Heard:
    """All of a recording so far. It grows with what is said: some hundred bytes a word."""

    words: list[Word] = field(default_factory=list)
    tokens: list[Token] = field(default_factory=list)

    def add(self, said: Said) -> None:
        """What came next."""
        self.words += said.words
        self.tokens += said.tokens

    def transcript(self, last: Said) -> Transcript:
        """The whole; what was heard before an error is not one."""
        if last.error is not None:
            return Transcript(last.index, (), (), last.duration_s, last.error)
        return Transcript(last.index, tuple(self.words), tuple(self.tokens), last.duration_s)


class Chunks(Listener):
    """Chunk by chunk, as a live stream is heard."""

    def __init__(self, transcriber: Transcriber, latency_ms: int) -> None:
        super().__init__(transcriber.backend.config, transcriber.backend.tokenizer, latency_ms)
        self.transcriber = transcriber

    def follow(self, recordings: Iterable[Iterable[Samples]]) -> Iterator[Said]:
        speakers: dict[int, _Speaker] = {}
        for step in self.transcriber.run(recordings):
            speaker = speakers.get(step.index)
            if speaker is None:
                speaker = speakers[step.index] = _Speaker(self.speller, self.transcriber.chunk)
            if step.last:
                del speakers[step.index]
            yield speaker.hear(step)

    def close(self) -> None:
        self.transcriber.backend.close()


class _Speaker:
    """One recording's tokens to words. The last word is held back until the next one has begun."""

    def __init__(self, speller: Speller, chunk: int) -> None:
        self._utterance = Utterance(speller)
        self._chunk_s = chunk * FRAME_S
        self._heard_s = self._quiet_s = 0.0

    def hear(self, step: Step) -> Said:
        """One step more. The words before it are given out now, for only now it is known how far the audio reaches."""
        audio_s = step.samples / SAMPLE_RATE
        words: tuple[Word, ...] = ()
        if self._utterance.words > 1:
            words = self._utterance.cut_before_last(audio_s if step.ended else math.inf).words
        for token in step.tokens:
            self._utterance.add(token)
        if step.last:
            words += self._utterance.cut(audio_s).words
        self._heard_s += step.chunks * self._chunk_s
        if not self._utterance.words:
            self._quiet_s = self._heard_s
        error = None if step.error is None else str(step.error)
        return Said(step.index, words, step.tokens, self._quiet_s, audio_s, step.last, error)


class Whole(Listener):
    """The whole recording at once, for full-context models: its samples are all held in memory."""

    def __init__(self, model: Any, tokenizer: Tokenizer, prompt: int | None) -> None:
        super().__init__(model.config, tokenizer, None)
        self._model, self._prompt = model, prompt
        self._offline = import_module("models.transcribe").offline

    def follow(self, recordings: Iterable[Iterable[Samples]]) -> Iterator[Said]:
        for index, blocks in enumerate(recordings):
            pcm = np.concatenate([np.zeros(0, np.float32), *blocks])
            heard = self._offline(self._model, pcm, prompt=self._prompt).tokens
            tokens = tuple(Token(token.id, token.frame, token.logp) for token in heard)
            utterance, duration_s = Utterance(self.speller), len(pcm) / SAMPLE_RATE
            for token in tokens:
                utterance.add(token)
            yield Said(index, utterance.cut(duration_s).words, tokens, duration_s, duration_s, True)


def open_listener(args: argparse.Namespace, tail_ms: int, slots: int = SLOTS) -> Listener:
    """What the flags of `add_model_flags` ask for."""
    if args.latency == OFFLINE:
        return _open_whole(args)
    path = artefacts.resolve(args.model, args.backend or DEFAULT_BACKEND, args.precision)
    backend = load_backend(args.backend or DEFAULT_BACKEND, path, slots, args.threads or processors())
    config = backend.config
    latency_ms = latency_of(args.latency, config)
    transcriber = Transcriber(
        backend=backend,
        chunk=config.chunk_of(latency_ms),
        prompt=prompt_of(args.language, config),
        tail_ms=tail_ms,
    )
    return Chunks(transcriber, latency_ms)


def _open_whole(args: argparse.Namespace) -> Listener:
    path = artefacts.resolve(args.model, "pytorch")
    config = read_config(path)
    if config.streaming:
        raise CommandError(
            f"--latency offline: {config.name} is a streaming model; its latencies are {_listed(config)}", USAGE
        )
    model, tokenizer = import_module("models.store").load(path)
    return Whole(model, tokenizer, prompt_of(args.language, config))


def latency_of(asked: str | None, config: ModelConfig) -> int:
    """One of the model's latencies in ms: the one that --latency asks for, or the default."""
    if not config.latencies_ms:
        raise CommandError(f"model {config.name}: a full-context model; hear it with --latency offline", USAGE)
    if asked is None:
        return default_latency(config.latencies_ms)
    if not asked.isdigit() or int(asked) not in config.latencies_ms:
        raise CommandError(f"--latency {asked}: {config.name} has {_listed(config)}", USAGE)
    return int(asked)


def prompt_of(language: str | None, config: ModelConfig) -> int | None:
    """The index of the language that --language asks for, None for a model without."""
    try:
        return config.prompt_index(language)
    except ConfigError as error:
        raise CommandError(f"--language {language}: expected {error.expected}", USAGE) from None


def _listed(config: ModelConfig) -> str:
    return ", ".join(map(str, sorted(config.latencies_ms))) + " ms"
