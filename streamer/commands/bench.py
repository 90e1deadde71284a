"""`streamer bench`: figures of this machine, written down with its name."""

from __future__ import annotations

from typing import Any

from streamer.commands import accuracy, capacity, command, gpu, learning, load, loss, overhead, peers, soak

VERBS = (load, soak, capacity, overhead, accuracy, gpu, peers, loss, learning)


def add(commands: Any) -> None:
    """The verbs, each with the flags of its own file."""
    parser = command(
        commands,
        "bench",
        "measure this machine",
        """
        streamer bench load --streams 20 --latency 560
        streamer bench load --streams 50 a.flac b.flac engine.slots=128
        streamer bench soak --minutes 10 --latency 80
        streamer bench accuracy --manifest test.jsonl --out docs/benchmarks
        streamer bench gpu --part parity
        """,
    )
    verbs = parser.add_subparsers(required=True, metavar="VERB", title="verbs")
    for verb in VERBS:
        verb.add(verbs)
