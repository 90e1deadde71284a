"""`streamer serve`: the daemon, its options from a file, the environment and the command line."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamer.commands import OK, USAGE, CommandError, command

if TYPE_CHECKING:
    from models.config import ConfigError
    from streamer.config import Config

# NumPy's matrix library takes a thread for each processor and lets them spin; ours are small matrices.
ONE_BLAS_THREAD = ("OPENBLAS_NUM_THREADS", "1")
OF_THE_MODEL = ("model.latency_ms", "model.language")  # options that are right or wrong for the model that was loaded

log = logging.getLogger(__name__)


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
        "--config",
        type=Path,
        metavar="FILE",
        help="YAML file with options (default: none is read, the built-in values hold)",
    )
    parser.add_argument("--print-config", action="store_true", help="print the options as they are now and stop")
    parser.add_argument("options", nargs="*", metavar="section.key=value", help="an option's value; the last one wins")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Read the options, find the model, serve until told to stop."""
    from streamer import config as options
    from streamer import logs
    from streamer.errors import Refusal

    try:
        config = options.load(args.config, overrides=args.options)
    except Refusal as refusal:
        raise CommandError(str(refusal), USAGE) from None
    if args.print_config:
        print(options.render(config), end="")
        return OK
    logs.set_up(config.log.format, config.log.level)
    os.environ.setdefault(*ONE_BLAS_THREAD)  # NumPy reads it once, when it is imported, which is below
    for variable in options.of_kubernetes(os.environ):
        log.warning("%s is a Service's address that Kubernetes sets, no option: passed over", variable)
    from streamer.server import serve

    try:
        return serve(with_model(config))
    except Refusal as refusal:
        if refusal.where in OF_THE_MODEL:
            raise CommandError(str(refusal), USAGE) from None
        raise


def with_model(config: Config) -> Config:
    """The same options with the path of a model that the backend can load, and the threads of a step."""
    from models.config import ConfigError
    from streamer import artefacts
    from streamer.offer import threads

    model = dataclasses.replace(config.model, threads=threads(config))
    if model.backend != "fake":
        try:
            path = artefacts.resolve(model.path, model.backend, model.precision or "fp32")
        except ConfigError as error:
            raise CommandError(_full_context(model.path, error) if error.where == "model" else str(error)) from None
        model = dataclasses.replace(model, path=str(path))
    return dataclasses.replace(config, model=model)


def _full_context(path: str, error: ConfigError) -> str:
    """The exporter's refusal of a model that cannot stream, with what it can do instead."""
    hear = f"streamer transcribe --model {path} --latency offline FILE"
    return f"model.path={path}: {error.got} hears whole recordings and cannot stream; hear one with: {hear}"
