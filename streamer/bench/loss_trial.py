"""One form of the RNN-T loss, run when told to, in a process of its own. Knows nothing of other forms or of tables.

It runs under a peer's Python too, and so imports torch, the forms, and the peer where it is told to. The order comes
as JSON on the command line; then each line on stdin is one run, answered by a line of seconds and MiB.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from models.training.joint_loss import Batched, Form, Kernels, Output, SampleWise, Targets, Tiled, joint_loss
from models.training.losses import rnnt_loss
from streamer.bench.loss_order import Order

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
PRODUCT_CELLS = 8192  # whose products are timed: as many as a tile of a CPU has
MANY_CELLS = 131_072  # on a GPU
PACKAGES = {"nemo": ("torch", "nemo-toolkit", "numba"), "kernels": ("torch", "triton")}


FORMS: dict[str, Callable[[bool], Form]] = {
    "batched": lambda _: Batched(),
    "sample-wise": lambda _: SampleWise(),
    "tiled": lambda gpu: Tiled(MANY_CELLS, 8_000_000) if gpu else Tiled(),
    "kernels": lambda _: Kernels(),
}


class Problem:
    """A batch of random numbers, and one step forward and back on it."""

    def __init__(self, order: Order) -> None:
        generator = torch.Generator().manual_seed(0)
        rows, hidden, columns = order.rows, order.hidden, order.words + 1

        def leaf(*shape: int, scale: float = 1.0) -> Tensor:
            made = torch.randn(shape, generator=generator).mul_(scale).to(order.device)
            return made.requires_grad_()

        self.order = order
        self.enc, self.pred = leaf(rows, order.frames, hidden), leaf(rows, order.labels + 1, hidden)
        self.weight, self.bias = leaf(columns, hidden, scale=hidden**-0.5), leaf(columns)
        frames, lengths = (torch.tensor(column).to(order.device) for column in zip(*order.lengths, strict=True))
        labels = torch.randint(0, order.words, (rows, order.labels), generator=generator).to(order.device)
        self.targets = Targets(labels, frames, lengths)

    @property
    def leaves(self) -> tuple[Tensor, ...]:
        return self.enc, self.pred, self.weight, self.bias

    def step(self) -> float:
        """Forward and back; the loss."""
        loss = self._loss()
        torch.autograd.grad(loss, self.leaves)
        return loss.item()

    def _loss(self) -> Tensor:
        order = self.order
        if order.form in FORMS:
            form, output = FORMS[order.form](order.device != "cpu"), Output(self.weight, self.bias)
            return joint_loss(self.enc, self.pred, output, self.targets, form, half=order.half)
        with torch.autocast(order.device, torch.bfloat16, enabled=order.half):
            logits = F.linear(torch.relu(self.enc[:, :, None] + self.pred[:, None]), self.weight, self.bias)
        given = (logits.float(), self.targets.labels, self.targets.frames, self.targets.label_lengths)
        if order.form == "autocast":
            return rnnt_loss(*given).sum()
        from nemo.collections.asr.parts.numba.rnnt_loss import RNNTLossNumba

        found: Tensor = RNNTLossNumba(blank=order.words, reduction="sum")(*given)
        return found.sum()


class Products:
    """The three products of a tile, into memory that is there."""

    def __init__(self, order: Order) -> None:
        cells = PRODUCT_CELLS if order.device == "cpu" else MANY_CELLS
        dtype = torch.bfloat16 if order.half else torch.float32
        columns = order.words + 1
        self.hidden, self.slopes = (
            torch.randn(cells, n, device=order.device).to(dtype) for n in (order.hidden, columns)
        )
        self.weight = torch.randn(columns, order.hidden, device=order.device).to(dtype)
        self.by_weight, self.back = torch.empty_like(self.weight), torch.empty_like(self.hidden)
        self.logits = torch.empty_like(self.slopes)
        self.share = cells / order.cells

    def step(self) -> float:
        """All three once; the share of the batch's cells that this was."""
        torch.mm(self.hidden, self.weight.T, out=self.logits)
        torch.mm(self.slopes.T, self.hidden, out=self.by_weight)
        torch.mm(self.slopes, self.weight, out=self.back)
        return self.share


def warm_up(order: Order) -> Order:
    """Two rows, so that libraries have made their code and their threads; a peer's loop gets short ones."""
    if order.form == "nemo":
        return replace(order, rows=2, frames=12, labels=4)
    return replace(order, rows=2)


def _give_back() -> None:
    """What the process holds without using it goes back to the system."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)


def measured(work: Callable[[], float], device: str) -> dict[str, Any]:
    """One run: seconds, MiB beyond what was there (on a GPU all that was allocated), and what it returned."""
    gpu = device != "cpu"
    if gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = 0
    else:
        _give_back()
        CLEAR.write_text("5")  # the peak so far is forgotten
        before = _kib("VmRSS")
    began = time.perf_counter()
    value = work()
    if gpu:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - began
    peak = torch.cuda.max_memory_allocated() / (1 << 20) if gpu else (_kib("VmHWM") - before) / 1024
    return {"seconds": seconds, "mib": peak, "value": value}


def _kib(name: str) -> int:
    (line,) = (line for line in STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1])


def main() -> None:
    """Warm on something small, then a run for each line."""
    order = Order(**json.loads(sys.argv[1]))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a peer says to stdout is no answer
    torch.set_num_threads(order.threads)

    def say(**fields: object) -> None:
        print(json.dumps(fields), file=answers, flush=True)

    try:
        if order.form != "products":
            Problem(warm_up(order)).step()
        problem = Products(order) if order.form == "products" else Problem(order)
        say(versions=", ".join(f"{name} {version(name)}" for name in PACKAGES.get(order.form, ("torch",))))
        for _ in sys.stdin:
            say(**measured(problem.step, order.device))
    except torch.OutOfMemoryError:
        say(failed="does not fit")
    except (ValueError, ModuleNotFoundError) as error:
        say(failed=str(error))


if __name__ == "__main__":
    main()
