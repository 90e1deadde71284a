"""Measurements as a picture: SVG of our own; a load's delays, how they are distributed and how they went over time.

Knows nothing of files.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from streamer.bench.tally import Delays, Tally, quantile

WIDTH, LEFT, RIGHT = 760, 64, 20
PANEL, GAP, TOP = 190, 74, 64
BINS = 60  # of the time
POINTS = 240  # of a curve
SHOWN = 0.99  # of a distribution: the few longest would press all others to the left
_COLOURS = ("#1f6fb4", "#d1632a", "#3b8f4b", "#8757a8")
_TEXT, _GRID, _AXIS = "#333", "#e4e4e4", "#999"

Points = list[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Curve:
    """Named points, in the panel's own units."""

    name: str
    points: Points


@dataclass(frozen=True, slots=True)
class Panel:
    """One diagram: where its axes begin and end, where their lines are, what stands at them."""

    title: str
    x: tuple[float, float]
    y: tuple[float, float]
    x_marks: Sequence[tuple[float, str]]
    y_marks: Sequence[tuple[float, str]]
    curves: Sequence[Curve]
    x_name: str


def drawn(title: str, tally: Tally, more: Sequence[Panel] = ()) -> str:
    """The whole picture; `more` panels stand below."""
    service = [("chunk sent to partial", tally.chunks.seconds), ("finalize to final", tally.finalizes.seconds)]
    emission = [("to its first partial", tally.first.seconds), ("until stable", tally.stable.seconds)]
    panels = [
        distribution("Share of delays up to a length", service),
        distribution("From a word's end: share of words", emission),
        over_time(tally.chunks),
        *more,
    ]
    return picture(title, panels)


def picture(title: str, panels: Sequence[Panel]) -> str:
    """Diagrams one below the other."""
    height = TOP + len(panels) * (PANEL + GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'font-family="system-ui, sans-serif" font-size="12" fill="{_TEXT}">',
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
        f'<text x="{LEFT}" y="28" font-size="16" font-weight="600">{escape(title)}</text>',
    ]
    parts += [_panel(panel, TOP + number * (PANEL + GAP)) for number, panel in enumerate(panels)]
    return "\n".join([*parts, "</svg>\n"])


def distribution(title: str, kinds: Sequence[tuple[str, Sequence[float]]]) -> Panel:
    """The share of delays that are at most so long, without the longest hundredth."""
    curves = []
    for name, seconds in kinds:
        ordered = sorted(1000 * value for value in seconds)
        if ordered:
            shares = [SHOWN * number / POINTS for number in range(POINTS + 1)]
            curves.append(Curve(name, [(quantile(ordered, share), 100 * share) for share in shares]))
    ends = [point[0] for curve in curves for point in (curve.points[0], curve.points[-1])]
    across = _round_marks(min([0.0, *ends]), max([1.0, *ends]), "", 8)
    up = [(float(share), f"{share} %") for share in (0, 25, 50, 75, 100)]
    return Panel(title, (across[0][0], across[-1][0]), (0, 100), across, up, curves, "milliseconds")


def over_time(delays: Delays) -> Panel:
    """p50 and p95 of each sixtieth of the time."""
    end = max([1.0, *delays.at])
    bins: list[list[float]] = [[] for _ in range(BINS)]
    for at, seconds in zip(delays.at, delays.seconds, strict=True):
        bins[min(BINS - 1, max(0, int(BINS * at / end)))].append(1000 * seconds)
    filled = [((number + 0.5) * end / BINS, sorted(one)) for number, one in enumerate(bins) if one]
    curves = [Curve(f"p{percent}", [(at, quantile(one, percent / 100)) for at, one in filled]) for percent in (50, 95)]
    highest = max((value for curve in curves for _, value in curve.points), default=1.0)
    return linear("Chunk sent to partial, over time", curves, (0.0, end), (0.0, highest), " ms")


def linear(
    title: str,
    curves: Sequence[Curve],
    x: tuple[float, float],
    y: tuple[float, float],
    unit: str,
    x_name: str = "seconds",
) -> Panel:
    """A panel whose axes end at round numbers, over seconds or what else `x_name` says."""
    across, up = _round_marks(*x, "", 8), _round_marks(*y, unit, 5)
    return Panel(title, x, (up[0][0], up[-1][0]), [m for m in across if x[0] <= m[0] <= x[1]], up, curves, x_name)


def _round_marks(low: float, high: float, unit: str, most: int) -> list[tuple[float, str]]:
    """Round numbers from below `low` to above `high`, in about `most` steps."""
    span = max(high - low, 1e-9)
    steps = (digit * 10.0**power for power in range(-10, 13) for digit in (1, 2, 5))
    step = next(one for one in steps if span / one <= most)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [(number * step, f"{number * step:g}{unit}") for number in range(first, last + 1)]


def _panel(panel: Panel, top: float) -> str:
    right, bottom = WIDTH - RIGHT, top + PANEL

    def across(value: float) -> float:
        return LEFT + (right - LEFT) * (value - panel.x[0]) / max(panel.x[1] - panel.x[0], 1e-9)

    def up(value: float) -> float:
        return bottom - PANEL * (value - panel.y[0]) / max(panel.y[1] - panel.y[0], 1e-9)

    parts = [f'<text x="{LEFT}" y="{top - 12}" font-weight="600">{escape(panel.title)}</text>']
    for value, name in panel.y_marks:
        parts.append(_line(LEFT, up(value), right, up(value)))
        parts.append(f'<text x="{LEFT - 8}" y="{up(value) + 4:.1f}" text-anchor="end">{escape(name)}</text>')
    for value, name in panel.x_marks:
        parts.append(_line(across(value), top, across(value), bottom))
        parts.append(f'<text x="{across(value):.1f}" y="{bottom + 18}" text-anchor="middle">{escape(name)}</text>')
    parts.append(f'<path d="M{LEFT} {top}V{bottom}H{right}" fill="none" stroke="{_AXIS}"/>')
    parts.append(f'<text x="{right}" y="{bottom + 34}" text-anchor="end" fill="{_AXIS}">{escape(panel.x_name)}</text>')
    for curve, colour in zip(panel.curves, _COLOURS, strict=False):
        way = "L".join(f"{across(x):.1f} {up(y):.1f}" for x, y in curve.points)
        parts.append(f'<path d="M{way}" fill="none" stroke="{colour}" stroke-width="1.8" stroke-linejoin="round"/>')
    return "\n".join([*parts, *_legend(panel, top)])


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{_GRID}"/>'


def _legend(panel: Panel, top: float) -> list[str]:
    """The curves' names, right above the panel, from the right end on."""
    parts, at = [], float(WIDTH - RIGHT)
    for curve, colour in reversed(list(zip(panel.curves, _COLOURS, strict=False))):
        parts.append(f'<text x="{at:.0f}" y="{top - 12}" text-anchor="end" fill="{colour}">{escape(curve.name)}</text>')
        at -= 7 * len(curve.name) + 14
    return parts
