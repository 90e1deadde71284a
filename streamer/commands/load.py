"""`streamer bench load`: concurrent real-time streams against a daemon, how late their words come, and whether they are
the right ones."""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from typing import Any

from streamer.commands import FAILED, OK, command, whole
from streamer.commands.loading import Loading, add_flags, publish


def add(verbs: Any) -> None:
    """The flags of the verb."""
    parser = command(
        verbs,
        "load",
        "concurrent real-time streams: are they on time, are the words right",
        """
        streamer bench load --streams 20 --latency 560
        streamer bench load --streams 50 a.flac b.flac engine.slots=128
        streamer bench load --latency 80 --seconds 60 --jitter 30 --stalls 0.1 --disconnects 0.1 --finalize 3
        """,
    )
    parser.add_argument("--streams", type=whole(1), default=20, metavar="N", help="at the same time (default: 20)")
    parser.add_argument(
        "--seconds",
        type=whole(1),
        default=0,
        metavar="S",
        help="streams come and go for so long (default: one stream each, to the end of its recording)",
    )
    add_flags(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Transcribe once for the reference, then put on the load and compare."""
    from streamer.bench import plot, report

    with ExitStack() as stack:
        loading = Loading(args, stack)
        latency_ms, model = loading.references.latency_ms, loading.references.model
        title = f"{args.streams} real-time streams at {latency_ms} ms, {model}"
        outcome = loading.run(args.streams, args.seconds, title)
    publish(
        args,
        f"load-{args.streams}x{latency_ms}ms",
        {"bench": "load", **outcome.figures},
        lambda picture: report.table(outcome.figures, title, picture),
        plot.drawn(title, outcome.tally),
    )
    return OK if outcome.tally.well else FAILED
