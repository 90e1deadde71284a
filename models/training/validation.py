"""What a model hears of the dev set: whole utterances under a context's mask, or chunk by chunk as a stream would.

Knows nothing of training: weights come as they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from models.attention import Ring
from models.config import FRAME_MS
from models.decoding import DecoderState, decode_transducer
from models.state import EncoderState
from models.tokenizer import Tokenizer
from models.training.data import Batch, Corpus
from models.training.wer import ctc_texts, wer, wer_by_source
from models.transducer import Model

TOGETHER = 8  # utterances
Context = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Heard:
    """Greedy texts of one head, beside the true ones."""

    way: str  # "ctc", "rnnt", or "rnnt at 80 ms", streamed
    texts: tuple[str, ...]
    said: tuple[str, ...]
    sources: tuple[str, ...]

    @property
    def wer(self) -> float:
        return wer(self.texts, self.said)

    def lines(self) -> list[str]:
        """Rates, overall and by source, and an example."""
        parts = wer_by_source(self.texts, self.said, self.sources)
        listed = ", ".join(f"{source or 'all'} {rate:.3f}" for source, rate in parts.items())
        example = len(self.texts) // 2
        return [f"dev WER {self.way} {self.wer:.3f} ({listed})", f"  {self.texts[example]} -> {self.said[example]}"]


@torch.no_grad()
def validate(
    model: Model, dev: Corpus, chosen: list[int], tokenizer: Tokenizer, heads: tuple[str, ...], latency_ms: int | None
) -> list[Heard]:
    """Each of `heads` offline at the longest latency; the last of them also streamed, at `latency_ms` or the shortest.

    A model that cannot stream is heard offline only.
    """
    config = model.config
    longest = max(config.contexts, key=lambda context: context[1])
    shortest = min(config.contexts, key=lambda context: context[1])
    if latency_ms is not None:
        shortest = config.context_of(config.chunk_of(latency_ms))
    streamed_way = f"{heads[-1]} at {FRAME_MS * (shortest[1] + 1)} ms"
    ways = [*heads, *([streamed_way] if config.streaming else [])]
    said: dict[str, list[str]] = {way: [] for way in ways}
    texts: list[str] = []
    sources: list[str] = []
    device = model.joint.pred.weight.device if config.transducer else model.ctc.decoder_layers[0].weight.device
    for start in range(0, len(chosen), TOGETHER):
        batch = dev.batch(chosen[start : start + TOGETHER]).to(device)
        texts += batch.texts
        sources += batch.sources
        enc, frames = model.encoder.offline(batch.mel, batch.frames, longest)
        for head in heads:
            said[head] += greedy(model, enc, frames, batch, tokenizer, head)
        if config.streaming:
            enc, frames = streamed(model, batch.mel, batch.frames, shortest)
            said[streamed_way] += greedy(model, enc, frames, batch, tokenizer, heads[-1])
    return [Heard(way, tuple(texts), tuple(said[way]), tuple(sources)) for way in ways]


def greedy(model: Model, enc: Tensor, frames: Tensor, batch: Batch, tokenizer: Tokenizer, head: str) -> list[str]:
    """Texts of encoder frames [B, T, D] by one head."""
    enc = model.with_prompt(enc, batch.prompts)
    if head == "ctc":
        return ctc_texts(model.ctc(enc), frames, tokenizer)
    state = DecoderState.start(model, len(frames))
    tokens, _ = decode_transducer(model, enc, frames, torch.zeros_like(frames), state)
    return [tokenizer.decode([token.id for token in row]) for row in tokens]


@torch.no_grad()
def streamed(model: Model, mel: Tensor, lengths: Tensor, context: Context) -> tuple[Tensor, Tensor]:
    """Encoder frames (B, T, D) and their counts (B,), every chunk computed from the state that the last one left.

    mel (B, L, mels), lengths (B,) mel frames.
    """
    chunk, rows = context[1] + 1, len(mel)
    wide = 8 * chunk
    ends = lengths + 7  # the first chunk begins seven positions before the audio
    count = -(-int(ends.max()) // wide)
    mel = torch.nn.functional.pad(mel, (0, 0, 7, max(0, count * wide - 7 - mel.shape[1])))
    state = EncoderState.zeros(model.config, rows)
    tables = model.encoder.position_tables(max(model.config.chunks) - 1, model.config.ring - 1)
    parts, counts = [], torch.zeros_like(lengths)
    for place in range(count):
        valid = (ends - place * wide).clamp(max=wide)
        last = (valid > 0) & (ends <= (place + 1) * wide)
        kv = Ring(tables, state.keys, state.values, state.frames, context)
        part, state, out = model.encoder.step(mel[:, place * wide : (place + 1) * wide], state, valid, last, kv)
        parts.append(part)
        counts += torch.where(valid > 0, out, 0)
    return torch.cat(parts, 1), counts
