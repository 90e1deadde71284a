"""A load as it runs, for a person at a terminal: a few lines that are rewritten once a second.

Knows nothing of how the numbers are found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from streamer.bench.tally import Tally, spread

if TYPE_CHECKING:
    from rich.console import Group

LATEST = 2000  # delays that count as now

Show = Callable[[Tally, int | None], None]


@contextmanager
def view(title: str, wanted: bool) -> Iterator[Show]:
    """Draws on stderr where it is wanted; the figures so far and the daemon's bytes go in."""
    if not wanted:
        yield lambda _tally, _memory: None
        return
    from rich.console import Console
    from rich.live import Live

    with Live(console=Console(stderr=True), auto_refresh=False, transient=True) as live:
        yield lambda tally, memory: live.update(drawn(title, tally, memory), refresh=True)


def drawn(title: str, tally: Tally, memory: int | None) -> Group:
    """The lines: what runs, the latest delays, what came of the streams that have ended."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    table.add_column("milliseconds, of late")
    for head in ("p50", "p95", "p99", "so far"):
        table.add_column(head, justify="right")
    for name, seconds in (
        ("chunk sent to its partial", tally.chunks.seconds),
        ("a word's end to its partial", tally.first.seconds),
        ("finalize to final", tally.finalizes.seconds),
        ("our own lateness", tally.late),
    ):
        found = spread(seconds[-LATEST:])
        cells = (f"{found[part]:.0f}" if part in found else "-" for part in ("p50", "p95", "p99"))
        table.add_row(name, *cells, str(len(seconds)))
    held = f", the daemon holds {memory >> 20} MiB" if memory else ""
    streams = f"{tally.at:.0f} s: {sum(tally.open.values())} streams, {tally.sent} messages out, {tally.received} in"
    ended = ", ".join(f"{count} {how}" for how, count in sorted(tally.hows.items())) or "none ended"
    words = f"{tally.words} words, {tally.different} other, {tally.finals_lost} finals lost"
    return Group(Text(title, style="bold"), Text(streams + held), table, Text(f"{ended}; {words}"))
