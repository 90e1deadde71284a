"""`streamer bench peers`: the cells of the comparison, and their measurements kept as they come.

A cell is one model at one precision, latency, number of streams and threads. Knows nothing of how an engine steps.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamer.bench.machine import cpu_name
from streamer.bench.peer_step import FRAME_SAMPLES, RATE, Order, order_text
from streamer.gpu_check.record import write

SIZES, PRECISIONS = ("large", "small"), ("fp32", "int8")
LATENCIES, STREAMS, THREADS = (80, 160, 560, 1120), (1, 8, 32), (1, 2)
WARM_S = 5.6  # 70 frames: the whole left context has been heard, as of any stream that has lasted
LEAST_STEPS = 12
MANY = 8  # streams; of more of them less is heard of each, so that no cell takes minutes
LIMIT_S = 600.0
ROOT = Path(__file__).resolve().parents[2]
PEER = "sherpa-onnx"
SIDES = ("ours", PEER)
FILE = "cpu.json"

Say = Callable[[str], None]


class PeerError(Exception):
    """A measurement could not be made; the text says which and why."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One entry of the tables."""

    size: str
    precision: str
    latency_ms: int
    streams: int
    threads: int

    @property
    def name(self) -> str:
        return f"{self.size}/{self.precision}/{self.latency_ms}ms/{self.streams}/{self.threads}t"

    @property
    def chunk_s(self) -> float:
        return self.latency_ms / 1000

    def steps(self, seconds: float) -> tuple[int, int]:
        """Steps that warm up, and steps that count, for `seconds` of audio of each of a few streams."""
        counted = math.ceil(seconds * min(1.0, MANY / self.streams) / self.chunk_s)
        return math.ceil(WARM_S / self.chunk_s), max(LEAST_STEPS, counted)


@dataclass(frozen=True, slots=True)
class Plan:
    """Where the models lie, whose Python has the peer, how long to measure and into which folder."""

    peers: Path  # {size}-{latency}ms folders as peer_model.py leaves them
    python: str
    ours: Callable[[str, str], Path]  # size and precision to the exported folder
    audio: NDArray[np.float32]  # 16 kHz
    seconds: float
    rounds: int
    out: Path


def cells(
    sizes: Sequence[str], precisions: Sequence[str], latencies: Sequence[int], streams: Sequence[int],
    threads: Sequence[int],
) -> list[Cell]:  # fmt: skip
    """All that these make."""
    return [Cell(*values) for values in product(sizes, precisions, latencies, streams, threads)]


class Book:
    """cpu.json: what was measured, cell by cell."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self.kept = self._read()

    def _read(self) -> dict[str, Any]:
        try:
            kept = json.loads(self.path.read_text("utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise PeerError(f"{self.path}: got {type(error).__name__}, expected the file as it was written") from None
        if not isinstance(kept, dict):
            raise PeerError(f"{self.path}: got {type(kept).__name__}, expected an object")
        return kept

    def section(self, name: str) -> dict[str, Any]:
        """A part of the file, by name; what is put into it is kept by `save`."""
        section: dict[str, Any] = self.kept.setdefault(name, {})
        return section

    def save(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write(self.path, self.kept)


def run(chosen: Sequence[Cell], plan: Plan, book: Book, say: Say, *, again: bool) -> int:
    """Measure cell after cell, ours and theirs in turn; how many of them failed. Finished ones are left alone."""
    failed = 0
    with tempfile.TemporaryDirectory(prefix="bench-peers-") as name:
        audio = Path(name) / "audio.npy"
        np.save(audio, plan.audio)
        for number, cell in enumerate(chosen, 1):
            kept = book.section("cells")
            if not again and finished(kept.get(cell.name), plan.rounds):
                say(f"{number}/{len(chosen)} {cell.name}: done before")
                continue
            record: dict[str, Any] = {side: [] for side in SIDES}
            record |= {"machine": cpu_name(), "date": time.strftime("%Y-%m-%d")}
            kept[cell.name] = record
            try:
                for turn in range(plan.rounds):
                    for side in SIDES if turn % 2 == 0 else SIDES[::-1]:  # nobody is always the first
                        record[side].append(measured(order(cell, plan, side, audio), plan))
            except PeerError as error:
                failed += 1
                record["error"] = str(error)
            book.save()
            say(f"{number}/{len(chosen)} {cell.name}: {summary(record)}")
    return failed


def finished(record: dict[str, Any] | None, rounds: int) -> bool:
    """Whether a cell was measured on such a machine, in as many rounds."""
    return record is not None and record["machine"] == cpu_name() and all(len(record[side]) >= rounds for side in SIDES)


def order(cell: Cell, plan: Plan, side: str, audio: Path) -> Order:
    """What one process is told."""
    warm, steps = cell.steps(plan.seconds)
    ours = side == "ours"
    folder = plan.ours(cell.size, cell.precision) if ours else plan.peers / f"{cell.size}-{cell.latency_ms}ms"
    return Order(
        engine=side, folder=str(folder.absolute()), precision=cell.precision, streams=cell.streams,
        chunk=cell.latency_ms * RATE // 1000 // FRAME_SAMPLES, threads=cell.threads, warm=warm, steps=steps,
        audio=str(audio),
    )  # fmt: skip


def measured(order: Order, plan: Plan) -> dict[str, Any]:
    """One run in a process of its own."""
    python = sys.executable if order.engine == "ours" else plan.python
    # NumPy's products have threads of their own, which would come on top of the ones that were asked for.
    environment = {**os.environ, "OMP_NUM_THREADS": str(order.threads), "OPENBLAS_NUM_THREADS": str(order.threads)}
    command = [python, "-m", "streamer.bench.peer_step", order_text(order)]
    where = f"{order.engine}, {Path(order.folder).name}"
    try:
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        raise PeerError(f"{where}: got no end after {LIMIT_S:.0f} s") from None
    except OSError as error:
        raise PeerError(f"{python}: got {error.strerror}, expected the Python that has {PEER}") from None
    if done.returncode:
        last = done.stderr.strip().rpartition("\n")[2]
        raise PeerError(f"{where}: got exit code {done.returncode}, expected 0: {last[:300]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def best(runs: Sequence[dict[str, Any]], name: str) -> float:
    """The least of a figure: what the machine's other work disturbed least."""
    return min(float(run[name]) for run in runs)


def middle(runs: Sequence[dict[str, Any]], name: str) -> float:
    return float(np.median([run[name] for run in runs]))


def streams_per_core(runs: Sequence[dict[str, Any]], streams: int, pick: Callable[..., float] = best) -> float:
    """Seconds of audio of all streams for a processor second."""
    return streams * float(runs[0]["audio_s"]) / pick(runs, "cpu_s")


def ratio(record: dict[str, Any], pick: Callable[..., float] = best) -> float:
    """Their processor seconds over ours: above 1 we need less."""
    return pick(record[PEER], "cpu_s") / pick(record["ours"], "cpu_s")


def summary(record: dict[str, Any]) -> str:
    """A line for whoever waits."""
    if "error" in record:
        return f"failed: {record['error']}"
    ours, theirs = (best(record[side], "cpu_s") for side in SIDES)
    return f"{ours:.3f} s against {theirs:.3f} s of processor, {ratio(record):.2f} times"
