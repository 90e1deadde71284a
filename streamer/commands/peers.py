"""`streamer bench peers` and `bench floor`: our CPU step beside sherpa-onnx's and beside its own matrix products.

How and why: docs/benchmarks/cpu.md.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from streamer.commands import FAILED, OK, CommandError, command, say, unwound_by_sigterm, whole
from streamer.commands.demo import SAMPLE

OUT = Path("docs") / "benchmarks"
RECORDINGS = 60  # of tests/recordings, which the streams of --sockets say


def add(verbs: Any) -> None:
    """The flags of both verbs."""
    add_peers(verbs)
    parser = command(verbs, "floor", "the time of a step's matrix products alone (needs the extra torch, for onnx)")
    several(parser, "--sizes", str, "small large")
    several(parser, "--precisions", str, "fp32 int8")
    parser.add_argument("--out", type=Path, default=OUT, metavar="FOLDER", help=f"of tables and cpu.json ({OUT})")
    parser.set_defaults(run=run_floor)


def run_floor(args: argparse.Namespace) -> int:
    """Measure every latency and number of streams, then write the tables."""
    from streamer.artefacts import how_to_add
    from streamer.bench import floor, peer_report, peers
    from streamer.bench.machine import cpu_name

    try:
        book = peers.Book(args.out)
        floor.run(book, floor.floors(args.sizes, args.precisions), cpu_name(), say)
        print(peer_report.save(book, args.out))
    except peers.PeerError as error:
        raise CommandError(str(error)) from None
    except ModuleNotFoundError as error:
        raise CommandError(f"bench floor: no package {error.name}; {how_to_add('torch')}") from None
    return OK


def add_peers(verbs: Any) -> None:
    """The flags of `bench peers`."""
    parser = command(
        verbs,
        "peers",
        "our CPU step beside sherpa-onnx's, with the same weights (in the clone)",
        """
        streamer bench peers --peers peers --peer-python sherpa/bin/python
        streamer bench peers --peers peers --peer-python sherpa/bin/python --sizes small --latencies 80 --again
        streamer bench peers --peers peers --peer-python sherpa/bin/python --sockets --latencies 560
        streamer bench peers --report
        """,
    )
    parser.add_argument("--peers", type=Path, metavar="FOLDER", help="the models, as peer_model.py leaves them")
    parser.add_argument("--peer-python", default=sys.executable, metavar="P", help="a Python that has sherpa-onnx")
    parser.add_argument(
        "--ours", type=Path, metavar="FOLDER", help="of SIZE-PRECISION exports (default: made from FOLDER/SIZE.nemo)"
    )
    several(parser, "--sizes", str, "large small")
    several(parser, "--precisions", str, "fp32 int8")
    several(parser, "--latencies", whole(80), "80 160 560 1120")
    several(parser, "--streams", whole(1), "1 8 32")
    several(parser, "--threads", whole(1), "1 2")
    parser.add_argument("--sockets", action="store_true", help="servers instead: the most real-time streams of each")
    parser.add_argument(
        "--peer-flag", action="append", default=[], metavar="F", help="of sherpa-onnx's server, with --sockets (again)"
    )
    parser.add_argument("--seconds", type=whole(1), default=10, metavar="S", help="of audio a stream (default: 10)")
    parser.add_argument("--rounds", type=whole(1), default=3, metavar="N", help="of each measurement (default: 3)")
    parser.add_argument("--again", action="store_true", help="also what was measured before")
    parser.add_argument("--report", action="store_true", help="only write the tables of what was measured")
    parser.add_argument(
        "--target", action="append", default=[], metavar="CELLS=RATIO", help="to reach, e.g. 'large/*/80ms/*=2' (again)"
    )
    parser.add_argument("--out", type=Path, default=OUT, metavar="FOLDER", help=f"of tables and cpu.json ({OUT})")
    parser.set_defaults(run=run)


def several(parser: argparse.ArgumentParser, flag: str, kind: Any, default: str) -> None:
    """A flag that takes some of these words, or some whole numbers like these."""
    values = [kind(word) for word in default.split()]
    choices = values if kind is str else None
    parser.add_argument(
        flag, nargs="+", type=kind, default=values, choices=choices, metavar="X", help=f"(default: {default})"
    )


def run(args: argparse.Namespace) -> int:
    """Measure what was asked for, then write the tables."""
    from streamer.bench import peer_report, peer_sockets_report, peers

    try:
        book = peers.Book(args.out)
        for target in args.target:
            peer_report.aim(book, target)
        measure = measure_servers if args.sockets else measure_steps
        failed = 0 if args.report else measure(args, book)
        print(peer_report.save(book, args.out))
        print(peer_sockets_report.save(book, args.out))
    except peers.PeerError as error:
        raise CommandError(str(error)) from None
    return FAILED if failed else OK


def exports(args: argparse.Namespace) -> Callable[[str, str], Path]:
    """Where our folder for a size and precision is; made on first use where none are given."""
    from streamer import artefacts

    if args.peers is None:
        raise CommandError("--peers: expected the folder that peer_model.py made (docs/benchmarks/cpu.md)")

    @functools.cache
    def ours(size: str, precision: str) -> Path:
        if args.ours:
            return Path(args.ours / f"{size}-{precision}")
        return artefacts.resolve(str(args.peers / f"{size}.nemo"), "ort", precision)

    return ours


def measure_steps(args: argparse.Namespace, book: Any) -> int:
    """How many cells failed."""
    from clients.send import read
    from streamer.bench import peers

    ours = exports(args)
    recording = read(Path(__file__).resolve().parents[2] / SAMPLE)
    assert recording.rate == 16_000, f"{SAMPLE}: got {recording.rate} Hz"
    audio = recording.pcm[:, 0]
    plan = peers.Plan(args.peers, args.peer_python, ours, audio, args.seconds, args.rounds, args.out)
    chosen = peers.cells(args.sizes, args.precisions, args.latencies, args.streams, args.threads)
    with unwound_by_sigterm():
        return peers.run(chosen, plan, book, say, again=args.again)


def measure_servers(args: argparse.Namespace, book: Any) -> int:
    """How many cells failed; numbers of streams are found out, and both use all processors there are."""
    from streamer.bench import peer_sockets, peers
    from streamer.commands.daemon import Daemon
    from streamer.gpu_check.sounds import speech

    program = Path(args.peer_python).parent / peer_sockets.BINARY
    servers = peer_sockets.Servers(
        exports(args), Daemon, args.peers, program, args.peer_flag, speech(RECORDINGS), float(args.seconds)
    )
    chosen = peers.cells(args.sizes, args.precisions, args.latencies, [1], [1])
    with unwound_by_sigterm():
        return peer_sockets.run(chosen, servers, book, say, again=args.again)
