"""Which streams are stepped together, and next. A pure function: no clock, no threads, no model.

A chunk is owed from the moment a real-time client has sent it; before that (a file sent as fast as it goes) it is
ahead. Owed chunks go first, the earliest first, where what somebody waits for (finalize, close) counts as owed one
budget earlier: no more than that, so that nobody's finalizes can hold up the others. Chunks ahead of real time use what
time is left, in steps short enough that nobody notices.

Where a backend takes several chunks of a stream at once (`most_chunks`), rows are stepped by as many as all of their
batch have waiting: more than one where they are ahead, or all are behind. Rows that have their end go together by
themselves, to the end of the longest.

A step of neighbours computes the slots between its rows as well, and chunks come at any moment: rows that wait lie
anywhere among the slots, and a step is nearly as wide as all of them. So such steps are cut (`longest_step`): a row
waits for the end of the step before and for that of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from streamer.engine.costs import longest_step
from streamer.engine.stream import Ready

Cost = Callable[[int, int], float]  # frames, rows -> seconds of a step
RowsCost = Callable[[int], float]  # rows -> seconds of a step of so many frames as it is about
AHEAD_SHARE = 0.25  # of the budget: the longest step of chunks that are ahead
GATHER_S = 0.02  # that a row waits for its neighbours, whose chunks may come in a moment
IDLE_S = 0.04  # without a step: nobody's neighbours are about to come
GATHER_SHARE = 0.125  # of the budget, where that is less


def _one(_chunk: int) -> int:
    return 1


@dataclass(frozen=True, slots=True)
class Machine:
    """What a step costs, how long one may take, whether it covers a range of neighbouring slots, and by their length
    how many chunks of a stream it takes."""

    cost: Cost
    budget_s: float
    contiguous: bool
    most_chunks: Callable[[int], int] = _one


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of one step, in the order of their slots on a contiguous machine."""

    chunk: int
    rows: tuple[Ready, ...]
    ahead: bool = False
    chunks: int = 1  # of each row; fewer of one that ends


def plan(now: float, waiting: Iterable[Ready], machine: Machine) -> list[Batch]:
    """Every waiting row in one batch, the batches in the order in which they should run."""
    groups: dict[tuple[bool, int, bool], list[Ready]] = {}
    for row in waiting:
        to_its_end = row.ends and min(row.chunks, machine.most_chunks(row.chunk)) > 1
        groups.setdefault((row.due > now, row.chunk, to_its_end), []).append(row)
    batches: list[Batch] = []
    for (ahead, chunk, to_their_end), rows in groups.items():
        limit_s = min(_limit(chunk, machine), machine.budget_s * (AHEAD_SHARE if ahead else 1.0))
        rows.sort(key=lambda row: _urgency(row, machine))
        first = _at_once(rows, max, 1, machine, limit_s) if to_their_end else 1
        cut = _ranges if machine.contiguous else _lists
        for part in cut(rows, partial(machine.cost, chunk * first), limit_s):
            width = part[-1].slot - part[0].slot + 1 if machine.contiguous else len(part)
            chunks = first if to_their_end else _at_once(part, min, width, machine, limit_s)
            batches.append(Batch(chunk, tuple(part), ahead, chunks))
    return sorted(batches, key=lambda batch: (batch.ahead, min(_urgency(row, machine) for row in batch.rows)))


def hold_s(now: float, began: float, waiting: Iterable[Ready], machine: Machine) -> float:
    """How long the next step had better wait so that rows that come meanwhile share it; `began`: the last one did.

    A step computes its idle neighbours, too, so that steps of a few rows take all of the processors for a few streams.
    Rows gather for a moment, unless somebody waits for a final, one has waited for that long, all are ahead, or the
    machine has so little to do that the last step is long ago.
    """
    oldest = math.inf
    for row in waiting:
        if row.closing:
            return 0.0
        oldest = min(oldest, row.due)
    if oldest > now or not machine.contiguous or now - began > IDLE_S:
        return 0.0
    return max(0.0, oldest + min(GATHER_S, GATHER_SHARE * machine.budget_s) - now)


def _at_once(
    rows: Sequence[Ready], of: Callable[[Iterable[int]], int], width: int, machine: Machine, limit_s: float
) -> int:
    """Chunks a row: the fewest, or the most, that any of the rows has, in a step that is not too long."""
    chunk = rows[0].chunk
    chunks = min(of(row.chunks for row in rows), machine.most_chunks(chunk))
    while chunks > 1 and machine.cost(chunk * chunks, width) > limit_s:
        chunks -= 1
    return chunks


def _limit(chunk: int, machine: Machine) -> float:
    """Seconds that a step may take."""
    if not machine.contiguous:
        return machine.budget_s
    return min(machine.budget_s, longest_step(chunk, machine.cost(chunk, 1)))


def _urgency(row: Ready, machine: Machine) -> float:
    return row.due - (machine.budget_s if row.closing else 0.0)


def _lists(rows: Sequence[Ready], cost: RowsCost, limit_s: float) -> list[list[Ready]]:
    """Rows together in their order, as many as a step of `limit_s` holds; then the next."""
    parts: list[list[Ready]] = []
    for row in rows:
        if parts and cost(len(parts[-1]) + 1) <= limit_s:
            parts[-1].append(row)
        else:
            parts.append([row])
    return parts


def _ranges(rows: Sequence[Ready], cost: RowsCost, limit_s: float) -> list[list[Ready]]:
    """Neighbours together; a gap is bridged where one wider step costs less than two."""
    parts: list[list[Ready]] = []
    for row in sorted(rows, key=lambda row: row.slot):
        if parts and _worth(parts[-1], row, cost, limit_s):
            parts[-1].append(row)
        else:
            parts.append([row])
    return parts


def _worth(part: list[Ready], row: Ready, cost: RowsCost, limit_s: float) -> bool:
    so_far = part[-1].slot - part[0].slot + 1
    wider = cost(row.slot - part[0].slot + 1)
    return wider <= limit_s and wider <= cost(so_far) + cost(1)
