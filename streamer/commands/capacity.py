"""`streamer bench capacity`: what steps cost on this machine, and how many streams that makes."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamer.commands import FAILED, OK, USAGE, CommandError, command

if TYPE_CHECKING:
    from streamer.config import Config
    from streamer.engine.costs import Costs

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
    name, about, costs, good = costs_of(with_model(config), file, again=not args.kept)
    text = table(costs, config.engine.max_load, f"What fits: {name}", about)
    print(text, end="")
    if args.out:
        (args.out / f"capacity-{name}.md").write_text(text, "utf-8")
    return OK if good else FAILED


def costs_of(config: Config, file: str, *, again: bool) -> tuple[str, dict[str, str], Costs, bool]:
    """The model's name, how it ran, what its steps cost, and whether nothing else kept the processors."""
    from streamer.backends import Place, load_backend
    from streamer.engine.kept import DISTURBED, Kept
    from streamer.offer import slots, threads

    model = config.model
    place = Place(model.device, model.precision)
    backend = load_backend(model.backend, model.path, slots(config), threads(config), place)
    try:
        chunks, budget_s = backend.config.chunks, config.engine.budget_ms / 1000
        busy = time.process_time if backend.about.get("device") == "cpu" else None
        costs = Kept(file, threads(config), again).costs(backend, chunks, time.monotonic, budget_s, busy)
        about = {"backend": backend.name, **backend.about, "threads": str(threads(config))}
        return backend.config.name, about, costs, costs.disturbed <= DISTURBED
    finally:
        backend.close()
