"""Whether one more stream still fits: by what steps were measured to cost, and by what they cost of late.

Several engines may share one Admission. Knows no clock; time comes in as a value.
"""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Mapping, Sequence

from models.config import FRAME_S
from streamer.backends.base import Backend
from streamer.engine.costs import Clock, Costs, measure
from streamer.engine.results import EngineSettings, Step

__all__ = ["Admission", "Clock", "Costs", "Watch", "measure", "most_streams"]

PRIOR_S = 2.0  # the table counts as so many seconds of steps that took what it says
STEPS_S = 10.0  # and steps are forgotten after about so many seconds of later ones
# Where engines share the processors with the sockets' thread, steps of a full load take so many times what those of few
# streams do (docs/log.md): until the load is there it is not seen, and then it is too late.
CROWDED = 1.4
MOST_PACE = 4.0  # times the table: beyond it something else is wrong
LATE_S = 5.0  # lateness is forgotten after about this
LATE_SHARE = 0.05  # of the chunks: more that are later than the budget and than a chunk lasts, and nobody comes in
# Beside its steps a stream costs what its sockets do: about this share of a processor, with messages of 20 ms
# (docs/benchmarks/overhead.md), until it is seen what it does here.
SERVING = 0.006
SERVING_PRIOR_S = 60.0  # streams times seconds for which that counts
SERVING_S = 10.0  # what is seen is forgotten after about this
LATE_ROWS = 150.0  # fewer chunks than this say nothing: one stall of a moment is no load


class Watch:
    """What steps cost and how late chunks were in the last seconds. The table is of a moment; this is of now.

    So a table from a busy minute gives way to what is seen, and so does one from an idle machine that others use now.
    """

    def __init__(self, crowded: float = 1.0, full: float = 1.0) -> None:
        """`crowded`: how many times as long steps take where they fill the share `full` of the time as where few do."""
        self._crowded, self._full = crowded, full
        self._expected_s = self._took_s = 0.0
        self._busy_s = 0.0  # of the last LATE_S
        self._rows = self._late = 0.0
        self._at = -math.inf

    def stepped(self, expected_s: float, took_s: float) -> None:
        """A step ended: its time by the table, and the time it took."""
        keep = math.exp(-took_s / STEPS_S)
        self._expected_s, self._took_s = self._expected_s * keep + expected_s, self._took_s * keep + took_s
        self._busy_s += took_s

    def ended(self, now: float, late_s: Sequence[float], fine_s: float) -> None:
        """So late were chunks that came as they were spoken, and up to `fine_s` is fine."""
        self._fade(now)
        self._rows += len(late_s)
        self._late += sum(late > fine_s for late in late_s)

    @property
    def pace(self) -> float:
        """How many times what the table says steps take, or would if they filled the time."""
        seen = (PRIOR_S + self._took_s) / (PRIOR_S + self._expected_s)
        unseen = max(0.0, 1.0 - self._busy_s / LATE_S / self._full)
        return min(MOST_PACE, max(1 / MOST_PACE, seen * (1.0 + (self._crowded - 1.0) * unseen)))

    def late(self, now: float) -> float:
        """Share of the chunks that were later than is fine; 0 where there were too few to say."""
        self._fade(now)
        return self._late / self._rows if self._rows >= LATE_ROWS else 0.0

    def _fade(self, now: float) -> None:
        if now > self._at:
            keep = math.exp((self._at - now) / LATE_S)
            self._rows, self._late, self._busy_s = self._rows * keep, self._late * keep, self._busy_s * keep
            self._at = now


class Serving:
    """What streams cost beside their steps, from the processor time of the thread that serves them."""

    def __init__(self) -> None:
        self._seen: tuple[float, float] | None = None  # when it was looked at, and the processor time then
        self._worked_s = self._stream_s = 0.0

    def looked(self, now: float, worked_s: float, streams: int) -> None:
        """The thread has worked for so long altogether, and serves so many streams."""
        if self._seen is not None:
            spent = now - self._seen[0]
            keep = math.exp(-spent / SERVING_S)
            self._worked_s = self._worked_s * keep + worked_s - self._seen[1]
            self._stream_s = self._stream_s * keep + streams * spent
        self._seen = now, worked_s

    @property
    def share(self) -> float:
        """Of a processor, for each stream."""
        return (SERVING_PRIOR_S * SERVING + self._worked_s) / (SERVING_PRIOR_S + self._stream_s)


class Admission:
    """Who comes in: as many as the steps' time, the processors, lateness and the memory allow."""

    def __init__(self, costs: Costs, settings: EngineSettings, most: int, lanes: int = 1) -> None:
        """`most`: streams that memory has room for; `lanes`: engines that they are spread over evenly."""
        self.costs, self.most, self.lanes = costs, most, lanes
        self.streams: Counter[int] = Counter()  # that are heard now, by their chunk's length
        self._settings, self._serving = settings, Serving()
        self._watch = Watch(CROWDED, settings.max_load) if settings.processors else Watch()
        self._lock = threading.Lock()

    def came(self, chunk: int) -> None:
        """A stream of this chunk length is heard from here on."""
        with self._lock:
            self.streams[chunk] += 1

    def left(self, chunk: int) -> None:
        """One of them has gone."""
        with self._lock:
            self.streams[chunk] -= 1

    def stepped(self, now: float, step: Step) -> None:
        """What a step was like."""
        if not step.failed:
            with self._lock:
                # Of several engines' steps each says as much about the pace as those of one would in that time.
                self._watch.stepped(step.expected_s / self.lanes, step.seconds / self.lanes)
                self._watch.ended(now, step.live_late_s, max(self._settings.budget_s, step.chunk * FRAME_S))

    def served(self, now: float, worked_s: float) -> None:
        """Processor seconds, so far, of the thread that serves the streams' sockets."""
        with self._lock:
            self._serving.looked(now, worked_s, self.streams.total())

    def load(self, streams: Mapping[int, int]) -> float:
        """Share of the time that an engine steps with so many streams, or that the processors are at work, sockets
        included, whichever is more."""
        own, count = self._settings, sum(streams.values())
        steps = self._watch.pace * self.costs.load({c: math.ceil(n / self.lanes) for c, n in streams.items()})
        if not own.processors:
            return steps
        return max(steps, (self.lanes * own.threads * steps + count * self._serving.share) / own.processors)

    def fits(self, chunk: int) -> int:
        """Streams of `chunk`, with none beside them, that are kept on time as steps are now."""
        least, most = 0, self.most + 1
        while most - least > 1:
            middle = (least + most) // 2
            least, most = (middle, most) if self.load({chunk: middle}) <= self._settings.max_load else (least, middle)
        return least

    def refusal(self, now: float, streams: Mapping[int, int], chunk: int) -> str | None:
        """Why one more stream of `chunk` does not fit, in words; None if it does."""
        count, own = sum(streams.values()), self._settings
        if count >= self.most:
            return f"{count} streams are heard now, expected fewer: all slots are taken; try again later"
        if count and (late := self._watch.late(now)) > LATE_SHARE:
            behind = f"{late:.0%} of their chunks are late by more than {1000 * own.budget_s:.0f} ms and a chunk's time"
            return f"{count} streams are heard now, {behind}, expected at most {LATE_SHARE:.0%}; try again later"
        if (load := self.load({**streams, chunk: streams.get(chunk, 0) + 1})) <= own.max_load:
            return None
        more = f"{count} streams are heard now and one more would take {load:.0%} of the time"
        fit = f"of {1000 * chunk * FRAME_S:.0f} ms {self.fits(chunk)} fit"
        return f"{more}, expected at most {own.max_load:.0%}; {fit}; try again later"


def most_streams(backend: Backend, slots: int, memory_bytes: int | None) -> int:
    """As many as find a slot, and as memory holds, where it is limited. No stream is open yet."""
    if memory_bytes is None:
        return slots
    backend.open(0)
    return max(1, min(slots, memory_bytes // sum(array.nbytes for array in backend.take(0).arrays.values())))
