"""The sub-commands of the command line, one file each. `run(args) -> exit code`; what they need is imported late."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

from streamer.errors import printable

OK, FAILED, USAGE = 0, 1, 2
TERMINATED = 143  # told to end by SIGTERM
PREFERRED_LATENCY_MS = 560  # the daemon's own preference (offer.py), so that all commands hear alike
DEFAULT_BACKEND = "ort"
DEFAULT_LATENCY = f"{PREFERRED_LATENCY_MS} where the model has it, else its first"  # for help texts
MOST_THREADS = 256  # as model.threads of the daemon
TAIL_MS = 640  # silence after a recording, as session.tail_ms of the daemon: lets the last word out


class CommandError(Exception):
    """A command cannot do its work; the text is the one sentence that a person reads."""

    def __init__(self, message: str, code: int = FAILED) -> None:
        super().__init__(message)
        self.code = code


def say(text: str) -> None:
    """A line for the person at the terminal, beside the results on stdout."""
    print(text, file=sys.stderr, flush=True)


def is_terminal() -> bool:
    """Whether someone watches stderr: decides about progress bars and text that is rewritten in place."""
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence, as everything else here does; its usage would be longer than the flags."""

    def error(self, message: str) -> NoReturn:
        """Exit code 2."""
        self.exit(USAGE, f"streamer: {printable(message)}; see {self.prog} --help\n")


@contextlib.contextmanager
def unwound_by_sigterm() -> Iterator[None]:
    """While it lasts SIGTERM is SystemExit, so that files are closed on the way out."""

    def leave(*_: object) -> None:
        raise SystemExit(TERMINATED)

    if threading.current_thread() is not threading.main_thread():  # only there Python hears of signals
        yield
        return
    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def command(commands: Any, name: str, about: str, examples: str = "") -> argparse.ArgumentParser:
    """The parser of one sub-command, with its examples below the flags."""
    epilog = f"examples:\n{textwrap.indent(textwrap.dedent(examples).strip(), '  ')}" if examples else None
    added: argparse.ArgumentParser = commands.add_parser(
        name,
        help=about,
        description=about[0].upper() + about[1:] + ".",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    return added


def whole(least: int, most: int | None = None) -> Callable[[str], int]:
    """A flag's type: a whole number from `least`, up to `most` where there is one."""
    expected = f"a whole number from {least}" + (f" to {most}" if most is not None else "")

    def number(text: str) -> int:
        digits = text.isascii() and text.isdigit() and len(text) < 19
        if digits and least <= int(text) and (most is None or int(text) <= most):
            return int(text)
        raise argparse.ArgumentTypeError(f"got {text!r}, expected {expected}")

    return number


def default_latency(latencies_ms: Sequence[int]) -> int:
    """What is heard with where nobody asks: 560 ms where the model has it, else its first."""
    return PREFERRED_LATENCY_MS if PREFERRED_LATENCY_MS in latencies_ms else latencies_ms[0]


def add_model_flags(parser: argparse.ArgumentParser, *, live: bool = False) -> None:
    """The flags of commands that hear with a model of their own; `live` ones cannot wait for a whole recording."""
    whole_files = "" if live else ", or `offline` for a full-context model"
    parser.add_argument(
        "--model", default="", metavar="M", help="model folder or .nemo file (default: the one that ships)"
    )
    parser.add_argument(
        "--latency",
        metavar="MS",
        help=f"one of the model's latencies in ms{whole_files} (default: {DEFAULT_LATENCY})",
    )
    parser.add_argument(
        "--language", metavar="L", help="for models with prompts, e.g. en-US (default: the model's own)"
    )
    parser.add_argument(
        "--precision",
        choices=("fp32", "int8"),
        default="fp32",
        help="how a .nemo file is exported on first use (default: fp32)",
    )
    parser.add_argument(
        "--backend", choices=("ort", "pytorch"), help=f"what runs the model (default: {DEFAULT_BACKEND})"
    )
    parser.add_argument(
        "--threads",
        type=whole(1, MOST_THREADS),
        metavar="N",
        help="threads of a step (default: one for every processor it may use)",
    )
