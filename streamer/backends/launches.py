"""Work on a device in order: its stream, pinned staging, events, graphs. On a CPU everything runs at once and eagerly.

Knows nothing of slots or what a tick computes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from models.tick import Tick
from streamer.backends.graphs import RUNGS, Captured, capture


@dataclass(slots=True, eq=False)
class Staging:
    """Host memory of one launch under way, pinned where there is a device to copy to."""

    input: Tensor  # float32 words
    output: Tensor  # int32 words
    done: Any = None  # torch.cuda.Event


class Device:
    """Streams, events and pinned memory of CUDA; on a CPU nothing of it is needed and everything runs at once."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.cuda = device.type == "cuda"
        self._stream = torch.cuda.Stream(device) if self.cuda else None
        self._pool = torch.cuda.graph_pool_handle() if self.cuda else None
        self._failed: set[str] = set()  # rungs that a capture has failed on: not tried again

    def __str__(self) -> str:
        return torch.cuda.get_device_name(self.device) if self.cuda else "cpu"

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """What runs inside runs in order with the ticks, and makes no graph for derivatives."""
        with torch.inference_mode(), torch.cuda.stream(self._stream):  # without a stream that is no context at all
            yield

    def capture(self, tick: Tick, rung: str) -> Captured | None:
        """The tick as a graph; None where there are none."""
        if not self.cuda:
            return None
        higher = RUNGS[RUNGS.index(rung) :]
        captured = capture(tick, self._pool, self._stream, next(name for name in higher if name not in self._failed))
        self._failed |= captured.failed
        self._pool = captured.pool  # a capture that failed leaves its pool unusable
        return captured

    def numbers(self, values: Sequence[int]) -> Tensor:
        """int64 on the device, without waiting for what is under way there; inside `at_work` only."""
        there = torch.tensor(values, dtype=torch.int64, pin_memory=self.cuda)
        return there.to(self.device, non_blocking=True)

    def staging(self, words: int, answers: int) -> Staging:
        return Staging(
            torch.zeros(words, pin_memory=self.cuda),
            torch.zeros(answers, dtype=torch.int32, pin_memory=self.cuda),
            torch.cuda.Event(blocking=True) if self.cuda else None,  # who waits leaves the processor to others
        )

    def launch(self, tick: Tick, captured: Captured | None, staging: Staging) -> None:
        """One copy in, the tick, one copy out."""
        with self.at_work():
            tick.input.copy_(staging.input[: tick.input.numel()], non_blocking=True)
            tick.run() if captured is None else captured.launch()
            answer = staging.output[: tick.output.numel()].view(tick.output.shape)
            answer.copy_(tick.output, non_blocking=True)
            if staging.done is not None:
                staging.done.record(self._stream)

    def wait(self, staging: Staging) -> None:
        """Until the launch that uses `staging` has answered."""
        if staging.done is not None:
            staging.done.synchronize()

    def wait_all(self) -> None:
        if self._stream is not None:
            self._stream.synchronize()
