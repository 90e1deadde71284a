"""Tokens and how frames become tokens: greedy label looping for RNN-T and TDT, collapse for CTC, in NumPy.

Knows nothing of audio, slots' owners, words or how the networks are computed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

# labels (n,), h (n, layers, hidden), c (n, layers, hidden) -> g (n, joint), h, c
Predictor = Callable[[Ints, Floats, Floats], tuple[Floats, Floats, Floats]]
# encoder side (n, joint), predictor side (n, joint) -> logits (n, vocabulary + blank + durations)
Joint = Callable[[Floats, Floats], Floats]


@dataclass(frozen=True, slots=True)
class Token:
    """One emitted piece: its id, the encoder frame counted from the stream's start, its log-probability."""

    id: int
    frame: int
    logp: float


@dataclass(frozen=True, slots=True)
class Rules:
    """What a checkpoint fixes about greedy decoding."""

    blank: int
    max_symbols: int
    durations: tuple[int, ...] = ()

    @classmethod
    def of(cls, config: Any) -> Rules:
        """The rules of a model's configuration."""
        return cls(config.blank, config.max_symbols, tuple(config.durations))


@dataclass(frozen=True, slots=True)
class Networks:
    """The two small networks of a transducer, as functions of rows."""

    predictor: Predictor
    joint: Joint


@dataclass(slots=True)
class Memory:
    """What decoding carries from chunk to chunk, one row per slot, as plain arrays."""

    h: Floats  # (slots, layers, hidden)
    c: Floats  # (slots, layers, hidden)
    g: Floats  # (slots, joint): the predictor's last output, already projected
    label: Ints  # (slots,): the last token; for CTC the last argmax, blank included
    jump: Ints  # (slots,): frames of the coming chunk that a TDT duration already skipped

    NAMES = ("h", "c", "g", "label", "jump")

    @classmethod
    def zeros(cls, slots: int, layers: int, hidden: int, joint: int, blank: int) -> Memory:
        """Memory of streams that heard nothing; `start` fills in what the predictor says to that."""
        h, c = (np.zeros((slots, layers, hidden), np.float32) for _ in "hc")
        g = np.zeros((slots, joint), np.float32)
        return cls(h, c, g, np.full(slots, blank, np.int64), np.zeros(slots, np.int64))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The fields by name, not copied."""
        return {name: getattr(self, name) for name in self.NAMES}

    def start(self, slot: int, initial: Memory) -> None:
        """Make `slot` a fresh stream: `initial` is a memory of one row."""
        for name in self.NAMES:
            getattr(self, name)[slot] = getattr(initial, name)[0]


def initial_memory(networks: Networks | None, layers: int, hidden: int, joint: int, blank: int) -> Memory:
    """One row: the state after the start symbol, which is the blank label on a zero state."""
    memory = Memory.zeros(1, layers, hidden, joint, blank)
    if networks is not None:
        memory.g, memory.h, memory.c = networks.predictor(memory.label, memory.h, memory.c)
    return memory


@dataclass(slots=True)
class Window:
    """The encoder frames that one call decodes, and where each row stands in them."""

    frames: Floats  # (rows, T, joint)
    lengths: Ints  # (rows,): frames of the row that count
    offsets: Ints  # (rows,): stream frame of each row's first frame
    position: Ints  # (rows,): next frame to look at
    tokens: list[list[Token]]
    last_emit: Ints = field(init=False)
    repeats: Ints = field(init=False)

    def __post_init__(self) -> None:
        self.last_emit = np.full(len(self.lengths), -1, np.int64)
        self.repeats = np.zeros(len(self.lengths), np.int64)

    def working(self) -> Ints:
        """Rows that still have frames to look at."""
        return np.flatnonzero(self.position < self.lengths)

    def emit(self, rows: Ints, frames: Ints, labels: Ints, logps: Floats) -> None:
        """Note one token for each of `rows` and how many its frame has now."""
        same = self.last_emit[rows] == frames
        self.repeats[rows] = np.where(same, self.repeats[rows] + 1, 1)
        self.last_emit[rows] = frames
        stream_frames = self.offsets[rows] + frames
        for row, label, frame, logp in zip(rows, labels, stream_frames, logps, strict=True):
            self.tokens[row].append(Token(int(label), int(frame), float(logp)))


@dataclass(frozen=True, slots=True)
class Greedy:
    """The most probable label at every step; batched as window label looping (Bataev et al. 2024)."""

    def transducer(
        self, rules: Rules, networks: Networks, memory: Memory, slots: Ints, frames: Floats, counts: tuple[Ints, Ints]
    ) -> list[list[Token]]:
        """Decode one chunk; `counts` = (frames that count per row, stream frame of each row's first frame).

        Each trip looks at all frames a row has left, takes the first that is not blank, and runs the predictor
        once for the rows that emitted. Rows that are done leave the trips.
        """
        lengths, offsets = counts
        window = Window(frames, lengths, offsets, memory.jump[slots], [[] for _ in slots])
        while (rows := window.working()).size:
            advance = _trip_durations if rules.durations else _trip
            emitted, labels = advance(rules, networks, memory.g[slots[rows]], window, rows)
            if emitted.size:
                at = slots[emitted]
                memory.g[at], memory.h[at], memory.c[at] = networks.predictor(labels, memory.h[at], memory.c[at])
                memory.label[at] = labels
        memory.jump[slots] = np.maximum(window.position - lengths, 0)
        return window.tokens

    def ctc(
        self, rules: Rules, memory: Memory, slots: Ints, logprobs: Floats, counts: tuple[Ints, Ints]
    ) -> list[list[Token]]:
        """Decode one chunk of CTC log-probabilities (rows, T, vocabulary + blank): argmax, collapse, drop blank."""
        lengths, offsets = counts
        best = logprobs.argmax(-1)
        result: list[list[Token]] = []
        for row, slot in enumerate(slots):
            labels = best[row, : lengths[row]]
            before = np.concatenate([memory.label[slot : slot + 1], labels[:-1]]) if labels.size else labels
            heard = np.flatnonzero((labels != before) & (labels != rules.blank))
            first = int(offsets[row])
            result.append([Token(int(labels[t]), first + int(t), float(logprobs[row, t, labels[t]])) for t in heard])
            if labels.size:
                memory.label[slot] = labels[-1]
        return result


def _look(networks: Networks, g: Floats, window: Window, rows: Ints) -> tuple[Floats, NDArray[np.bool_]]:
    """Logits of every frame the rows have left, flat, and the (rows, T) mask that says whose they are."""
    t = np.arange(window.frames.shape[1])
    left = (t >= window.position[rows, None]) & (t < window.lengths[rows, None])
    which, frame = np.nonzero(left)
    return networks.joint(window.frames[rows[which], frame], g[which]), left


def _spread(flat: Ints, left: NDArray[np.bool_], empty: int) -> Ints:
    """Values of the frames in `left` as a (rows, T) table, `empty` elsewhere."""
    table = np.full(left.shape, empty, np.int64)
    table[left] = flat
    return table


def _logp(logits: Floats, labels: Ints) -> Floats:
    """Log-probability of one label per row over vocabulary and blank, in float32."""
    top = logits.max(-1, keepdims=True)
    total = np.log(np.exp(logits - top).sum(-1))
    chosen: Floats = np.take_along_axis(logits - top, labels[:, None], -1)[:, 0] - total
    return chosen


def _trip(rules: Rules, networks: Networks, g: Floats, window: Window, rows: Ints) -> tuple[Ints, Ints]:
    """RNN-T: move each row to its first frame that is not blank and emit there; -> rows that emitted, labels."""
    logits, left = _look(networks, g, window, rows)
    labels = _spread(logits.argmax(-1), left, rules.blank)
    spoken = labels != rules.blank
    emits = spoken.any(-1)
    window.position[rows[~emits]] = window.lengths[rows[~emits]]
    frame = spoken.argmax(-1)[emits]
    return _emit(rules, window, rows, (emits, frame, labels, left, logits), np.zeros_like(frame))


def _trip_durations(rules: Rules, networks: Networks, g: Floats, window: Window, rows: Ints) -> tuple[Ints, Ints]:
    """TDT: follow each row's chain of blank durations to its next token; -> rows that emitted, labels."""
    logits, left = _look(networks, g, window, rows)
    words = rules.blank + 1
    labels = _spread(logits[:, :words].argmax(-1), left, rules.blank)
    steps = _spread(np.asarray(rules.durations, np.int64)[logits[:, words:].argmax(-1)], left, 1)
    here = np.arange(len(rows))
    position, lengths = window.position[rows], window.lengths[rows]
    while True:
        inside = np.minimum(position, lengths - 1)
        blank = (position < lengths) & (labels[here, inside] == rules.blank)
        if not blank.any():
            break
        position = position + np.where(blank, np.maximum(steps[here, inside], 1), 0)
    window.position[rows] = position
    emits = position < lengths
    frame = position[emits]
    return _emit(rules, window, rows, (emits, frame, labels, left, logits[:, :words]), steps[here[emits], frame])


def _emit(rules: Rules, window: Window, rows: Ints, found: tuple[Any, ...], steps: Ints) -> tuple[Ints, Ints]:
    """Note the tokens found, and step off a frame that has had its number of symbols."""
    emits, frame, labels, left, logits = found
    who = rows[emits]
    label = labels[np.flatnonzero(emits), frame]
    flat = _spread(np.arange(len(logits)), left, 0)[np.flatnonzero(emits), frame]
    window.emit(who, frame, label, _logp(logits[flat], label))
    full = (window.repeats[who] >= rules.max_symbols) & (steps == 0)
    window.position[who] = frame + steps + full
    return who, label
