"""The label loop of models/label_loop.py as kernels: a trip is 3 + layers launches. Knows nothing of graphs or audio.

The twin is `models.label_loop.advance`. A trip without work costs its launches and nothing more, so trips may be
unrolled. Only frames that a row has left are looked at, and only rows that emitted go through the predictor.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from models.kernels import search_code as code
from models.kernels.dialect import blocks, up
from models.label_loop import LabelLoop, Memory, Networks

ROWS = 256  # of a program that only moves numbers
MANY_WORDS = 4096


@dataclass(frozen=True, slots=True)
class Tile:
    """How a product is cut: rows, columns and depth of a program's block, and its warps."""

    rows: int
    columns: int
    depth: int
    warps: int = 4
    stages: int = 3

    def options(self, depth: int) -> dict[str, int]:
        """As the kernels take them; small models have less depth than a block."""
        return {
            "BM": self.rows,
            "BN": self.columns,
            "BK": min(self.depth, up(depth, 16)),
            "num_warps": self.warps,
            "num_stages": self.stages,
        }


def joint_tile(lines: int, words: int, dtype: torch.dtype) -> Tile:
    """Few rows want many programs, each with a little of the vocabulary; many want tiles that read it seldom."""
    if lines <= 16:
        return Tile(16, 64 if words > MANY_WORDS else 32, 128 if dtype != torch.float32 else 64)
    if dtype == torch.float32:  # without tensor cores: parity, not speed
        return Tile(32, 32, 32, stages=2)
    if lines <= 64:
        return Tile(32, 64, 64)
    return Tile(64, 64, 64) if lines <= 512 else Tile(128, 128, 64, warps=8)


def cell_tile(rows: int, dtype: torch.dtype) -> Tile:
    """Of the predictor's four products per layer, which share their input."""
    if rows <= 16:
        return Tile(16, 16, 128 if dtype != torch.float32 else 64)
    if dtype == torch.float32:
        return Tile(16, 16, 32, stages=2)
    return Tile(32, 32, 64) if rows <= 512 else Tile(64, 32, 64)


def project_tile(rows: int, dtype: torch.dtype) -> Tile:
    if rows <= 16:
        return Tile(16, 16, 128 if dtype != torch.float32 else 64)
    if dtype == torch.float32:
        return Tile(32, 32, 32, stages=2)
    return Tile(32, 32, 64) if rows <= 512 else Tile(64, 64, 64)


class KernelLoop(LabelLoop):
    """A LabelLoop whose begin, trip and end are kernels: 1, 3 + layers and 1 launches, no allocation."""

    def __init__(self, networks: Networks, memory: Memory, shape: tuple[int, int]) -> None:
        super().__init__(networks, memory, shape)
        device, dtype = memory.h.device, networks.by_label.dtype
        self._outputs = networks.out[0].shape[0]
        self._words = networks.blank + 1
        self._joint = joint_tile(self.rows * self.frames, self._words, dtype)
        self._cell, self._project = cell_tile(self.rows, dtype), project_tile(self.rows, dtype)
        self._splits = blocks(self._words, self._joint.columns)
        self._parts = self._splits + blocks(self._outputs - self._words, self._joint.columns)
        assert self._parts - self._splits <= 1, f"{self._outputs - self._words} durations: expected one block of them"
        self._capacity = self.rows * self.frames

        def whole(*sizes: int) -> Tensor:
            return torch.zeros(sizes, dtype=torch.int32, device=device)

        self._work, self._state, self._emitters = whole(2, self._capacity), whole(4), whole(self.rows)
        self._bests = whole(self._capacity, self._parts)
        self._tops = torch.zeros(self._capacity, self._parts, device=device)
        self._sums = torch.zeros_like(self._tops)

    def begin(self) -> None:
        memory = self.memory
        code.begin_kernel[(1,)](
            self.slots, memory.jump, self.counts, self.position, self.repeats, self.last_at, self.said,
            self._work, self._state, self.working, self.rows, self.frames,
            BLOCK=min(1024, up(self.rows, 16)), num_warps=8,
        )  # fmt: skip

    def trip(self) -> None:
        self._look()
        self._select()
        for layer in range(len(self.networks.recurrent)):
            self._advance_layer(layer)
        self._hand_over()

    def end(self) -> None:
        code.end_kernel[(blocks(self.rows, ROWS),)](
            self.slots, self.memory.jump, self.counts, self.position, self.rows, BLOCK=ROWS
        )

    def _look(self) -> None:
        networks, hidden = self.networks, self.scores.shape[2]
        code.joint_kernel[(self._parts, blocks(self._capacity, self._joint.rows))](
            self.scores, self.memory.g, self.slots, *networks.out, self._work, self._state,
            self._tops, self._bests, self._sums, self.frames, self._capacity,
            HIDDEN=hidden, WORDS=self._words, OUTPUTS=self._outputs, PARTS=self._parts, SPLITS=self._splits,
            ACTIVATION=networks.activation, **self._joint.options(hidden),
        )  # fmt: skip

    def _select(self) -> None:
        networks = self.networks
        code.select_kernel[(self.rows,)](
            self.position, self.counts, self.first, self.repeats, self.last_at, self.emitted,
            self.said, self.labels, self.at, self.logps, self.durations,
            self._tops, self._bests, self._sums, self._work, self._state, self._emitters,
            self.frames, self._capacity, self.most + 1,
            WORDS=self._words, MOST=networks.max_symbols, TIMED=bool(networks.durations),
            PARTS=self._parts, SPLITS=self._splits, WIDTH=up(self._splits), TILE=min(16, up(self.frames)),
        )  # fmt: skip

    def _advance_layer(self, layer: int) -> None:
        networks, memory = self.networks, self.memory
        recurrent = networks.recurrent[layer]
        _, layers, hidden = memory.h.shape
        # The first layer has its input product by label; what it is given here is not looked at.
        weight, bias = networks.inputs[layer - 1] if layer else (recurrent, networks.project[1])
        code.cell_kernel[(blocks(hidden, self._cell.columns), blocks(self.rows, self._cell.rows))](
            networks.by_label, weight, bias, recurrent, memory.h, memory.c, self.new_h,
            self.slots, self.emitted, self._emitters, self._state,
            HIDDEN=hidden, LAYER=layer, LAYERS=layers, **self._cell.options(hidden),
        )  # fmt: skip

    def _hand_over(self) -> None:
        memory, tile = self.memory, self._project
        _, layers, hidden = memory.h.shape
        joint = memory.g.shape[1]
        code.project_kernel[(blocks(max(joint, layers * hidden), tile.columns), blocks(self.rows, tile.rows))](
            *self.networks.project, self.new_h, memory.h, memory.g, memory.label,
            self.slots, self.emitted, self._emitters, self._state, self.working,
            HIDDEN=hidden, LAYERS=layers, JOINT=joint, **tile.options(hidden),
        )  # fmt: skip
