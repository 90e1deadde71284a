"""cpu-peers.md of what cpu.json has: one table for each size and precision. Knows nothing of how it was measured."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from streamer.bench import peers
from streamer.bench.machine import machine
from streamer.bench.peers import PEER, SIDES, Book, Cell, PeerError

NAME = "cpu-peers.md"
NOT_RUN = "not run"
FLOORS = """
## Floors

Processor time of the encoder's matrix products of one step and nothing else, one thread, in ms: fp32 by MatMul, int8 by
MatMulIntegerToFloat (unsigned rows, signed columns, nothing quantised on the way). `streamer bench floor`.
"""
MODELS = {"large": "114 M, 17x512", "small": "14 M, 16x176"}
HEADS = (
    "latency", "threads", "streams", "streams per core: ours", PEER, "ratio (median)", "target", "floor",
    "times the floor", "step p50 / p95, ms: ours", PEER, "memory, MB: ours", PEER, "tokens a second: ours", PEER,
)  # fmt: skip
LEAD = f"""# CPU: our step beside {PEER}'s

Written by `streamer bench peers`; how it is measured and how to repeat it: [cpu.md](cpu.md). Same random weights, same
audio, all streams of a row stepping together; each run in a process of its own, ours and theirs in turn.

- streams per core: seconds of audio of all streams for a second of processor time; the best of the rounds
- ratio: ours over theirs, of the best rounds, and in brackets of the median ones; above 1 ours needs less
- floor: streams per core if a step were its matrix products alone; times the floor: how much more a step takes
- step: from samples to tokens, wall time; memory: of the process when it ends, and in brackets the most it ever had
"""


def aim(book: Book, text: str) -> None:
    """Keep a target, written CELLS=RATIO; cells are named like large/fp32/80ms/8/1t, with * for any."""
    cells, _, number = text.rpartition("=")
    try:
        book.section("targets")[cells] = float(number)
    except ValueError:
        raise PeerError(f"--target {text}: got {number!r} after the =, expected a number") from None
    if not cells:
        raise PeerError(f"--target {text}: expected CELLS=RATIO")


def save(book: Book, out: Path) -> Path:
    """Write the report, and keep the book; where the report is."""
    book.save()
    path = out / NAME
    path.write_text(render(book.kept), "utf-8")
    return path


def render(kept: dict[str, Any]) -> str:
    """The whole report."""
    text = LEAD
    for size in peers.SIZES:
        for precision in peers.PRECISIONS:
            chosen = peers.cells([size], [precision], peers.LATENCIES, peers.STREAMS, peers.THREADS)
            rows = [row(cell, kept) for cell in sorted(chosen, key=lambda cell: (cell.latency_ms, cell.threads))]
            text += "\n".join([f"\n## {MODELS[size]}, {precision}", "", *table(HEADS, rows)]) + "\n"
    text += FLOORS + "\n" + "\n".join(floors(kept)) + "\n"
    return text + "\n" + "\n".join(f"- {name}: {value}" for name, value in about(kept)) + "\n"


def row(cell: Cell, kept: dict[str, Any]) -> list[str]:
    """A cell's line."""
    where = [f"{cell.latency_ms} ms", str(cell.threads), str(cell.streams)]
    record = kept.get("cells", {}).get(cell.name)
    if not record or "error" in record or not all(record[side] for side in SIDES):
        said = f"failed: {record['error']}" if record and "error" in record else NOT_RUN
        return where + [said] + [""] * (len(HEADS) - len(where) - 1)
    ours, theirs = (record[side] for side in SIDES)
    speeds = [peers.streams_per_core(runs, cell.streams) for runs in (ours, theirs)]
    found = peers.ratio(record)
    return [
        *where,
        *(f"{speed:.1f}" for speed in speeds),
        f"**{found:.2f}** ({peers.ratio(record, peers.middle):.2f})",
        target(cell, kept, found),
        *floor(cell, kept, speeds[0]),
        *(f"{peers.best(runs, 'step_ms_p50'):.1f} / {peers.best(runs, 'step_ms_p95'):.1f}" for runs in (ours, theirs)),
        *(memory(runs) for runs in (ours, theirs)),
        *(f"{runs[0]['tokens'] / runs[0]['audio_s'] / cell.streams:.1f}" for runs in (ours, theirs)),
    ]


def memory(runs: Sequence[dict[str, Any]]) -> str:
    if "rss_mb" not in runs[0]:
        return "-"
    return f"{peers.middle(runs, 'rss_mb'):.0f} ({peers.middle(runs, 'peak_mb'):.0f})"


def target(cell: Cell, kept: dict[str, Any], found: float) -> str:
    """The highest ratio that somebody asked of the cell, and whether it is reached."""
    wanted = [ratio for cells, ratio in kept.get("targets", {}).items() if fnmatch.fnmatch(cell.name, cells)]
    if not wanted:
        return ""
    return f"{max(wanted):g}: {'reached' if found >= max(wanted) else 'missed'}"


def floor(cell: Cell, kept: dict[str, Any], speed: float) -> list[str]:
    """Streams per core of the products alone, and how many times that our step takes; they are of one thread."""
    record = kept.get("floor", {}).get(floor_name(cell))
    if record is None or cell.threads != 1:
        return ["" if cell.threads != 1 else NOT_RUN] * 2
    least = cell.streams * cell.chunk_s / record["seconds"]
    return [f"{least:.0f}", f"{least / speed:.1f}"]


def floors(kept: dict[str, Any]) -> list[str]:
    """The floors as a table: models down, latencies and numbers of streams across."""
    shapes = [(latency_ms, streams) for latency_ms in peers.LATENCIES for streams in peers.STREAMS]
    rows = []
    for size, precision in ((size, precision) for size in reversed(peers.SIZES) for precision in peers.PRECISIONS):
        found = [kept.get("floor", {}).get(floor_name(Cell(size, precision, *shape, 1))) for shape in shapes]
        times = [f"{1000 * one['seconds']:.2f}" if one else NOT_RUN for one in found]
        rows.append([f"{MODELS[size]}, {precision}", *times])
    return table(["", *(f"{latency_ms} ms x {streams}" for latency_ms, streams in shapes)], rows)


def floor_name(cell: Cell) -> str:
    """A floor has no threads."""
    return cell.name.rpartition("/")[0]


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """As Markdown."""
    lines = (heads, ["---"] * len(heads), *rows)
    return ["| " + " | ".join(cell.replace("|", "/") for cell in line) + " |" for line in lines]


def about(kept: dict[str, Any]) -> list[tuple[str, str]]:
    """The machines and versions of what was measured, and the present one's."""
    records = [record for record in kept.get("cells", {}).values() if all(record[side] for side in SIDES)]
    found = {
        "measured on": {f"{record['machine']}, {record['date']}" for record in records},
        "engines": {record[side][0]["version"] for record in records for side in SIDES},
    }
    return [(name, "; ".join(sorted(values)) or NOT_RUN) for name, values in found.items()] + [
        (f"{name} that wrote this" if name == "machine" else name, value) for name, value in machine()
    ]
