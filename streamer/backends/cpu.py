"""The verbs for backends that compute on the CPU while `launch` runs: checks, features, decoding, take and put.

Knows nothing of how the encoder is computed: that is `_encode`, which a subclass owns.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from models.config import ModelConfig
from models.features_np import StreamingFeatures
from models.tokenizer import Tokenizer
from streamer.backends.arena import Arena, state_shapes
from streamer.backends.base import (
    BackendError,
    Heard,
    Row,
    State,
    Ticket,
    check_chunks,
    check_row,
    check_turn,
    samples_needed,
)
from streamer.decoding import Floats, Greedy, Ints, Networks, Rules, initial_memory


class CpuBackend(ABC):
    """A Backend whose state lies in an Arena."""

    name: str
    contiguous: bool
    depth = 1  # `launch` does the work

    def __init__(
        self,
        config: ModelConfig,
        tokenizer: Tokenizer,
        features: StreamingFeatures,
        networks: Networks | None,
        slots: int,
        shapes: Mapping[str, tuple[int, ...]] | None = None,
    ) -> None:
        """shapes: of the encoder's state, where it is not as models/state.py has it."""
        if not config.streaming:
            raise BackendError("model", config.name, "a streaming model; this one hears whole files only")
        if slots < 1:
            raise BackendError("slots", slots, "1 or more")
        self.config, self.tokenizer, self.slots = config, tokenizer, slots
        self.precision, self.model_hash = "fp32", ""
        self._features, self._networks = features, networks
        self._rules, self._strategy = Rules.of(config), Greedy()
        sizes = (config.predictor_layers, config.predictor_hidden, config.joint_hidden)
        initial = initial_memory(networks, *sizes, config.blank)
        self._arena = partial(Arena, config, initial=initial, shapes=shapes or state_shapes(config))
        self.arena = self._arena(slots=slots)

    @abstractmethod
    def _encode(self, chunk: int, slots: Ints, mel: Floats, valid: Ints, last: Ints) -> tuple[Floats, Ints]:
        """mel (rows, 8T, mels), T frames of one or more chunks -> scores (rows, T, joint or vocabulary + 1) and frames
        that count (rows,).

        Advances the rows' encoder state, but not their counters.
        """

    @property
    def about(self) -> dict[str, str]:
        """How it runs."""
        return {"device": "cpu", "precision": self.precision, "kernels": "library", "rung": "eager"}

    def lanes(self, count: int) -> Sequence[CpuBackend]:
        """Itself alone."""
        del count
        return [self]

    def open(self, slot: int, prompt: int | None = None) -> None:
        """Make `slot` a stream that heard nothing."""
        self._check_slot(slot)
        if prompt is None:
            prompt = self.config.prompt_index(None) or 0
        elif not 0 <= prompt < self.config.num_prompts:
            raise BackendError("prompt", prompt, f"below {self.config.num_prompts}, the prompts of the model")
        self.arena.open(slot, prompt)

    def most_chunks(self, chunk: int) -> int:
        """As many as a ring has room for beside what the first of them looks back at."""
        return max(1, (self.config.ring - self.config.context_of(chunk)[0]) // chunk)

    def launch(self, chunk: int, rows: Sequence[Row], chunks: int = 1) -> Ticket:
        """Step the rows' streams by so many chunks; the results are in the ticket when this returns."""
        if chunk not in self.config.chunks:
            raise BackendError("chunk", chunk, "one of " + ", ".join(map(str, self.config.chunks)))
        if len({row.slot for row in rows}) != len(rows):
            raise BackendError("rows", "a slot twice", "each slot once")
        check_chunks(chunks, self.most_chunks(chunk))
        results: list[Heard] = [self._refusal(chunk, row, chunks) or [] for row in rows]
        good = sorted(
            (i for i, heard in enumerate(results) if not isinstance(heard, Exception)), key=lambda i: rows[i].slot
        )
        if good:
            for i, heard in zip(good, self._step(chunk, [rows[i] for i in good], chunks), strict=True):
                results[i] = heard
        return Ticket(len(rows), results)

    def collect(self, ticket: Ticket) -> list[Heard]:
        """The tokens of each row, or what went wrong with it."""
        return ticket.results

    def take(self, slot: int) -> State:
        """A copy of the stream in `slot`."""
        self._check_slot(slot, opened=True)
        return State(self.model_hash, self.name, self.precision, self.arena.take(slot))

    def put(self, slot: int, state: State) -> None:
        """Go on with `state` in `slot`."""
        self._check_slot(slot)
        state.check(self.model_hash, self.name, self.precision)
        self.arena.put(slot, state)

    def fork(self, source: int, target: int) -> None:
        """`target` goes on with a copy of the stream in `source`."""
        self._check_slot(source, opened=True)
        self._check_slot(target)
        self.arena.fork(source, target)

    def vacate(self, slot: int) -> None:
        """The slot's memory goes back to the system."""
        self._check_slot(slot)
        self.arena.vacate(slot)

    def forget(self) -> None:
        """All slots are as at the beginning: they take memory again only when they are used."""
        self.arena = self._arena(slots=self.slots)

    def close(self) -> None:
        """No stream is open from here on; memory goes with the object."""
        self.arena.opened[:] = False

    def _check_slot(self, slot: int, opened: bool = False) -> None:
        if not 0 <= slot < self.slots:
            raise BackendError("slot", slot, f"0 to {self.slots - 1}")
        if opened and not self.arena.opened[slot]:
            raise BackendError(f"slot {slot}", "no stream", "an open one")

    def _refusal(self, chunk: int, row: Row, chunks: int) -> Exception | None:
        """Why this row cannot be stepped, if so. The others do not hear of it."""
        arena, slot = self.arena, row.slot
        try:
            self._check_slot(slot, opened=True)
            check_turn(slot, chunk, int(arena.chunk[slot]), bool(arena.done[slot]))
            check_row(row, samples_needed(int(arena.frames[slot]) // chunk, chunk, chunks))
        except BackendError as error:
            return error
        return None

    def _step(self, chunk: int, rows: list[Row], chunks: int) -> list[Heard]:
        """Rows in order of slots, all checked."""
        arena = self.arena
        slots = np.array([row.slot for row in rows], np.int64)
        last = np.array([row.last for row in rows])
        before, firsts = arena.frames[slots], arena.samples[slots].tolist()
        pcm = [row.pcm for row in rows]
        with np.errstate(over="ignore", invalid="ignore"):  # absurdly loud rows are found in `_decode`
            mel, valid, tails = self._features.chunk_mel_rows(
                arena.tail[slots], pcm, firsts, last.tolist(), chunk * chunks
            )
        scores, counts = self._encode(chunk, slots, mel, valid, last)
        arena.tail[slots] = tails
        arena.samples[slots] += [len(samples) for samples in pcm]
        arena.frames[slots] = before + counts
        arena.chunk[slots], arena.done[slots] = chunk, last
        return self._decode(slots, scores, counts, before)

    def _decode(self, slots: Ints, scores: Floats, counts: Ints, before: Ints) -> list[Heard]:
        past = np.arange(scores.shape[1]) >= counts[:, None]
        bad = np.logical_not((np.isfinite(scores).all(-1) | past).all(axis=-1, keepdims=True))[:, 0]
        if bad.any():  # the row's own numbers: too loud to be sound, or a broken state
            scores[bad], counts = 0.0, np.where(bad, 0, counts)
            self.arena.opened[slots[bad]] = False
        memory = self.arena.memory
        if self._networks is None:
            heard = self._strategy.ctc(self._rules, memory, slots, scores, (counts, before))
        else:
            heard = self._strategy.transducer(self._rules, self._networks, memory, slots, scores, (counts, before))
        problem = BackendError("encoder", "NaN or infinite frames", "finite numbers; the stream is lost")
        return [problem if broken else tokens for broken, tokens in zip(bad, heard, strict=True)]
