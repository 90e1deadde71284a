"""Where a run stands, shared by its workers: stage, epoch, batch, updates and time. Knows nothing of models."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from models.training.settings import Settings, Stage

# The first six are kept by checkpoints; the others live as long as the process.
PLACES = ("stage", "epoch", "batch", "step", "stage_step", "elapsed_s", "asked", "audio_s", "loss_sum", "losses")
KEPT = 6
LOCK_S = 120.0  # an update holds the lock for some tens of milliseconds: who waits longer waits for the dead


class WorkerLost(RuntimeError):
    """A worker of the run died; the text says how it was noticed."""


@dataclass(frozen=True, slots=True)
class Job:
    """One update that a worker has claimed: which batches of an epoch's plan it is made of."""

    stage: int
    epoch: int
    batch: int


class Progress:
    """Numbers in shared memory under one lock. Every batch of an epoch's plan is claimed once, by whoever is free."""

    def __init__(self, told: Settings, context: Any) -> None:
        self._told = told
        self._places = torch.zeros(len(PLACES), dtype=torch.float64, device="cpu").share_memory_()
        self._owner = os.getpid()
        self._lock = context.RLock()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Numbers and weights belong to the caller. A worker that died with the lock may have left half an update."""
        if not self._lock.acquire(timeout=LOCK_S):
            raise WorkerLost(f"the lock of the weights was not free for {LOCK_S:.0f} s: a worker died in an update")
        try:
            yield
        finally:
            self._lock.release()

    def get(self, name: str) -> float:
        return float(self._places[PLACES.index(name)])

    def set(self, name: str, value: float) -> None:
        self._places[PLACES.index(name)] = value

    def add(self, name: str, value: float) -> None:
        self.set(name, self.get(name) + value)

    def ask_to_end(self) -> None:
        self.set("asked", 1)

    def claim(self, batches_of: Callable[[int], int]) -> Job | None:
        """The next batch, or None when the run is over, asked to end, or has lost its first worker.

        `batches_of` gives the number of batches of an epoch.
        """
        with self.locked():
            enough = self._told.max_steps is not None and self.get("step") >= self._told.max_steps
            orphan = self._owner not in (os.getpid(), os.getppid())
            if enough or orphan or self.get("asked") or self.get("stage") >= len(self._told.stages):
                return None
            job = Job(int(self.get("stage")), int(self.get("epoch")), int(self.get("batch")))
            self.set("batch", job.batch + 1)
            if job.batch + 1 >= batches_of(job.epoch):
                self.set("batch", 0)
                self.set("epoch", job.epoch + 1)
            return job

    def pass_time(self, seconds: float) -> None:
        """Counts time towards the stage; when that is over, the next one is current."""
        with self.locked():
            self.add("elapsed_s", seconds)
            self._advance()

    def done(self, stage: Stage) -> float:
        """How much of the current stage is over, 0 to 1."""
        if stage.steps is not None:
            return min(1.0, self.get("stage_step") / max(1, stage.steps))
        assert stage.minutes is not None, "a stage has minutes or steps"
        return min(1.0, self.get("elapsed_s") / max(1e-9, 60.0 * stage.minutes))

    def _advance(self) -> None:
        stage = int(self.get("stage"))
        if stage < len(self._told.stages) and self.done(self._told.stages[stage]) >= 1.0:
            self.set("stage", stage + 1)
            self.set("elapsed_s", 0)
            self.set("stage_step", 0)

    def heard(self, audio_s: float, loss: float) -> None:
        """Counts one update, under the lock of its caller, towards the stage too."""
        for name in ("step", "stage_step", "losses"):
            self.add(name, 1)
        self.add("audio_s", audio_s)
        self.add("loss_sum", loss)
        self._advance()

    def take_report(self) -> tuple[float, float]:
        """Seconds of audio and mean loss since the last report."""
        with self.locked():
            audio_s, loss = self.get("audio_s"), self.get("loss_sum") / max(1.0, self.get("losses"))
            for name in ("audio_s", "loss_sum", "losses"):
                self.set(name, 0)
            return audio_s, loss

    def state(self) -> Tensor:
        return self._places[:KEPT].clone()

    def restore(self, state: Tensor) -> None:
        self._places[:KEPT] = state
