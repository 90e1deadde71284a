"""What steps cost: a table of seconds by chunk length and rows, and how it is measured. The clocks are arguments."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from models.config import FRAME_S
from streamer.backends.base import Backend, Row, samples_needed

Clock = Callable[[], float]
PASSES = 2  # some seconds apart
TIMED_STEPS = 3  # after the first, which is colder and shorter; fewer where they are long
TIMED_S = 0.03  # enough of them
MOST_ROWS = 4096
FLAT_FRAMES, FLAT = 64, 0.9  # from so many frames on, twice the rows for 1.8 times the time are as good as a line
LEAST_S = 0.05  # steps of less in all say nothing about the machine
BUSY_ROWS = 8  # of a step that is not measured
SOUNDS = 16  # noises that the rows share: those of thousands would take longer to make than to step
# A step of neighbours may take a quarter of the time that its chunk lasts, for rows wait for the end of the step before
# and for that of their own. It is longer where a first row is dear: seven eighths of the time have to go to the others.
STEP_SHARE = 0.25
FIRST_ROWS = 8.0


def longest_step(chunk: int, first_row_s: float) -> float:
    """Seconds that a step of neighbours of `chunk` encoder frames may take, if one row alone takes `first_row_s`."""
    return max(STEP_SHARE * chunk * FRAME_S, FIRST_ROWS * first_row_s)


def phases(chunk: int, first_row_s: float) -> int:
    """Parts of a chunk's time, each with a step of its own: as many as the longest steps that fill it."""
    return max(1, math.ceil(chunk * FRAME_S / longest_step(chunk, first_row_s)))


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds of a step by frames and rows, between and beyond the measured points on straight lines."""

    points: Mapping[int, tuple[tuple[int, float], ...]]  # chunk -> ((rows, seconds), ...), rows growing
    disturbed: float = field(default=1.0, compare=False)  # wall seconds a processor second, where that says something

    def __post_init__(self) -> None:
        for chunk, points in self.points.items():
            rows = [r for r, _ in points]
            good = rows == sorted(set(rows)) and rows[:1] == [1] and all(0 <= s < math.inf for _, s in points)
            if not good:
                raise ValueError(f"costs of chunk {chunk}: got {points}, expected growing rows from 1 and seconds")

    def seconds(self, frames: int, rows: int) -> float:
        """One step of `rows` rows of so many encoder frames, be they a chunk or some; no rows cost nothing."""
        if frames in self.points:
            return self._measured(frames, rows)
        lengths = sorted(self.points)
        at = bisect_left(lengths, frames)
        if at == len(lengths):
            return self._measured(lengths[-1], rows) * frames / lengths[-1]
        if not at:
            return self._measured(lengths[0], rows)
        shorter, longer = lengths[at - 1], lengths[at]
        least, most = self._measured(shorter, rows), self._measured(longer, rows)
        return least + (most - least) * (frames - shorter) / (longer - shorter)

    def _measured(self, chunk: int, rows: int) -> float:
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

    def most_rows(self, chunk: int, limit_s: float) -> int:
        """As many as a step of `limit_s` holds; one where none does."""
        points = self.points[chunk]
        if points[-1][1] <= limit_s:
            return int(limit_s / points[-1][1] * points[-1][0]) if points[-1][1] else 1 << 30
        rows = 1
        while self.seconds(chunk, rows + 1) <= limit_s:
            rows += 1
        return rows

    def round(self, chunk: int, streams: int) -> float:
        """Seconds to step each of so many streams once: a step a phase, and none longer than it may be."""
        if not streams:
            return 0.0
        first = self.seconds(chunk, 1)
        most = self.most_rows(chunk, longest_step(chunk, first))
        steps = min(streams, max(phases(chunk, first), math.ceil(streams / most)))
        rows, more = divmod(streams, steps)
        return more * self.seconds(chunk, rows + 1) + (steps - more) * self.seconds(chunk, rows)

    def load(self, streams: Mapping[int, int]) -> float:
        """Share of all time that so many streams per chunk length take when each is stepped once a chunk.

        Chunks come at any moment, not together. The rows that wait are stepped as soon as the step before has ended, so
        steps grow until they keep up; the widest that they can need is that of all streams, one round a chunk.
        """
        return sum(self.round(chunk, count) / (chunk * FRAME_S) for chunk, count in streams.items())

    def fits(self, chunk: int, max_load: float) -> int:
        """Streams of `chunk`, with no others beside them, that take no more than `max_load` of the time."""
        least, most = 0, 1
        while self.load({chunk: most}) <= max_load and most < 1 << 20:
            least, most = most, 2 * most
        while most - least > 1:
            middle = (least + most) // 2
            least, most = (middle, most) if self.load({chunk: middle}) <= max_load else (least, middle)
        return least


class Stopwatch:
    """Times steps by the wall, and by the processor's work where steps are nothing but that."""

    def __init__(self, clock: Clock, busy: Clock | None = None) -> None:
        self._clock, self._busy = clock, busy
        self._wall = self._work = 0.0

    def time(self, step: Callable[[], None]) -> float:
        """Seconds that it took."""
        worked = self._busy() if self._busy else 0.0
        start = self._clock()
        step()
        took = self._clock() - start
        if self._busy:
            self._wall, self._work = self._wall + took, self._work + self._busy() - worked
        return took

    @property
    def disturbed(self) -> float:
        """Wall seconds a processor second: one or less on a machine that does nothing else, whatever the threads."""
        return self._wall / self._work if self._wall > LEAST_S and self._work else 1.0


def measure(
    backend: Backend, chunks: Iterable[int], clock: Clock, longest_s: float, busy: Clock | None = None
) -> Costs:
    """Step 1, 2, 4 ... rows of faint noise. Stops at steps too long to be ever planned, and where a line goes on.

    All of it is done more than once and the shortest time counts, so that what else the machine did at one moment is
    not in it. `busy` is this process's processor seconds, where steps are nothing but that.
    """
    noise, watch = np.random.default_rng(0), Stopwatch(clock, busy)
    best: dict[int, dict[int, float]] = {chunk: {} for chunk in sorted(set(chunks))}
    for _ in range(PASSES):
        for chunk, known in best.items():
            too_long_s = min(longest_s, chunk * FRAME_S)
            for rows in _sizes(min(backend.slots, MOST_ROWS)):
                if _bound(known, rows) <= too_long_s or rows not in known:
                    known[rows] = min(known.get(rows, math.inf), _step_s(backend, chunk, rows, noise, watch))
                if backend.contiguous:
                    too_long_s = min(too_long_s, longest_step(chunk, known[1]))
                if _bound(known, rows) > too_long_s or _flat(chunk, known, rows):
                    break
    return Costs(_plausible(best), watch.disturbed)


def keep_busy(backend: Backend, over: Callable[[], bool]) -> None:
    """Step a few rows of the shortest chunks until it is over: what the machine does while others are measured."""
    chunk, rows = min(backend.config.chunks), min(BUSY_ROWS, backend.slots)
    for slot in range(rows):
        backend.open(slot)
    step = 0
    while not over():
        sound = np.full(samples_needed(step, chunk), 0.01, np.float32)
        _stepped(backend, chunk, [Row(slot, sound) for slot in range(rows)])
        step += 1


def _bound(known: Mapping[int, float], rows: int) -> float:
    """The least of what the rows took, together or as narrower steps."""
    return min((known[narrower] * rows / narrower for narrower in known if narrower <= rows), default=0.0)


def _plausible(best: Mapping[int, Mapping[int, float]]) -> dict[int, tuple[tuple[int, float], ...]]:
    """More rows never cost less, nor more than the same rows would in narrower steps, in longer chunks, or in as many
    shorter ones, one after the other.

    A figure outside of that is of a moment at which the machine was busy with something else, and would keep streams
    apart for the daemon's life.
    """
    table: dict[int, tuple[tuple[int, float], ...]] = {}
    longer: Mapping[int, float] = {}
    for chunk in sorted(best, reverse=True):
        points: list[tuple[int, float]] = []
        for rows, took in sorted(best[chunk].items()):
            took = min([took, *(-(-chunk // c) * best[c].get(rows, math.inf) for c in best if c < chunk)])
            narrower, least = points[-1] if points else (rows, 0.0)
            most = least * rows / narrower if points else math.inf
            points.append((rows, min(max(took, least), most, longer.get(rows, math.inf))))
        longer = dict(points)
        table[chunk] = tuple(points)
    return dict(sorted(table.items()))


def _flat(chunk: int, known: Mapping[int, float], rows: int) -> bool:
    """Whether wider steps need not be tried: the states of their rows would only fill memory."""
    narrower = max((fewer for fewer in known if fewer < rows), default=0)
    return narrower * chunk >= FLAT_FRAMES and known[rows] / rows >= FLAT * known[narrower] / narrower > 0


def _sizes(slots: int) -> list[int]:
    return sorted({*(2**k for k in range(int(math.log2(slots)) + 1)), slots})


def _step_s(backend: Backend, chunk: int, rows: int, noise: np.random.Generator, watch: Stopwatch) -> float:
    """The shortest of some steps."""
    for slot in range(rows):
        backend.open(slot)
    best, spent = math.inf, 0.0
    for step in range(1 + TIMED_STEPS):
        if step > 1 and spent > TIMED_S:
            break
        samples = samples_needed(step, chunk)
        sounds = [noise.normal(0, 0.01, samples).astype(np.float32) for _ in range(min(rows, SOUNDS))]
        batch = [Row(slot, sounds[slot % SOUNDS]) for slot in range(rows)]
        took = watch.time(partial(_stepped, backend, chunk, batch))
        best, spent = (min(best, took), spent + took) if step else (best, spent)
    return best


def _stepped(backend: Backend, chunk: int, batch: Sequence[Row]) -> None:
    for result in backend.collect(backend.launch(chunk, batch)):
        if isinstance(result, Exception):
            raise result
