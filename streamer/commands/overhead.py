"""`streamer bench overhead`: what the daemon costs beside its model, as a table that can be kept."""

from __future__ import annotations

import argparse
import asyncio
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from streamer.commands import OK, CommandError, command, whole

SCHEDSTAT = Path("/proc/self/schedstat")


def add(verbs: Any) -> None:
    """The flags of the verb."""
    parser = command(
        verbs,
        "overhead",
        "processor time of a message and of a step without its model, and of no work at all",
        """
        streamer bench overhead
        streamer bench overhead --streams 64 --seconds 20 --rounds 5 --out docs/benchmarks
        """,
    )
    parser.add_argument("--streams", type=whole(1), default=32, metavar="N", help="real-time streams (default: 32)")
    parser.add_argument("--seconds", type=whole(1), default=10, metavar="S", help="of each run (default: 10)")
    parser.add_argument("--rounds", type=whole(1), default=3, metavar="N", help="runs of each server (default: 3)")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="also write the table there")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Both servers by turns under the load, then the daemon at rest."""
    if not SCHEDSTAT.exists():
        raise CommandError(f"{SCHEDSTAT}: is not there, expected a Linux that counts each thread's time")
    from streamer.bench.overhead import DAEMON, READER, OverheadFailed, at_rest, compare, serving, table

    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
    count, seconds = args.streams, args.seconds
    try:
        with ExitStack() as stack:
            servers = {kind: stack.enter_context(serving(kind, count)) for kind in (DAEMON, READER)}
            rest = {streams: asyncio.run(at_rest(servers[DAEMON], streams, seconds)) for streams in (0, count)}
            runs = compare(servers, count, seconds, args.rounds)
    except OverheadFailed as failed:
        raise CommandError(str(failed)) from None
    text = table(runs, rest, args.streams)
    print(text, end="")
    if args.out:
        (args.out / "overhead.md").write_text(text, "utf-8")
    return OK
