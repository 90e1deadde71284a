"""`streamer bench capacity`: what steps cost on this machine, and how many streams that makes."""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamer.commands import FAILED, OK, USAGE, CommandError, command

if TYPE_CHECKING:
    from streamer.config import Config
    from streamer.engine.capacity import Admission

FILE = "capacity.json"


def add(verbs: Any) -> None:
    """The flags of the verb."""
    parser = command(
        verbs,
        "capacity",
        "what a step costs here by streams and latency, and how many streams fit",
        """
        streamer bench capacity
        streamer bench capacity --kept --out docs/benchmarks
        streamer bench capacity model.path=nemotron.nemo model.threads=4 engine.capacity_file=big.json
        streamer serve engine.capacity_file=capacity.json
        """,
    )
    parser.add_argument("--kept", action="store_true", help="show what the file has, and measure only what it lacks")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="also write the table there")
    parser.add_argument(
        "options",
        nargs="*",
        metavar="section.key=value",
        help=f"the daemon's options; engine.capacity_file is the file that is written (default: {FILE})",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measure, keep, print. A busy machine's figures are shown and not kept: exit code 1."""
    from streamer import config as options
    from streamer.bench.capacity import table
    from streamer.commands.serve import with_model
    from streamer.errors import Refusal

    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
    try:
        config = options.load(overrides=args.options)
    except Refusal as refusal:
        raise CommandError(str(refusal), USAGE) from None
    file = config.engine.capacity_file or FILE
    name, about, admission, good = measured(with_model(config), file, again=not args.kept)
    text = table(admission, config.engine.max_load, f"What fits: {name}", about)
    print(text, end="")
    if args.out:
        (args.out / f"capacity-{name}.md").write_text(text, "utf-8")
    return OK if good else FAILED


def measured(config: Config, file: str, *, again: bool) -> tuple[str, dict[str, str], Admission, bool]:
    """The model's name, how it ran, what fits by its steps, and whether nothing else kept the processors."""
    from streamer.backends import Place, load_backend
    from streamer.engine.capacity import Admission
    from streamer.engine.kept import DISTURBED
    from streamer.engine.lanes import costs_of
    from streamer.offer import engine_settings, slots

    model, settings = config.model, replace(engine_settings(config), capacity_file=file)
    place = Place(model.device, model.precision)
    backend = load_backend(model.backend, model.path, slots(config), settings.threads, place)
    try:
        lanes = backend.lanes(settings.lanes)
        settings = replace(settings, lanes=len(lanes))
        costs = costs_of(lanes, settings, time.monotonic, again=again)
        about = {"backend": backend.name, **backend.about, "engines": str(len(lanes)), "threads": str(settings.threads)}
        admission = Admission(costs, settings, slots(config), len(lanes))
        return backend.config.name, about, admission, costs.disturbed <= DISTURBED
    finally:
        backend.close()
