"""Step costs as a page: milliseconds by rows and latency, and the streams that fit. Measures nothing itself."""

from __future__ import annotations

from models.config import FRAME_S
from streamer.bench.machine import machine
from streamer.engine.capacity import Admission
from streamer.engine.costs import Costs, longest_step


def table(admission: Admission, max_load: float, title: str, about: dict[str, str]) -> str:
    """Rows of a step down, latencies across, as Markdown. `about`: what the steps were made with."""
    costs = admission.costs
    chunks = sorted(costs.points)
    measured = {chunk: dict(costs.points[chunk]) for chunk in chunks}
    lines = [["rows", *(f"{1000 * FRAME_S * chunk:.0f} ms" for chunk in chunks)], ["---:"] * (1 + len(chunks))]
    for rows in sorted({rows for points in measured.values() for rows in points}):
        lines.append([str(rows), *(_ms(measured[chunk].get(rows)) for chunk in chunks)])
    lines.append(["most rows of a step", *(str(_most(costs, chunk)) for chunk in chunks)])
    lines.append([f"**streams that fit at {max_load:.0%}**", *(f"**{admission.fits(c)}**" for c in chunks)])
    text = "".join("| " + " | ".join(line) + " |\n" for line in lines)
    ends = "".join(f"- {name}: {value}\n" for name, value in (*about.items(), *machine()))
    said = "Milliseconds of a step by its rows, all engines at work; a column ends where wider steps are of no use."
    return f"# {title}\n\n{said}\n\n{text}\n{ends}"


def _most(costs: Costs, chunk: int) -> int:
    return costs.most_rows(chunk, longest_step(chunk, costs.seconds(chunk, 1)))


def _ms(seconds: float | None) -> str:
    return "" if seconds is None else f"{1000 * seconds:.2f}"
