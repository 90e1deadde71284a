"""cpu-sockets.md of what cpu.json has: the most streams each server sustained. Knows nothing of how they are served."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from streamer.bench import peers
from streamer.bench.machine import machine
from streamer.bench.peer_report import MODELS, NOT_RUN, table
from streamer.bench.peer_sockets import SECTION, cell_name, passed
from streamer.bench.peers import PEER, SIDES, Book, Cell

NAME = "cpu-sockets.md"
HEADS = (
    "model", "latency", "server", "most streams", "fewest not sustained", "late p50 / p95, ms", "last word p95, ms",
    "processor seconds for a second of audio", "memory, MB", "news a second", "processors: server", "load",
)  # fmt: skip
LEAD = f"""# CPU: our daemon beside {PEER}'s server

Written by `streamer bench peers --sockets`; how it is measured and how to repeat it: [cpu.md](cpu.md). The same random
weights, the same real recordings in real time, clients on the same machine, each run with a server of its own, ours and
theirs in turn. The figures of a row are those of the largest number of streams that was sustained.

- late: from the message that held the last sample which the server needed for a chunk, until the message with the
  chunk's new tokens; a number of streams is sustained while p95 is within a chunk and no stream fails
- last word: from the end of the audio until the server has said everything
- processors: how many were busy with the server, and with the load
"""


def save(book: Book, out: Path) -> Path:
    """Write the report, and keep the book; where the report is."""
    book.save()
    path = out / NAME
    path.write_text(render(book.kept), "utf-8")
    return path


def render(kept: dict[str, Any]) -> str:
    """The whole report."""
    rows = []
    for cell in peers.cells(peers.SIZES, peers.PRECISIONS, peers.LATENCIES, [1], [1]):
        record = kept.get(SECTION, {}).get(cell_name(cell), {})
        rows += [row(cell, side, record) for side in SIDES]
    records = kept.get(SECTION, {}).values()
    found = sorted({f"{one['machine']}, {one['date']}" for one in records})
    flags = sorted({" ".join(one["flags"]) for one in records} - {""})
    about = [("measured on", "; ".join(found) or NOT_RUN), (f"flags of {PEER}'s server", "; ".join(flags) or "none")]
    lines = [f"- {name}: {value}" for name, value in (*about, *machine())]
    return LEAD + "\n" + "\n".join([*table(HEADS, rows), "", *lines]) + "\n"


def row(cell: Cell, side: str, record: dict[str, Any]) -> list[str]:
    """One server's line."""
    where = [f"{MODELS[cell.size]}, {cell.precision}", f"{cell.latency_ms} ms", side]
    tried = record.get(side, [])
    good = [one for one in tried if not passed(one, cell)]
    least = {one["streams"] for one in tried} - {one["streams"] for one in good}
    if not good:
        said = f"failed: {record['error']}" if "error" in record else "none" if tried else NOT_RUN
        return [*where, said, str(min(least)) if least else ""] + [""] * (len(HEADS) - 5)
    most = max(good, key=lambda one: one["streams"])
    return [
        *where,
        str(most["streams"]),
        str(min(least)) if least else "",
        pair(most, "late"),
        f"{1000 * most['final_p95_s']:.0f}",
        f"{most['server_cpu'] / most['streams']:.4f}",
        "-" if most["rss_mb"] is None else f"{most['rss_mb']:.0f}",
        f"{most['news_a_second']:.1f}",
        f"{most['server_cpu']:.2f}",
        f"{most['load_cpu']:.2f}",
    ]


def pair(figures: dict[str, Any], name: str) -> str:
    low, high = (1000 * figures[f"{name}_{quantile}_s"] for quantile in ("p50", "p95"))
    return f"{low:.0f} / {high:.0f}"
