"""`streamer bench`: figures of this machine, written down with its name."""

from __future__ import annotations

import argparse
import asyncio
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from streamer.commands import FAILED, OK, command, say, whole
from streamer.commands.demo import SAMPLE


def add(commands: Any) -> None:
    """The flags of the command."""
    parser = command(commands, "bench", "measure this machine", "streamer bench load --streams 20 --latency 560")
    verbs = parser.add_subparsers(required=True, metavar="VERB", title="verbs")
    load = command(verbs, "load", "concurrent real-time streams: are they on time, are the words right")
    load.add_argument("--streams", type=whole(1), default=20, metavar="N", help="how many (default: 20)")
    load.add_argument("--latency", type=whole(1), default=560, metavar="MS", help="of every stream (default: 560)")
    load.add_argument(
        "--model", default="", metavar="M", help="model folder or .nemo file (default: the one that ships)"
    )
    load.add_argument("--url", help="a daemon that runs already with the same model (default: one of our own)")
    load.add_argument("--out", type=Path, metavar="FOLDER", help="also write the table there")
    load.add_argument(
        "file", nargs="?", metavar="FILE", help="what all streams say (default: the recording that ships)"
    )
    load.add_argument("options", nargs="*", metavar="section.key=value", help="options of our own daemon")
    load.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Transcribe once for the reference, then put on the load and compare."""
    from clients.send import read
    from streamer import artefacts, bench
    from streamer.commands.daemon import Daemon

    model = artefacts.resolve(args.model)
    file = args.file or str(Path(__file__).resolve().parents[2] / SAMPLE)
    recording = read(file)
    reference = expected_words(str(model), args.latency, file)
    with ExitStack() as stack:
        url, pid = args.url, None
        if url is None:
            slots = f"engine.slots={2 * args.streams}"
            daemon = stack.enter_context(Daemon(f"model.path={model}", "log.level=warning", slots, *args.options))
            url, pid = daemon.url, daemon.pid
        outcome = asyncio.run(bench.load(url, recording, args.streams, args.latency, pid))
    title = f"{args.streams} real-time streams at {args.latency} ms, {model.name}"
    table = bench.table(outcome, reference, title)
    print(table, end="")
    for number, heard in enumerate(outcome.streams):
        for error in heard.errors:
            say(f"stream {number}: {error}")
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / f"load-{args.streams}x{args.latency}ms.md").write_text(table, "utf-8")
    return FAILED if outcome.wrong(reference) else OK


def expected_words(model: str, latency_ms: int, file: str) -> list[str]:
    """What `streamer transcribe` says of the file."""
    from streamer.commands.listening import open_listener
    from streamer.commands.transcribe import TAIL_MS
    from streamer.recordings import Recordings

    args = argparse.Namespace(
        model=model, backend="ort", precision="fp32", latency=str(latency_ms), language=None, threads=None
    )
    listener = open_listener(args, TAIL_MS, slots=1)
    try:
        (transcript,) = listener.hear([Recordings().read(file)])
    finally:
        listener.close()
    return transcript.text.split()
