"""A model opened for whole recordings, and what it heard as words. Shared by `transcribe`, `eval` and `bench`.

Knows nothing of the daemon. Two ways to hear: chunk by chunk through a backend, or the whole file at once with torch.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.config import SAMPLE_RATE, ConfigError, ModelConfig
from models.tokenizer import Tokenizer
from streamer import artefacts
from streamer.backends import load_backend
from streamer.commands import USAGE, CommandError, default_latency, processors, say
from streamer.commands.models import read as read_config
from streamer.decoding import Token
from streamer.recordings import Unreadable
from streamer.transcriber import Clip, Transcriber
from streamer.transcript.utterance import Utterance
from streamer.transcript.words import Speller, Word

OFFLINE = "offline"
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


class Opened:
    """Recordings read one by one as they are asked for; one that cannot be read is said and passed over."""

    def __init__(self, reads: Iterable[Callable[[], NDArray[np.float32]]]) -> None:
        self._reads = reads
        self.failed = 0
        self.positions: list[int] = []  # of each recording given out, its place in the order of `reads`

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        for position, read in enumerate(self._reads):
            try:
                pcm = read()
            except Unreadable as error:
                self.failed += 1
                say(f"streamer: {error}")
                continue
            self.positions.append(position)
            yield pcm


class Listener:
    """Hears recordings with one model at one latency."""

    def __init__(self, config: ModelConfig, tokenizer: Tokenizer, latency_ms: int | None) -> None:
        self.config, self.latency_ms = config, latency_ms
        self._speller = Speller(tokenizer, (config.eou_id, config.eob_id))

    def hear(self, recordings: Iterable[NDArray[np.float32]]) -> Iterator[Transcript]:
        """The transcripts as they get ready; `index` says which recording."""
        raise NotImplementedError

    def close(self) -> None:
        """Give back the backend's memory and threads."""

    def _transcript(self, index: int, tokens: Iterable[Any], samples: int) -> Transcript:
        kept = tuple(Token(token.id, token.frame, token.logp) for token in tokens)
        utterance = Utterance(self._speller)
        for token in kept:
            utterance.add(token)
        words = utterance.cut(samples / SAMPLE_RATE).words
        return Transcript(index, words, kept, samples / SAMPLE_RATE)


class Chunks(Listener):
    """Chunk by chunk, as a live stream is heard."""

    def __init__(self, transcriber: Transcriber, latency_ms: int) -> None:
        super().__init__(transcriber.backend.config, transcriber.backend.tokenizer, latency_ms)
        self._transcriber = transcriber

    def hear(self, recordings: Iterable[NDArray[np.float32]]) -> Iterator[Transcript]:
        lengths: list[int] = []
        for clip in self._transcriber.run(_measured(recordings, lengths)):
            yield self._result(clip, lengths[clip.index])

    def close(self) -> None:
        self._transcriber.backend.close()

    def _result(self, clip: Clip, samples: int) -> Transcript:
        if clip.error is not None:
            return Transcript(clip.index, (), (), samples / SAMPLE_RATE, str(clip.error))
        return self._transcript(clip.index, clip.tokens, samples)


class Whole(Listener):
    """The whole recording at once, for full-context models."""

    def __init__(self, model: Any, tokenizer: Tokenizer, prompt: int | None) -> None:
        super().__init__(model.config, tokenizer, None)
        self._model, self._prompt = model, prompt
        self._offline = import_module("models.transcribe").offline

    def hear(self, recordings: Iterable[NDArray[np.float32]]) -> Iterator[Transcript]:
        for index, pcm in enumerate(recordings):
            yield self._transcript(index, self._offline(self._model, pcm, prompt=self._prompt).tokens, len(pcm))


def open_listener(args: argparse.Namespace, tail_ms: int, slots: int = SLOTS) -> Listener:
    """What the flags of `add_model_flags` ask for."""
    if args.latency == OFFLINE:
        return _open_whole(args)
    path = artefacts.resolve(args.model, args.backend, args.precision)
    backend = load_backend(args.backend, path, slots, args.threads or processors())
    config = backend.config
    latency_ms = _latency(args.latency, config)
    transcriber = Transcriber(
        backend=backend,
        chunk=config.chunk_of(latency_ms),
        prompt=_prompt(args.language, config),
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
    return Whole(model, tokenizer, _prompt(args.language, config))


def _latency(asked: str | None, config: ModelConfig) -> int:
    if not config.latencies_ms:
        raise CommandError(f"model {config.name}: a full-context model; hear it with --latency offline", USAGE)
    if asked is None:
        return default_latency(config.latencies_ms)
    if not asked.isdigit() or int(asked) not in config.latencies_ms:
        raise CommandError(f"--latency {asked}: {config.name} has {_listed(config)}", USAGE)
    return int(asked)


def _prompt(language: str | None, config: ModelConfig) -> int | None:
    try:
        return config.prompt_index(language)
    except ConfigError as error:
        raise CommandError(f"--language {language}: expected {error.expected}", USAGE) from None


def _listed(config: ModelConfig) -> str:
    return ", ".join(map(str, sorted(config.latencies_ms))) + " ms"


def _measured(recordings: Iterable[NDArray[np.float32]], lengths: list[int]) -> Iterator[NDArray[np.float32]]:
    for pcm in recordings:
        lengths.append(len(pcm))
        yield pcm
