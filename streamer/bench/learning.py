"""How a model learnt: dev word error rates and losses over minutes of training, from what its runs printed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from streamer.bench.plot import Curve, Points, linear, picture

REPORT = re.compile(r"^\S+ \S+ ([\d.]+) min, step \d+, .*\bloss ([\d.]+)")
DEV = re.compile(r"\bdev WER (\S.*?) ([\d.]+) \(")
POINTS = 120  # of a loss curve: each is the mean of the reports in its part


@dataclass(slots=True)
class Run:
    """One run; a stage's minutes begin at 0 and are counted on."""

    name: str
    minutes: float = 0.0
    losses: Points = field(default_factory=list)
    rates: dict[str, Points] = field(default_factory=dict)  # percent by what was heard: "ctc", "rnnt at 80 ms"


def read(name: str, lines: Iterable[str]) -> Run:
    """What a run printed; raises ValueError where there is no report of a trainer in it."""
    run, before, stage = Run(name), 0.0, 0.0
    for line in lines:
        if found := REPORT.search(line):
            at = float(found[1])
            stage, before = stage + (before if at < before else 0.0), at
            run.minutes = stage + at
            run.losses.append((run.minutes, float(found[2])))
        elif found := DEV.search(line):
            run.rates.setdefault(found[1], []).append((run.minutes, 100 * float(found[2])))
    if not run.losses:
        raise ValueError(f"{name}: got no line of a training run, expected what streamer train printed")
    return run


def drawn(title: str, runs: Sequence[Run]) -> str:
    """The runs one after another: rates of all of them as one curve each, losses a curve a run."""
    starts = [sum(run.minutes for run in runs[:number]) for number in range(len(runs))]
    rates: dict[str, Points] = {}
    for start, run in zip(starts, runs, strict=True):
        for way, points in run.rates.items():
            rates.setdefault(way, []).extend((start + at, rate) for at, rate in points)
    losses = [
        Curve(run.name, [(start + at, loss) for at, loss in _thinned(run.losses)])
        for start, run in zip(starts, runs, strict=True)
    ]
    end = starts[-1] + runs[-1].minutes
    highest = max((loss for run in runs for _, loss in run.losses), default=1.0)
    curves = [Curve(way, points) for way, points in sorted(rates.items())]
    panels = [
        linear("Words wrong, dev", curves, (0.0, end), (0.0, 100.0), " %", "minutes"),
        linear("Loss, nats a label", losses, (0.0, end), (0.0, highest), "", "minutes"),
    ]
    return picture(title, panels)


def _thinned(points: Points) -> Points:
    """Means of parts of equal size."""
    count = min(POINTS, len(points))
    edges = [len(points) * number // count for number in range(count + 1)]
    parts = [points[a:b] for a, b in pairwise(edges)]
    return [(sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in parts]
