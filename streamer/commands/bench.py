"""`streamer bench`: figures of this machine, written down with its name."""

from __future__ import annotations

import argparse
import asyncio
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from streamer.commands import (
    DEFAULT_LATENCY,
    FAILED,
    OK,
    TAIL_MS,
    USAGE,
    CommandError,
    accuracy,
    command,
    gpu,
    peers,
    say,
    whole,
)
from streamer.commands.demo import SAMPLE


def add(commands: Any) -> None:
    """The flags of the command."""
    parser = command(
        commands,
        "bench",
        "measure this machine",
        """
        streamer bench load --streams 20 --latency 560
        streamer bench load --streams 50 a.flac b.flac engine.slots=128
        streamer bench accuracy --manifest test.jsonl --out docs/benchmarks
        streamer bench gpu --part parity
        """,
    )
    verbs = parser.add_subparsers(required=True, metavar="VERB", title="verbs")
    flags = command(verbs, "load", "concurrent real-time streams: are they on time, are the words right")
    flags.add_argument("--streams", type=whole(1), default=20, metavar="N", help="how many (default: 20)")
    flags.add_argument("--latency", type=whole(1), metavar="MS", help=f"of every stream (default: {DEFAULT_LATENCY})")
    flags.add_argument(
        "--model", default="", metavar="M", help="model folder or .nemo file (default: the one that ships)"
    )
    flags.add_argument("--url", help="a daemon that runs already with the same model (default: one of our own)")
    flags.add_argument("--out", type=Path, metavar="FOLDER", help="also write the table there")
    flags.add_argument(
        "words",
        nargs="*",
        metavar="FILE | section.key=value",
        help="what the streams say, in turn (default: the recording that ships); options of our own daemon",
    )
    flags.set_defaults(run=run)
    accuracy.add(verbs)
    gpu.add(verbs)
    peers.add(verbs)


def run(args: argparse.Namespace) -> int:
    """Transcribe once for the reference, then put on the load and compare."""
    from clients.send import read
    from streamer import artefacts
    from streamer.bench.load import load, table
    from streamer.commands.daemon import Daemon

    files, options = parted(args.words)
    if args.url and options:
        raise CommandError(f"{options[0]}: an option of our own daemon, and --url names another", USAGE)
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
    recordings = [read(file) for file in files]
    model = artefacts.resolve(args.model)
    name, latency_ms, references = transcribed(str(model), args.latency, files)
    with ExitStack() as stack:
        url, pid = args.url, None
        if url is None:
            own = (f"model.path={model}", "log.level=warning", f"engine.slots={2 * args.streams}")
            daemon = stack.enter_context(Daemon(*own, *options))
            url, pid = daemon.url, daemon.pid
        outcome = asyncio.run(load(url, recordings, args.streams, latency_ms, pid))
    text = table(outcome, references, f"{args.streams} real-time streams at {latency_ms} ms, {name}")
    print(text, end="")
    for number, heard in enumerate(outcome.streams):
        for error in heard.errors:
            say(f"stream {number}: {error}")
    if args.out:
        (args.out / f"load-{args.streams}x{latency_ms}ms.md").write_text(text, "utf-8")
    return FAILED if outcome.wrong(references) else OK


def parted(words: list[str]) -> tuple[list[str], list[str]]:
    """The files, or the one that ships, and the daemon's options, which have a `=`."""
    options = [word for word in words if "=" in word and not Path(word).exists()]
    files = [word for word in words if word not in options]
    return files or [str(Path(__file__).resolve().parents[2] / SAMPLE)], options


def transcribed(model: str, latency_ms: int | None, files: list[str]) -> tuple[str, int | None, list[list[str]]]:
    """The model's name, the latency it hears with, and the words that `streamer transcribe` gives of each file."""
    from streamer.commands.listening import open_listener
    from streamer.recordings import Recordings

    latency = None if latency_ms is None else str(latency_ms)
    args = argparse.Namespace(
        model=model, backend="ort", precision="fp32", latency=latency, language=None, threads=None
    )
    recordings, words = Recordings(), {}
    listener = open_listener(args, TAIL_MS, slots=1)
    try:
        for transcript in listener.hear(recordings.read(file) for file in files):
            if transcript.error is not None:
                raise CommandError(f"{files[transcript.index]}: {transcript.error}")
            words[transcript.index] = transcript.text.split()
    finally:
        listener.close()
    return listener.config.name, listener.latency_ms, [words[index] for index in range(len(files))]
