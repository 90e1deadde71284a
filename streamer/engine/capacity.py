"""Whether one more stream still fits: by what steps were measured to cost, and by what they cost of late.

Knows no threads and no clock; time comes in as a value.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from models.config import FRAME_S
from streamer.backends.base import Backend
from streamer.engine.costs import Clock, Costs, measure
from streamer.engine.results import EngineSettings, Step

__all__ = ["Admission", "Clock", "Costs", "Watch", "measure", "most_streams", "refusal"]

PRIOR_S = 2.0  # the table counts as so many seconds of steps that took what it says
STEPS_S = 10.0  # and steps are forgotten after about so many seconds of later ones
MOST_PACE = 4.0  # times the table: beyond it something else is wrong
LATE_S = 5.0  # lateness is forgotten after about this
LATE_SHARE = 0.05  # of the chunks: more that are later than the budget and than a chunk lasts, and nobody comes in
LATE_ROWS = 150.0  # fewer chunks than this say nothing: one stall of a moment is no load


class Watch:
    """What steps cost and how late chunks were in the last seconds. The table is of a moment; this is of now.

    So a table from a busy minute gives way to what is seen, and so does one from an idle machine that others use now.
    """

    def __init__(self) -> None:
        self._expected_s = self._took_s = 0.0
        self._rows = self._late = 0.0
        self._at = -math.inf

    def stepped(self, expected_s: float, took_s: float) -> None:
        """A step ended: its time by the table, and the time it took."""
        keep = math.exp(-took_s / STEPS_S)
        self._expected_s, self._took_s = self._expected_s * keep + expected_s, self._took_s * keep + took_s

    def ended(self, now: float, late_s: Sequence[float], fine_s: float) -> None:
        """So late were chunks that came as they were spoken, and up to `fine_s` is fine."""
        self._fade(now)
        self._rows += len(late_s)
        self._late += sum(late > fine_s for late in late_s)

    @property
    def pace(self) -> float:
        """How many times what the table says steps take."""
        pace = (PRIOR_S + self._took_s) / (PRIOR_S + self._expected_s)
        return min(MOST_PACE, max(1 / MOST_PACE, pace))

    def late(self, now: float) -> float:
        """Share of the chunks that were later than is fine; 0 where there were too few to say."""
        self._fade(now)
        return self._late / self._rows if self._rows >= LATE_ROWS else 0.0

    def _fade(self, now: float) -> None:
        if now > self._at:
            keep = math.exp((self._at - now) / LATE_S)
            self._rows, self._late, self._at = self._rows * keep, self._late * keep, now


def refusal(streams: Mapping[int, int], chunk: int, costs: Costs, max_load: float, pace: float = 1.0) -> str | None:
    """Why one more stream of `chunk` does not fit, in words; None if it does. Steps take `pace` times their costs."""
    wanted = dict(streams)
    wanted[chunk] = wanted.get(chunk, 0) + 1
    load = pace * costs.load(wanted)
    if load <= max_load:
        return None
    count = sum(streams.values())
    more = f"{count} streams are heard now and one more would take {load:.0%} of the time"
    return f"{more}, expected at most {max_load:.0%}"


class Admission:
    """Who comes in: as many as the steps' time, their lateness and the memory allow."""

    def __init__(self, costs: Costs, settings: EngineSettings, most: int) -> None:
        """`most`: streams that memory has room for."""
        self.costs, self.most = costs, most
        self._settings, self._watch = settings, Watch()

    def stepped(self, now: float, step: Step) -> None:
        """What a step was like."""
        if not step.failed:
            self._watch.stepped(step.expected_s, step.seconds)
            self._watch.ended(now, step.live_late_s, max(self._settings.budget_s, step.chunk * FRAME_S))

    def fits(self, chunk: int) -> int:
        """Streams of `chunk`, with none beside them, that are kept on time as steps are now."""
        return min(self.most, self.costs.fits(chunk, self._settings.max_load / self._watch.pace))

    def refusal(self, now: float, streams: Mapping[int, int], chunk: int) -> str | None:
        """Why one more stream of `chunk` does not fit, in words; None if it does."""
        count, own = sum(streams.values()), self._settings
        if count >= self.most:
            return f"{count} streams are heard now, expected fewer: all slots are taken; try again later"
        if count and (late := self._watch.late(now)) > LATE_SHARE:
            behind = f"{late:.0%} of their chunks are late by more than {1000 * own.budget_s:.0f} ms and a chunk's time"
            return f"{count} streams are heard now, {behind}, expected at most {LATE_SHARE:.0%}; try again later"
        if (reason := refusal(streams, chunk, self.costs, own.max_load, self._watch.pace)) is None:
            return None
        return f"{reason}; of {1000 * chunk * FRAME_S:.0f} ms {self.fits(chunk)} fit; try again later"


def most_streams(backend: Backend, slots: int, memory_bytes: int | None) -> int:
    """As many as find a slot, and as memory holds, where it is limited. No stream is open yet."""
    if memory_bytes is None:
        return slots
    backend.open(0)
    return max(1, min(slots, memory_bytes // sum(array.nbytes for array in backend.take(0).arrays.values())))
