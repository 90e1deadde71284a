"""`streamer bench soak`: minutes at a share of the daemon's own capacity. Is memory flat, do delays stay?"""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from streamer.commands import FAILED, OK, CommandError, command, say, whole
from streamer.commands.loading import Loading, Outcome, add_flags, publish, share

if TYPE_CHECKING:
    from streamer.bench.plot import Panel

MINUTE_S = 60.0


def add(verbs: Any) -> None:
    """The flags of the verb."""
    parser = command(
        verbs,
        "soak",
        "minutes at a share of the daemon's capacity: is memory flat, do delays stay",
        """
        streamer bench soak --latency 80 --out docs/benchmarks
        streamer bench soak --minutes 480 --load 0.5 --finalize 5 --disconnects 0.05 --manifest test.jsonl
        """,
    )
    flag = parser.add_argument
    flag("--minutes", type=minutes, default=10.0, metavar="M", help="how long streams come and go (default: 10)")
    flag("--load", type=share, default=0.8, metavar="SHARE", help="of the streams that the daemon says fit (0.8)")
    flag("--streams", type=whole(1), metavar="N", help="so many instead, whatever fits")
    add_flags(parser)
    parser.set_defaults(run=run)


def minutes(text: str) -> float:
    """A flag's type: a second to a week."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 1 / 60 <= value <= 10_080:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected minutes, a sixtieth to 10080")
    return value


def run(args: argparse.Namespace) -> int:
    """Ask what fits, put the share on, and look at the beginning and the end."""
    from streamer.bench import plot, report, soak
    from streamer.bench.scrape import capacity

    seconds = MINUTE_S * args.minutes
    with ExitStack() as stack:
        loading = Loading(args, stack)
        latency_ms = loading.references.latency_ms
        fits = capacity(loading.url, latency_ms)
        if fits is None and args.streams is None:
            raise CommandError(f"{loading.url}: says nothing of its capacity, expected --streams")
        streams = args.streams or max(1, int(args.load * (fits or 0)))
        title = (
            f"{args.minutes:g} minutes of {streams} real-time streams at {latency_ms} ms, {loading.references.model}"
        )
        say(title)
        outcome = loading.run(streams, seconds, title)
    ramp_s = outcome.ramp_s
    more = {
        "capacity": fits,
        "load": round(streams / fits, 3) if fits else None,
        "memory": soak.memory(outcome.memory, seconds, streams),
        "chunk_drift": soak.drift(outcome.tally.chunks, ramp_s, seconds),
        "word_drift": soak.drift(outcome.tally.first, ramp_s, seconds),
    }
    found = {"bench": "soak", **outcome.figures, **more}
    publish(
        args,
        "soak",
        found,
        lambda picture: report.table(found, title, picture, soak.rows(found)),
        plot.drawn(title, outcome.tally, held(outcome)),
    )
    return OK if outcome.tally.well else FAILED


def held(outcome: Outcome) -> list[Panel]:
    """The memory's own diagram, where it is known."""
    from streamer.bench.plot import Curve, linear

    points = [(at, size / (1 << 20)) for at, size, _ in outcome.memory]
    if not points:
        return []
    sizes = [size for _, size in points]
    bounds = (points[0][0], points[-1][0]), (min(sizes), max(sizes))
    return [linear("Memory of the daemon", [Curve("resident", points)], *bounds, " MiB")]
