"""What a step costs, measured, and whether one more stream still fits. Knows no threads; the clock is an argument."""

from __future__ import annotations

import json
import logging
import math
import os
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from models.config import FRAME_S
from streamer.backends.base import Backend, Row, samples_needed

log = logging.getLogger(__name__)

Clock = Callable[[], float]
TIMED_STEPS = 5  # after the first, which is colder and shorter; fewer where they are long
TIMED_S = 0.05  # enough of them
SOUNDS = 16  # noises that the rows share: those of thousands would take longer to make than to step


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds of a step by chunk length and rows, between and beyond the measured points on straight lines."""

    points: Mapping[int, tuple[tuple[int, float], ...]]  # chunk -> ((rows, seconds), ...), rows growing

    def __post_init__(self) -> None:
        for chunk, points in self.points.items():
            rows = [r for r, _ in points]
            good = rows == sorted(set(rows)) and rows[:1] == [1] and all(0 <= s < math.inf for _, s in points)
            if not good:
                raise ValueError(f"costs of chunk {chunk}: got {points}, expected growing rows from 1 and seconds")

    def seconds(self, chunk: int, rows: int) -> float:
        """One step of `rows` rows; no rows cost nothing."""
        points = self.points[chunk]
        if rows <= 0:
            return 0.0
        if rows > points[-1][0]:
            return points[-1][1] * rows / points[-1][0]
        at = bisect_left(points, (rows,))
        wider, most = points[at]
        if wider == rows:
            return most
        narrower, least = points[at - 1]
        return least + (most - least) * (rows - narrower) / (wider - narrower)

    def load(self, streams: Mapping[int, int]) -> float:
        """Share of all time that so many streams per chunk length take, when those of one length step together."""
        return sum(self.seconds(chunk, count) / (chunk * FRAME_S) for chunk, count in streams.items())


def refusal(streams: Mapping[int, int], chunk: int, costs: Costs, max_load: float) -> str | None:
    """Why one more stream of `chunk` does not fit, in words; None if it does."""
    wanted = dict(streams)
    wanted[chunk] = wanted.get(chunk, 0) + 1
    load = costs.load(wanted)
    if load <= max_load:
        return None
    count = sum(streams.values())
    more = f"{count} streams are heard now and one more would take {load:.0%} of the time"
    return f"{more}, expected at most {max_load:.0%}"


def measure(backend: Backend, chunks: Iterable[int], clock: Clock, longest_s: float) -> Costs:
    """Step 1, 2, 4 ... rows of faint noise. Stops at steps too long to be ever planned; beyond them is a line.

    More rows never cost less, nor more than the same rows in narrower steps would: a figure outside of that comes from
    a machine that was busy with something else at that moment, and would keep streams apart for the daemon's life.
    """
    noise = np.random.default_rng(0)
    table: dict[int, tuple[tuple[int, float], ...]] = {}
    for chunk in sorted(set(chunks)):
        points: list[tuple[int, float]] = []
        for rows in _sizes(backend.slots):
            seconds = _step_s(backend, chunk, rows, (noise, clock))
            if points:
                narrower, least = points[-1]
                seconds = min(max(seconds, least), least * rows / narrower)
            points.append((rows, seconds))
            if points[-1][1] > longest_s:
                break
        table[chunk] = tuple(points)
    return Costs(table)


def _sizes(slots: int) -> list[int]:
    return sorted({*(2**k for k in range(int(math.log2(slots)) + 1)), slots})


def _step_s(backend: Backend, chunk: int, rows: int, tools: tuple[np.random.Generator, Clock]) -> float:
    noise, clock = tools
    for slot in range(rows):
        backend.open(slot)
    best, spent = math.inf, 0.0
    for step in range(1 + TIMED_STEPS):
        if step > 2 and spent > TIMED_S:
            break
        samples = samples_needed(step, chunk)
        sounds = [noise.normal(0, 0.01, samples).astype(np.float32) for _ in range(min(rows, SOUNDS))]
        batch = [Row(slot, sounds[slot % SOUNDS]) for slot in range(rows)]
        start = clock()
        for result in backend.collect(backend.launch(chunk, batch)):
            if isinstance(result, Exception):
                raise result
        took = clock() - start
        best, spent = (min(best, took), spent + took) if step else (best, spent)
    return best


def measured(backend: Backend, chunks: Iterable[int], clock: Clock, longest_s: float, file: str) -> Costs:
    """From `file` if this model and machine were measured before, else measured now and kept there."""
    wanted = sorted(set(chunks))
    if not file:
        return measure(backend, wanted, clock, longest_s)
    config = backend.config
    size = f"{config.layers}x{config.d_model}"
    machine = f"{backend.slots} slots, {os.cpu_count()} cpus"
    name = "/".join((config.name, size, backend.name, *backend.about.values(), machine))
    kept = _read(Path(file))
    if (known := _costs(kept.get(name), wanted)) is not None:
        return known
    costs = measure(backend, wanted, clock, longest_s)
    kept[name] = {str(chunk): [list(point) for point in points] for chunk, points in costs.points.items()}
    try:
        Path(file).write_text(json.dumps(kept, indent=1) + "\n", "utf-8")
    except OSError as error:
        why = f"expected a file that can be written ({error.strerror}); the next start measures again"
        log.warning("engine.capacity_file=%s: %s", file, why)
    return costs


def _costs(kept: Any, wanted: list[int]) -> Costs | None:
    """What was kept as costs of exactly the wanted chunks; None for anything that is not that."""
    try:
        points = {int(chunk): tuple((int(r), float(s)) for r, s in points) for chunk, points in kept.items()}
        return Costs(points) if sorted(points) == wanted else None
    except (AttributeError, TypeError, ValueError, OverflowError):
        return None


def _read(file: Path) -> dict[str, Any]:
    """What was kept; a file that cannot be read is as good as none, since all of it can be measured again."""
    try:
        kept = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return kept if isinstance(kept, dict) else {}
