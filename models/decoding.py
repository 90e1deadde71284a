"""From encoder frames to tokens in torch: greedy label looping for RNN-T and TDT, collapse for CTC.

Decodes one chunk of many rows; what a stream carries to its next chunk is a value. Knows nothing of audio or text.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from models.config import ModelConfig
from models.transducer import Model


@dataclass(frozen=True, slots=True)
class Token:
    """One emitted piece: its id, the encoder frame counted from the stream's start, its log-probability.

    `logp` is over vocabulary and blank, in float32; `duration` the frames a TDT model skipped after it, else 0.
    """

    id: int
    frame: int
    logp: float
    duration: int = 0


@dataclass(frozen=True, slots=True)
class DecoderState:
    """What decoding carries from chunk to chunk, one row per stream.

    h, c:  (layers, B, hidden) of the predictor
    g:     (B, joint)   its last output, already projected for the joint
    label: (B,) int64   the last token; for CTC the last argmax, blank included
    jump:  (B,) int64   frames of the coming chunk that a TDT duration already skipped
    """

    h: Tensor
    c: Tensor
    g: Tensor
    label: Tensor
    jump: Tensor

    @classmethod
    def start(cls, model: Model, rows: int) -> DecoderState:
        """Streams that heard nothing: the predictor has seen the blank label on a zero state."""
        config = model.config
        label = torch.full((rows,), config.blank)
        jump = torch.zeros(rows, dtype=torch.int64)
        if not config.transducer:
            nothing = torch.zeros(0, rows, 0)
            return cls(nothing, nothing, torch.zeros(rows, 0), label, jump)
        g, h, c = model.predict(label, *model.start(rows))
        return cls(h, c, g, label, jump)

    def where(self, active: Tensor, old: DecoderState) -> DecoderState:
        """Rows that are `active` (B,) bool advance, the others stay at `old`."""
        here, deep = active[:, None], active[None, :, None]
        return DecoderState(
            torch.where(deep, self.h, old.h),
            torch.where(deep, self.c, old.c),
            torch.where(here, self.g, old.g),
            torch.where(active, self.label, old.label),
            torch.where(active, self.jump, old.jump),
        )


Decoded = tuple[list[list[Token]], DecoderState]


def decode(model: Model, frames: Tensor, counts: Tensor, first: Tensor, state: DecoderState) -> Decoded:
    """One chunk with the model's own head, the transducer where there are two.

    frames (B, T, d_model), prompt applied; counts (B,) frames that are real; first (B,) stream frame of frames[:, 0].
    """
    if model.config.transducer:
        return decode_transducer(model, frames, counts, first, state)
    return decode_ctc(model.ctc(frames), counts, first, state)


def decode_ctc(logprobs: Tensor, counts: Tensor, first: Tensor, state: DecoderState) -> Decoded:
    """logprobs (B, T, V + 1), blank last: argmax, collapse repeats, drop blanks."""
    logp, best = logprobs.max(-1)
    blank = logprobs.shape[-1] - 1
    before = torch.cat([state.label[:, None], best[:, :-1]], dim=1)
    real = torch.arange(best.shape[1]) < counts[:, None]
    heard = real & (best != before) & (best != blank)
    tokens: list[list[Token]] = [[] for _ in counts]
    for row, t in heard.nonzero().tolist():
        tokens[row].append(Token(int(best[row, t]), int(first[row]) + t, float(logp[row, t])))
    newest = best.gather(1, (counts - 1).clamp(min=0)[:, None])[:, 0] if best.shape[1] else state.label
    label = torch.where(counts > 0, newest, state.label)
    return tokens, DecoderState(state.h, state.c, state.g, label, state.jump)


def decode_transducer(model: Model, frames: Tensor, counts: Tensor, first: Tensor, state: DecoderState) -> Decoded:
    """Window form of label looping (Bataev et al. 2024).

    Each trip runs the joint on all frames the rows have left, takes each row's first token, and runs the predictor
    once for the rows that emitted; until no row emits. Rows that are done leave the trips.
    """
    projected = model.joint.enc(frames)
    search = _Search(model.config, projected.shape[1], counts, first, state.jump)
    h, c, g, label = state.h.clone(), state.c.clone(), state.g.clone(), state.label.clone()
    while len(rows := search.working()):
        left = search.left(rows)
        which, t = left.nonzero(as_tuple=True)
        logits = model.joint(projected[rows[which], t], g[rows[which]]).float()
        emitted, labels = search.advance(rows, left, logits)
        if len(emitted):
            g[emitted], h[:, emitted], c[:, emitted] = model.predict(labels, h[:, emitted], c[:, emitted])
            label[emitted] = labels
    return search.tokens, DecoderState(h, c, g, label, search.jump())


class _Search:
    """Where each row of one chunk stands, and the tokens it has said."""

    def __init__(self, config: ModelConfig, width: int, counts: Tensor, first: Tensor, jump: Tensor) -> None:
        self._config = config
        self._t = torch.arange(width)
        self._counts, self._first = counts, first
        self._position = jump.clone()
        self._said_at = torch.full_like(counts, -1)  # frame of the last token ...
        self._said = torch.zeros_like(counts)  # ... and how many tokens that frame has
        self.tokens: list[list[Token]] = [[] for _ in counts]

    def working(self) -> Tensor:
        return (self._position < self._counts).nonzero()[:, 0]

    def left(self, rows: Tensor) -> Tensor:
        """(rows, T) bool: the frames still to look at."""
        return (self._t >= self._position[rows, None]) & (self._t < self._counts[rows, None])

    def jump(self) -> Tensor:
        """Frames of the next chunk that the last duration skips."""
        return (self._position - self._counts).clamp(min=0)

    def advance(self, rows: Tensor, left: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Moves each row to its next token and notes it; -> rows that emitted, their labels.

        logits (frames in `left`, V + 1 + durations).
        """
        words, steps = self._readings(logits)
        table = torch.zeros(left.shape, dtype=torch.int64)
        table[left] = torch.arange(len(logits))  # (rows, T) -> line of `logits`
        position = self._follow(rows, table, words, steps)
        self._position[rows] = position
        found = position < self._counts[rows]
        rows, frame = rows[found], position[found]
        line = table[found].gather(1, frame[:, None])[:, 0]
        self._note(rows, frame, (words[line], steps[line], logits[line]))
        return rows, words[line]

    def _readings(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Label of each line, and the frames to move on after it: blank never stays, an RNN-T token always does."""
        blank = self._config.blank
        words = logits[:, : blank + 1].argmax(-1)
        is_blank = words == blank
        if not self._config.durations:
            return words, is_blank.long()
        steps = torch.tensor(self._config.durations)[logits[:, blank + 1 :].argmax(-1)]
        return words, torch.where(is_blank, steps.clamp(min=1), steps)

    def _follow(self, rows: Tensor, table: Tensor, words: Tensor, steps: Tensor) -> Tensor:
        """Each row's position after the blanks before its next token, or past its end."""
        position, counts = self._position[rows], self._counts[rows]
        while True:
            line = table.gather(1, torch.minimum(position, counts - 1)[:, None])[:, 0]
            silent = (position < counts) & (words[line] == self._config.blank)
            if not bool(silent.any()):
                return position
            position = position + torch.where(silent, steps[line], 0)

    def _note(self, rows: Tensor, frame: Tensor, said: tuple[Tensor, Tensor, Tensor]) -> None:
        """Adds the tokens, and steps off a frame that has had its number of symbols."""
        words, steps, logits = said
        self._said[rows] = torch.where(self._said_at[rows] == frame, self._said[rows] + 1, 1)
        self._said_at[rows] = frame
        full = (self._said[rows] >= self._config.max_symbols) & (steps == 0)
        self._position[rows] = frame + steps + full
        logp = logits[:, : self._config.blank + 1].log_softmax(-1).gather(1, words[:, None])[:, 0]
        at = self._first[rows] + frame
        for row, word, where, p, step in zip(*(x.tolist() for x in (rows, words, at, logp, steps)), strict=True):
            self.tokens[row].append(Token(word, where, p, step))
