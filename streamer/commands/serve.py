"""`streamer serve`: the daemon, its options from a file, the environment and the command line."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from streamer.commands import OK, USAGE, CommandError, command


def add(commands: Any) -> None:
    """The flags of the command."""
    parser = command(
        commands,
        "serve",
        "run the daemon",
        """
        streamer serve
        streamer serve server.port=9001 model.latency_ms=160
        streamer serve --config config.yaml model.path=nemotron.nemo
        STREAMER_SERVER_KEY=secret streamer serve server.host=0.0.0.0
        streamer serve --print-config > config.yaml
        """,
    )
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="YAML file with options (default: none, the built-in values)"
    )
    parser.add_argument("--print-config", action="store_true", help="print the options as they are now and stop")
    parser.add_argument("options", nargs="*", metavar="section.key=value", help="an option's value; the last one wins")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Read the options, find the model, serve until told to stop."""
    from streamer import config as options
    from streamer.errors import Refusal

    try:
        config = options.load(args.config, overrides=args.options)
    except Refusal as refusal:
        raise CommandError(str(refusal), USAGE) from None
    if args.print_config:
        print(options.render(config), end="")
        return OK
    from streamer.server import serve

    return serve(with_model(config))


def with_model(config: Any) -> Any:
    """The same options with the path of a model that the backend can load."""
    from streamer import artefacts

    if config.model.backend == "fake":
        return config
    path = artefacts.resolve(config.model.path, config.model.backend)
    return dataclasses.replace(config, model=dataclasses.replace(config.model, path=str(path)))
