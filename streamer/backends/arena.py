"""What a backend keeps of its streams: arrays with one row per slot. Knows nothing of networks or audio.

A slot takes memory while a stream is in it: pages that nobody has written are not there, and those of streams that have
left are given back. NumPy's own arrays would take it by two megabytes, which are many slots of each array.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.config import FRAME_SAMPLES, ModelConfig
from models.features_np import TAIL
from streamer.backends.base import FIRST_SHORTER_BY, BackendError, State
from streamer.decoding import Memory

Array = NDArray[Any]
LEAST_PAGES = 4  # of a row; of fewer, hardly one is a row's own
VACANT = 16  # neighbours on either side that are looked at: steps write to those between streams, too
LAYERED = ("conv", "keys", "values")
COUNTERS = ("samples", "frames", "chunk", "prompt", "done")
MOST_SAMPLES = 1 << 48  # nobody talks for 500 years; keeps hostile counters from overflowing


class Arena:
    """State of all slots by name. `arrays` holds every array that a State carries, the slot first."""

    def __init__(self, config: ModelConfig, slots: int, initial: Memory, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """shapes: of each array of the encoder's state, without the slot."""
        self.config, self.slots = config, slots
        self._initial = initial
        self.tail = np.zeros((slots, TAIL), np.float32)  # the last samples, for the next chunk's features
        self._pages: list[tuple[mmap.mmap, int]] = []  # of each large array, and the bytes of its rows
        self.model = {name: self._zeros((slots, *shape)) for name, shape in shapes.items()}
        _, layers, hidden = initial.h.shape
        self.memory = Memory.zeros(slots, layers, hidden, initial.g.shape[1], config.blank)
        counters = np.zeros((len(COUNTERS), slots), np.int64)
        self.samples, self.frames, self.chunk, self.prompt, self.done = counters
        self.opened = np.zeros(slots, np.bool_)
        counted = dict(zip(COUNTERS, counters, strict=True))
        self.arrays: dict[str, Array] = {"tail": self.tail, **self.model, **self.memory.arrays(), **counted}

    def open(self, slot: int, prompt: int) -> None:
        """Zeros everywhere: also what a stream that ended in NaN left behind."""
        for array in self.arrays.values():
            array[slot] = 0
        self.memory.start(slot, self._initial)
        self.prompt[slot] = prompt
        self.opened[slot] = True

    def _zeros(self, shape: tuple[int, ...]) -> Array:
        """float32 zeros, in pages of their own where a row has some."""
        count = math.prod(shape)
        row_bytes = 4 * count // shape[0]
        if row_bytes < LEAST_PAGES * mmap.PAGESIZE or not hasattr(mmap, "MADV_DONTNEED"):
            return np.zeros(shape, np.float32)
        pages = mmap.mmap(-1, 4 * count, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._pages.append((pages, row_bytes))
        return np.frombuffer(pages, np.float32).reshape(shape)

    def vacate(self, slot: int) -> None:
        """Nobody is in the slot any more: pages of its own, or shared with neighbours who are not there, go back."""
        self.opened[slot] = False
        first, end = slot, slot + 1
        while first and slot - first < VACANT and not self.opened[first - 1]:
            first -= 1
        while end < self.slots and end - slot <= VACANT and not self.opened[end]:
            end += 1
        for pages, row_bytes in self._pages:
            begin = -(-first * row_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
            size = end * row_bytes // mmap.PAGESIZE * mmap.PAGESIZE - begin
            pages.madvise(mmap.MADV_DONTNEED, begin, size)

    def take(self, slot: int) -> dict[str, Array]:
        """Copies of the slot's rows."""
        return {name: array[slot].copy() for name, array in self.arrays.items()}

    def fork(self, source: int, target: int) -> None:
        """The target's rows become the source's."""
        for array in self.arrays.values():
            array[target] = array[source]
        self.opened[target] = True

    def put(self, slot: int, state: State) -> None:
        """Write a state's rows; refuses what this model could not have made."""
        check_state(self.config, {name: (a.shape[1:], a.dtype) for name, a in self.arrays.items()}, state)
        for name, array in self.arrays.items():
            array[slot] = state.arrays[name]
        self.opened[slot] = True


def check_state(config: ModelConfig, expected: Mapping[str, tuple[tuple[int, ...], Any]], state: State) -> None:
    """Refuse a state that this model could not have made; `expected` has each array's shape and type."""
    if state.arrays.keys() != expected.keys():
        odd = sorted(state.arrays.keys() ^ expected.keys())[:3]
        raise BackendError("state.arrays", f"another set ({', '.join(odd)[:80]})", "the arrays of this model")
    for name, (shape, dtype) in expected.items():
        got = state.arrays[name]
        if got.shape != shape or got.dtype != dtype:
            raise BackendError(f"state.{name}", f"{got.dtype}{got.shape}", f"{dtype}{shape}")
        if not np.isfinite(got).all():
            raise BackendError(f"state.{name}", "NaN or infinite numbers", "finite ones")
    _check_counters(config, {name: int(state.arrays[name]) for name in (*COUNTERS, "label", "jump")})


def _check_counters(config: ModelConfig, got: dict[str, int]) -> None:
    """Each in its range, and together what chunks of one length leave behind: else a step would fail for all."""
    limits = {"samples": MOST_SAMPLES, "frames": MOST_SAMPLES, "prompt": max(1, config.num_prompts) - 1, "done": 1}
    limits |= {"label": config.blank, "jump": max(config.durations, default=0)}
    for name, most in limits.items():
        if not 0 <= got[name] <= most:
            raise BackendError(f"state.{name}", got[name], f"0 to {most}")
    chunk, frames = got["chunk"], got["frames"]
    if chunk not in (0, *config.chunks):
        raise BackendError("state.chunk", chunk, "0 or one of " + ", ".join(map(str, config.chunks)))
    if got["done"]:
        return  # takes no more audio, and its last chunk was as short as it liked
    if bool(chunk) != bool(frames) or frames % max(1, chunk):
        raise BackendError("state.frames", frames, f"whole chunks of state.chunk={chunk}")
    if got["samples"] != (due := max(0, FRAME_SAMPLES * frames - FIRST_SHORTER_BY)):
        raise BackendError("state.samples", got["samples"], f"{due} after {frames} frames")


def state_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The encoder's state as models/state.py has it, without the rows, named as an exported step names it."""
    first, second, _ = config.sub_widths
    ring = (config.heads, config.ring, config.head_dim)
    shapes: dict[str, tuple[int, ...]] = {
        "mel_tail": (1, config.mels),
        "sub1": (config.sub_channels, 1, first),
        "sub2": (config.sub_channels, 1, second),
    }
    layered = {"conv": (config.conv_context[0], config.d_model), "keys": ring, "values": ring}
    for kind in LAYERED:
        shapes |= {f"{kind}.{layer}": layered[kind] for layer in range(config.layers)}
    return shapes
