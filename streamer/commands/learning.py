"""`streamer bench learning`: learning curves of training runs, as a picture."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from streamer.bench.learning import drawn, read
from streamer.commands import OK, CommandError, command, say


def add(verbs: Any) -> None:
    """The flags of the verb."""
    parser = command(
        verbs,
        "learning",
        "learning curves of training runs, from what they printed",
        """
        streamer bench learning runs/1.log runs/2.log --out docs/images/learning.svg
        """,
    )
    parser.add_argument("logs", nargs="+", type=Path, metavar="LOG", help="what streamer train printed; in their order")
    parser.add_argument("--title", default="Learning", help="over the picture (default: Learning)")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.svg", help="picture to write")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """One picture of all runs, one after another."""
    try:
        runs = [read(path.stem, path.read_text("utf-8", "replace").splitlines()) for path in args.logs]
        args.out.write_text(drawn(args.title, runs), "utf-8")
    except OSError as error:
        raise CommandError(f"{error.filename}: {error.strerror}") from None
    except ValueError as error:
        raise CommandError(str(error)) from None
    say(f"{args.out}: {sum(run.minutes for run in runs):.0f} minutes of {len(runs)} runs")
    return OK
