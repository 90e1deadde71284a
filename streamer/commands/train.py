"""`streamer train`: hands a configuration to the trainer."""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamer.artefacts import how_to_add
from streamer.commands import OK, USAGE, CommandError, command

if TYPE_CHECKING:
    from models.training.settings import Settings


def add(commands: Any) -> None:
    """The flags of the command."""
    parser = command(
        commands,
        "train",
        "train a model (needs the extra train)",
        """
        streamer train --config models/training/tune.yaml init=model.nemo train=[mine.jsonl] dev=dev.jsonl
        streamer train --config mine.yaml stages.tune.peak_lr=1e-4 run=runs/slower
        torchrun --nproc-per-node 2 -m models.training.trainer --config mine.yaml accumulate=2
        """,
    )
    parser.add_argument("--config", required=True, type=Path, metavar="FILE", help="YAML file: data, model, schedule")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key.sub=value",
        help="changes a value of the file; an item of a list goes by its number or name, as in stages.0.peak_lr=1e-4",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run until the schedule ends; started again, it goes on from its last checkpoint."""
    if not args.config.is_file():
        raise CommandError(f"--config {args.config}: no such file")
    if find_spec("torch") is None:
        raise CommandError(f"training needs torch, which is not installed: {how_to_add('train')}")
    from models.training import settings, trainer
    from models.training.progress import WorkerLost

    try:
        wanted = settings.load(args.config, args.overrides)
    except ValueError as error:
        raise CommandError(f"--config {args.config}: {error}", USAGE) from None
    check_files(wanted)
    try:
        trainer.train(wanted)
    except (ValueError, WorkerLost) as error:
        raise CommandError(f"train: {error}") from error
    return OK


def check_files(wanted: Settings) -> None:
    """What the steps before this one leave behind (docs/training.md), said by the name of the missing step."""
    if wanted.tokenizer and not Path(wanted.tokenizer).is_file():
        raise CommandError(f"tokenizer {wanted.tokenizer}: no such file; python -m models.training.tokenizer makes it")
    if wanted.init and not Path(wanted.init).exists():
        raise CommandError(f"init {wanted.init}: no such file, expected a .nemo file or a model folder")
    if wanted.teacher and not Path(wanted.teacher).is_dir():
        raise CommandError(f"teacher {wanted.teacher}: no such folder; python -m models.training.teacher makes it")
    for name in (*wanted.train, wanted.dev):
        if name.endswith(".jsonl") and not Path(name).is_file():
            raise CommandError(f"manifest {name}: no such file")
        index = Path(wanted.cache) / f"{name}.jsonl"
        if not name.endswith(".jsonl") and not index.is_file():
            raise CommandError(f"cache {index}: no such file; python -m models.training.cache makes it")
