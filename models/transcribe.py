"""The reference: PCM to encoder frames and tokens, whole or chunk by chunk, for many rows. Knows nothing of sockets.

`offline` hears everything at once under a context's mask; `Stream` hears chunks and carries its state as a value.
DESIGN: both give the same frames and tokens.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.attention import Ring
from models.config import ConfigError, ModelConfig
from models.decoding import DecoderState, Token, decode
from models.features_np import TAIL, StreamingFeatures, per_feature, samples_needed
from models.state import EncoderState
from models.tokenizer import Tokenizer
from models.transducer import Model

Pcm = NDArray[np.float32]  # 16 kHz, -1 ... 1
Context = tuple[int, int]
OFFLINE_CHUNK = 32  # frames decoded at a time where the context names no chunk; any number gives the same tokens
LANGUAGE_TAG = re.compile(r"\s*<[a-z]{2}-[A-Z]{2}>")


@dataclass(frozen=True, slots=True)
class Heard:
    """What some audio gave: encoder frames (T, d_model) before the prompt, and tokens."""

    frames: Tensor
    tokens: list[Token]


def features_of(model: Model) -> StreamingFeatures:
    """The front end with the checkpoint's own filterbank and window."""
    stored = {name.rsplit(".", 1)[-1]: buffer.numpy() for name, buffer in model.preprocessor.named_buffers()}
    return StreamingFeatures(model.config.mels, stored["fb"], stored["window"])


def text_of(config: ModelConfig, tokenizer: Tokenizer, tokens: Sequence[Token]) -> str:
    text = tokenizer.decode([token.id for token in tokens])
    return LANGUAGE_TAG.sub("", text).strip() if config.strip_lang_tags else text


@torch.inference_mode()
def offline(model: Model, pcm: Pcm, context: Context | None = None, prompt: int | None = None) -> Heard:
    """A whole utterance at once; `context` is one of the model's (default: its first), `prompt` its language."""
    config = model.config
    context = context or config.contexts[0]
    mel = features_of(model).log_mel(pcm)
    mel = per_feature(mel) if config.normalize == "per_feature" else mel
    if not len(mel):
        return Heard(torch.zeros(0, config.d_model), [])
    frames, counts = model.encoder.offline(torch.from_numpy(mel)[None], torch.tensor([len(mel)]), context)
    frames = frames[:, : int(counts[0])]
    width = context[1] + 1 if context[1] >= 0 else OFFLINE_CHUNK
    return Heard(frames[0], _decode_pieces(model, model.with_prompt(frames, _prompts(config, [prompt])), width))


def _decode_pieces(model: Model, frames: Tensor, width: int) -> list[Token]:
    """One row, `width` frames at a time: a window over a whole file would be quadratic."""
    state, tokens = DecoderState.start(model, 1), []
    for first in range(0, frames.shape[1], width):
        piece = frames[:, first : first + width]
        count = torch.tensor([piece.shape[1]])
        (new,), state = decode(model, piece, count, torch.tensor([first]), state)
        tokens += new
    return tokens


@dataclass(frozen=True, slots=True)
class StreamState:
    """Rows of streams between two chunks: PCM tails (B, 241), samples heard (B,), encoder and decoder state."""

    tails: NDArray[np.float32]
    heard: NDArray[np.int64]
    encoder: EncoderState
    decoder: DecoderState


class Stream:
    """Steps many streams of one context at once; holds constants only, the state is the caller's."""

    def __init__(self, model: Model, context: Context | None = None) -> None:
        config = model.config
        if not config.streaming:
            raise ConfigError("model", config.name, "a streaming model: causal, chunked_limited, finite left context")
        self.model = model
        self.context = context or config.contexts[0]
        self.chunk = self.context[1] + 1
        self._features = features_of(model)
        with torch.inference_mode():
            self._tables = model.encoder.position_tables(max(config.chunks) - 1, config.ring - 1)

    def start(self, rows: int) -> StreamState:
        with torch.inference_mode():
            encoder, decoder = EncoderState.zeros(self.model.config, rows), DecoderState.start(self.model, rows)
        return StreamState(np.zeros((rows, TAIL), np.float32), np.zeros(rows, np.int64), encoder, decoder)

    def samples(self, chunks_done: int) -> int:
        """Samples that the next chunk of a stream takes."""
        return samples_needed(chunks_done, self.chunk)

    @torch.inference_mode()
    def step(
        self, state: StreamState, pcm: Sequence[Pcm | None], last: Sequence[bool], prompts: Sequence[int | None] = ()
    ) -> tuple[StreamState, list[Heard]]:
        """One chunk of each row; None leaves a row as it is. A `last` row takes what remains, less than a chunk."""
        active = torch.tensor([samples is not None for samples in pcm])
        mel, valid, tails, heard = self._mel(state, pcm, last)
        old = state.encoder
        kv = Ring(self._tables, old.keys, old.values, old.frames, self.context)
        ending = torch.tensor(list(last)) & active
        frames, encoder, counts = self.model.encoder.step(mel, old, valid, ending, kv)
        counts = torch.where(active, counts, 0)
        prompted = self.model.with_prompt(frames, _prompts(self.model.config, prompts or [None] * len(pcm)))
        tokens, decoder = decode(self.model, prompted, counts, old.frames, state.decoder)
        new = StreamState(tails, heard, encoder.where(active, old), decoder.where(active, state.decoder))
        return new, [Heard(row[:count], said) for row, count, said in zip(frames, counts.tolist(), tokens, strict=True)]

    def _mel(
        self, state: StreamState, pcm: Sequence[Pcm | None], last: Sequence[bool]
    ) -> tuple[Tensor, Tensor, NDArray[np.float32], NDArray[np.int64]]:
        """Features of the rows that have audio, zeros for the others; -> mel, valid, tails, samples heard."""
        rows = [row for row, samples in enumerate(pcm) if samples is not None]
        chunks = [samples for samples in pcm if samples is not None]
        mel = np.zeros((len(pcm), 8 * self.chunk, self.model.config.mels), np.float32)
        valid = np.zeros(len(pcm), np.int64)
        tails, heard = state.tails.copy(), state.heard.copy()
        if rows:
            mel[rows], valid[rows], tails[rows] = self._features.chunk_mel_rows(
                state.tails[rows], chunks, [int(n) for n in heard[rows]], [bool(last[row]) for row in rows], self.chunk
            )
            heard[rows] += [len(samples) for samples in chunks]
        return torch.from_numpy(mel), torch.from_numpy(valid), tails, heard


def stream(model: Model, pcm: Pcm, context: Context | None = None, prompt: int | None = None) -> Heard:
    """One utterance cut into chunks and heard one after the other."""
    streams = Stream(model, context)
    state, frames, tokens = streams.start(1), [], []
    for index, piece in enumerate(pieces(pcm, streams.chunk)):
        ends = len(piece) < streams.samples(index)
        state, (heard,) = streams.step(state, [piece], [ends], [prompt])
        frames.append(heard.frames)
        tokens += heard.tokens
    return Heard(torch.cat(frames), tokens)


def pieces(pcm: Pcm, chunk: int) -> list[Pcm]:
    """PCM cut as chunks take it; the last piece is shorter than a chunk, maybe empty."""
    first, later = samples_needed(0, chunk), samples_needed(1, chunk)
    cuts = [0, *range(first, len(pcm) + 1, later)]
    return [pcm[start:end] for start, end in zip(cuts, [*cuts[1:], len(pcm)], strict=True)]


def _prompts(config: ModelConfig, prompts: Sequence[int | None]) -> Tensor:
    """Indices of the languages, the model's own default where a row names none."""
    default = config.prompt_index(None) or 0
    return torch.tensor([default if prompt is None else prompt for prompt in prompts])
