"""`streamer train`: hands a configuration to the trainer."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from streamer.commands import OK, USAGE, CommandError, command


def add(commands: Any) -> None:
    """The flags of the command."""
    parser = command(
        commands,
        "train",
        "train a model (needs the extra train)",
        """
        streamer train --config models/training/default.yaml
        """,
    )
    parser.add_argument("--config", required=True, type=Path, metavar="FILE", help="YAML file: data, model, schedule")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run until the schedule ends; started again, it goes on from its last checkpoint."""
    if not args.config.is_file():
        raise CommandError(f"--config {args.config}: no such file")
    from models.training import settings, trainer

    try:
        wanted = settings.load(args.config)
    except ValueError as error:
        raise CommandError(f"--config {args.config}: {error}", USAGE) from None
    trainer.train(wanted)
    return OK
