"""The verbs over arenas on a device: one launch a tick, any list of slots, two launches under way.

What a tick computes is models/tick.py, how it is launched streamer/backends/launches.py. On a CPU everything runs at
once and eagerly, which is how this is tested without a GPU. Knows nothing of networks' insides.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray

from models.kernels import why_not
from models.tick import HEADER, Arena, DeviceModel, StepEncoder, Tick, most_tokens, words_per_row
from models.tokenizer import Tokenizer
from streamer.backends.arena import COUNTERS, check_state
from streamer.backends.base import BackendError, Heard, Row, State, Ticket, check_chunks
from streamer.backends.graphs import Captured
from streamer.backends.launches import Device, Staging
from streamer.backends.ledger import Columns, Ledger
from streamer.decoding import Token

log = logging.getLogger(__name__)

MOST_FRAMES = 8192  # rows x chunk of one tick: more gain nothing, and their activations take memory from streams
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# How a state carries each type: the same numbers, in types that NumPy and every backend have.
_STORED = {torch.float32: np.float32, torch.bfloat16: np.float32, torch.float16: np.float32, torch.int32: np.int64}


MakeEncoder = Callable[[DeviceModel, Arena, bool], StepEncoder]  # the last: with our own kernels


@dataclass(frozen=True, slots=True)
class Options:
    """How a device is used. buckets: rows of the ticks that are made ready; () for powers of two up to the slots."""

    slots: int
    buckets: tuple[int, ...] = ()
    rung: str = "whole"  # the highest to try, of streamer.backends.graphs.RUNGS
    kernels: bool = True  # our own where they can run, else torch's operators
    chunks: tuple[int, ...] = ()  # those that the encoder knows; () for all of the model's


@dataclass(frozen=True, slots=True)
class Part:
    """The rows of a launch that went in one tick."""

    staging: Staging
    which: list[int]  # of the launch's rows
    slots: list[int]
    shape: tuple[int, ...]  # of the tick's output: rows, words
    most: int  # tokens that a row can say


@dataclass(slots=True)
class DeviceTicket(Ticket):
    """A launch whose answers may still be on the device."""

    parts: list[Part] = field(default_factory=list)


class DeviceBackend:
    """A Backend over any list of slots: counters and checks on the host (Ledger), all else on the device."""

    contiguous = False

    def __init__(
        self,
        name: str,
        model: DeviceModel,
        tokenizer: Tokenizer,
        make_encoder: MakeEncoder,
        options: Options,
    ) -> None:
        if not model.config.streaming:
            raise BackendError("model", model.config.name, "a streaming model; this one hears whole files only")
        if options.slots < 1:
            raise BackendError("slots", options.slots, "1 or more")
        self.name, self.tokenizer, self.slots = name, tokenizer, options.slots
        known = [
            context for context in model.config.contexts if context[1] + 1 in (options.chunks or model.config.chunks)
        ]
        self.config = replace(model.config, contexts=tuple(known))
        self.precision = next(name for name, dtype in PRECISIONS.items() if dtype == model.dtype)
        self.model_hash = ""
        self.depth = 2 if model.device.type == "cuda" else 1
        self.arena = Arena(model, self.slots)
        self._model, self._options = model, options
        self._ledger = Ledger(self.config, self.slots)
        self._fresh: set[int] = set()  # slots whose stream starts: cleared before its first tick
        self._poisoned: set[int] = set()  # slots in which numbers that are none may lie
        self._device = Device(model.device)
        self._staging: list[Staging] = []
        self.kernels = why_not(model.device) if options.kernels else "told not to"  # None: they run
        self._ticks = self._made(make_encoder)
        log.info("%s: %s", name, ", ".join(f"{key} {value}" for key, value in self.about.items()))

    def _made(self, make_encoder: MakeEncoder) -> dict[tuple[int, int], tuple[Tick, Captured | None]]:
        """The ticks with our own kernels, or with the library's where those that can run in general fail here."""
        try:
            self._encoder = make_encoder(self._model, self.arena, self.kernels is None)
            return self._make_ticks()
        except Exception as error:
            # A refusal in words, or too little memory, is no fault of the kernels.
            if self.kernels is not None or isinstance(error, BackendError | torch.OutOfMemoryError):
                raise
            self.kernels = f"{type(error).__name__}: {error}"[:300]
            log.warning("%s: own kernels failed, the library's take their place: %s", self.name, self.kernels)
            self._device = Device(self._model.device)
            self._encoder = make_encoder(self._model, self.arena, False)
            return self._make_ticks()

    def _make_ticks(self) -> dict[tuple[int, int], tuple[Tick, Captured | None]]:
        """Every shape that can come, ready to run; the largest first, so that the others share its memory."""
        shapes = [(rows, chunk) for chunk in self.config.chunks for rows in self.buckets(chunk)]
        ticks: dict[tuple[int, int], tuple[Tick, Captured | None]] = {}
        for rows, chunk in sorted(shapes, key=lambda shape: -shape[0] * shape[1]):
            tick = Tick(self._model, self.arena, self._encoder, (rows, chunk), self.kernels is None)
            words = np.zeros(tick.input.numel(), np.float32)
            self._ledger.idle(_header(words, rows))
            tick.input.copy_(torch.from_numpy(words))
            ticks[rows, chunk] = tick, self._device.capture(tick, self._options.rung)
        return ticks

    def buckets(self, chunk: int) -> tuple[int, ...]:
        """Rows of the ticks for `chunk`, ascending."""
        most = max(1, min(self.slots, MOST_FRAMES // chunk))
        if self._options.buckets:
            return tuple(sorted({min(rows, most) for rows in self._options.buckets}))
        return (*(1 << k for k in range(most.bit_length()) if 1 << k < most), most)

    @property
    def about(self) -> dict[str, str]:
        """How it runs: device, precision, whose kernels (and why not our own), the rungs that its shapes are on."""
        rungs = sorted({captured.rung if captured else "eager" for _, captured in self._ticks.values()})
        kernels = "own" if self.kernels is None else f"library ({self.kernels})"
        device = str(self._device)
        return {"device": device, "precision": self.precision, "kernels": kernels, "rung": " and ".join(rungs)}

    def rungs(self) -> dict[tuple[int, int], Captured | None]:
        """How each shape (rows, chunk) is launched, with the reasons for higher rungs that were left."""
        return {shape: captured for shape, (_, captured) in self._ticks.items()}

    def open(self, slot: int, prompt: int | None = None) -> None:
        """Make `slot` a stream that heard nothing."""
        self._ledger.open(slot, prompt)
        self._fresh.add(slot)

    def lanes(self, count: int) -> Sequence[DeviceBackend]:
        """Itself alone: a device has one queue, and two launches keep it full."""
        del count
        return [self]

    def most_chunks(self, chunk: int) -> int:
        """One: the ticks' shapes are made ready, and a chunk is what they have."""
        del chunk
        return 1

    def launch(self, chunk: int, rows: Sequence[Row], chunks: int = 1) -> DeviceTicket:
        """Step the rows' streams by one chunk; returns before the device is done."""
        check_chunks(chunks, self.most_chunks(chunk))
        if chunk not in self.config.chunks:
            raise BackendError("chunk", chunk, "one of " + ", ".join(map(str, self.config.chunks)))
        columns = Columns.of(rows)
        ticket = DeviceTicket(len(rows), self._ledger.refused(chunk, rows, columns))
        good = [i for i, heard in enumerate(ticket.results) if not isinstance(heard, Exception)]
        self._clear(columns.some(good).slots.tolist())
        most = self.buckets(chunk)[-1]
        for start in range(0, len(good), most):
            self._launch(chunk, (rows, columns), good[start : start + most], ticket)
        return ticket

    def collect(self, ticket: Ticket) -> list[Heard]:
        """Wait for the launch; the tokens of each row, or what went wrong with it."""
        assert isinstance(ticket, DeviceTicket), f"ticket: got {type(ticket).__name__}, expected one of launch"
        while ticket.parts:
            part = ticket.parts.pop(0)
            self._device.wait(part.staging)
            self._read(part, ticket.results)
            self._staging.append(part.staging)
        return ticket.results

    def take(self, slot: int) -> State:
        """A copy of the stream in `slot`."""
        self._ledger.check_slot(slot, opened=True)
        self._clear([slot])
        arrays: dict[str, NDArray[np.generic]] = {}
        with self._device.at_work():
            for name, tensor in self.arena.rows().items():
                numbers = tensor[slot].float() if tensor.is_floating_point() else tensor[slot]
                arrays[name] = np.array(numbers.cpu().numpy(), _STORED[tensor.dtype])
        return State(self.model_hash, self.name, self.precision, arrays | self._ledger.take(slot))

    def put(self, slot: int, state: State) -> None:
        """Go on with `state` in `slot`."""
        self._ledger.check_slot(slot)
        state.check(self.model_hash, self.name, self.precision)
        tensors = self.arena.rows()
        expected = {name: (tuple(t.shape[1:]), np.dtype(_STORED[t.dtype])) for name, t in tensors.items()}
        check_state(self.config, expected | {name: ((), np.dtype(np.int64)) for name in COUNTERS}, state)
        with self._device.at_work():
            for name, tensor in tensors.items():
                tensor[slot].copy_(torch.from_numpy(state.arrays[name]))
        self._ledger.put(slot, {name: state.arrays[name] for name in COUNTERS})
        self._forget(slot)

    def fork(self, source: int, target: int) -> None:
        """Make `target` the stream that `source` is; nothing leaves the device."""
        self._ledger.check_slot(source, opened=True)
        self._ledger.check_slot(target)
        self._clear([source])
        with self._device.at_work():
            self.arena.copy(source, target)
        self._ledger.put(target, self._ledger.take(source))
        self._forget(target)

    def vacate(self, slot: int) -> None:
        """A device's memory was all taken at the start, and the next stream's launch clears the slot."""
        self._ledger.check_slot(slot)
        self._ledger.opened[slot] = False

    def forget(self) -> None:
        """No stream is open from here on; a device's memory was all taken at the start."""
        self._device.wait_all()
        self._ledger.opened[:] = False

    def close(self) -> None:
        """No stream is open from here on; graphs and memory go with the object."""
        self._device.wait_all()
        self._ledger.opened[:] = False

    def _forget(self, slot: int) -> None:
        """Everything in the slot has been written over."""
        self._fresh.discard(slot)
        self._poisoned.discard(slot)

    def _clear(self, slots: object) -> None:
        """What has to be gone from these slots before they are used."""
        if not self._fresh:
            return
        new = self._fresh.intersection(slots)  # type: ignore[arg-type]
        for due, clear in ((new & self._poisoned, self.arena.scrub), (new - self._poisoned, self.arena.reset)):
            if due:
                with self._device.at_work():
                    clear(self._device.numbers(sorted(due)))
        self._fresh -= new
        self._poisoned -= new

    def _launch(self, chunk: int, of: tuple[Sequence[Row], Columns], which: list[int], ticket: DeviceTicket) -> None:
        """One tick of rows that are fine but for their numbers, perhaps; those drop out here."""
        staging = self._stage()
        while which:
            bucket = next(size for size in self.buckets(chunk) if size >= len(which))
            tick, captured = self._ticks[bucket, chunk]
            words = staging.input[: tick.input.numel()].numpy()
            some, columns = [of[0][i] for i in which], of[1].some(which)
            pcm = words[len(HEADER) * bucket :].reshape(bucket, -1)
            wrong = self._ledger.fill(_header(words, bucket), pcm, some, columns)
            if not wrong:
                self._ledger.advance(chunk, columns)
                self._device.launch(tick, captured, staging)
                slots = columns.slots.tolist()
                ticket.parts.append(Part(staging, which, slots, tuple(tick.output.shape), tick.most))
                return
            for at in wrong:
                ticket.results[which[at]] = self._ledger.refusal(chunk, some[at])
            which = [i for at, i in enumerate(which) if at not in wrong]
        self._staging.append(staging)

    def _stage(self) -> Staging:
        """Staging that nobody uses, large enough for any shape."""
        if not self._staging:
            shapes = [(self.buckets(chunk)[-1], chunk) for chunk in self.config.chunks]
            words = max(rows * words_per_row(chunk) for rows, chunk in shapes)
            answers = max(rows * (2 + 3 * most_tokens(self.config, chunk)) for rows, chunk in shapes)
            return self._device.staging(words, answers)
        return self._staging.pop()

    def _read(self, part: Part, results: list[Heard]) -> None:
        """The tokens of a finished tick."""
        most, (rows, width) = part.most, part.shape
        table = part.staging.output[: rows * width].numpy().reshape(rows, width)[: len(part.which)]
        for i in np.flatnonzero(table[:, 0]).tolist():
            said, row = int(table[i, 0]), table[i, 2:]
            labels, at = row[:said].tolist(), row[most : most + said].tolist()
            logps = row[2 * most : 2 * most + said].view(np.float32).tolist()
            results[part.which[i]] = [Token(*token) for token in zip(labels, at, logps, strict=True)]
        for i in np.flatnonzero(table[:, 1]).tolist():  # too loud to be sound, or a broken state
            self._ledger.opened[part.slots[i]] = False
            self._poisoned.add(part.slots[i])
            error = BackendError("encoder", "NaN or infinite frames", "finite numbers; the stream is lost")
            results[part.which[i]] = error


def _header(words: NDArray[np.float32], rows: int) -> NDArray[np.int32]:
    """The fields before the samples in a tick's input, (fields, rows)."""
    return words[: len(HEADER) * rows].view(np.int32).reshape(len(HEADER), rows)
