"""`streamer demo`: a daemon, a recording that ships, captions here and on a page, and the daemon stopped again."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from streamer.commands import DEFAULT_LATENCY, command, say, whole

PAUSE_MS = 400  # the reader of the sample pauses shortly: so that his sentences become lines
SAMPLE = Path("clients") / "samples" / "shepherd.opus"
ROOM = "demo"


def add(commands: Any) -> None:
    """The flags of the command."""
    parser = command(
        commands,
        "demo",
        "daemon, recording and captions in one go",
        """
        streamer demo
        streamer demo --latency 160 my-recording.wav
        """,
    )
    parser.add_argument(
        "--model", default="", metavar="M", help="model folder or .nemo file (default: the one that ships)"
    )
    parser.add_argument(
        "--latency",
        type=whole(1),
        metavar="MS",
        help=f"one of the model's latencies (default: {DEFAULT_LATENCY})",
    )
    parser.add_argument("--fast", action="store_true", help="do not wait for the pace of speech")
    parser.add_argument("file", nargs="?", metavar="FILE", help="a recording of yours (default: one that ships)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Start, stream, stop."""
    from clients.send import read
    from streamer import artefacts
    from streamer.commands import browser, models, stream
    from streamer.commands.daemon import Daemon

    model = artefacts.resolve(args.model)
    sample = args.file or str(Path(__file__).resolve().parents[2] / SAMPLE)
    read(sample)  # one that cannot be is said before anything is started
    say(f"model     {models.read(model).name}")
    say(f"recording {Path(sample).name}")
    with Daemon(f"model.path={model}", "log.level=warning", f"endpoint.silence_ms={PAUSE_MS}") as daemon:
        page = f"http://127.0.0.1:{daemon.port}/watch/{ROOM}"
        say(f"daemon    {daemon.url}, stops after the last word")
        say(f"captions  {page} ({browser.show(page)})\n")
        return stream.run(stream_args(daemon.url, sample, args))


def stream_args(url: str, file: str, args: argparse.Namespace) -> argparse.Namespace:
    """The arguments of `streamer stream` for our own daemon."""
    return argparse.Namespace(
        url=url,
        key=None,
        latency=args.latency,
        language=None,
        fast=args.fast,
        multichannel=False,
        as_is=False,
        room=ROOM,
        json=False,
        files=[file],
    )
