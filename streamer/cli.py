"""The command line: sub-commands, their flags and help, exit codes. Knows nothing of how a command does its work.

Exit codes: 0 done, 1 the work failed, 2 wrong usage, 130 interrupted, 143 told to end. Every failure is one sentence
on stderr; `STREAMER_DEBUG=1` adds the traceback.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

import streamer
from streamer.artefacts import how_to_add
from streamer.commands import (
    FAILED,
    OK,
    USAGE,
    CommandError,
    Parser,
    bench,
    demo,
    evaluate,
    export,
    mic,
    models,
    say,
    serve,
    stream,
    train,
    transcribe,
)
from streamer.errors import printable

COMMANDS = (serve, transcribe, stream, mic, evaluate, models, export, train, bench, demo)
INTERRUPTED = 130
# Errors that are sentences already. Looked up only in modules that a command has loaded, so `--help` stays quick.
_SENTENCES = (
    ("streamer.errors", "Refusal"),
    ("streamer.artefacts", "NoModel"),
    ("streamer.recordings", "Unreadable"),
    ("streamer.backends.base", "BackendError"),
    ("models.config", "ConfigError"),
    ("models.tokenizer", "TokenizerError"),
    ("models.weights", "WeightsError"),
    ("models.nemo_archive", "ModelFileError"),
    ("clients.client", "StreamError"),
    ("clients.send", "NotAudio"),
    ("clients.mic", "MicError"),
    ("clients.client", "ConnectionLost"),
)

EXAMPLES = """\
examples:
  streamer serve                              the daemon on 127.0.0.1:9000
  streamer serve server.port=9001 model.latency_ms=160
  streamer transcribe talk.flac               text of a file
  streamer transcribe --out talk.srt talk.flac
  streamer transcribe --json --latency 1120 *.wav > words.jsonl
  streamer transcribe --model nemotron.nemo talk.wav
  streamer stream talk.flac                   through a running daemon, as if spoken now
  streamer mic --save talk.srt                what you say, until Ctrl-C
  streamer eval --manifest test.jsonl --audio-root corpus/
  streamer models info                        numbers of the model that ships
  streamer demo                               daemon, recording and captions in one go
"""


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = Parser(
        prog="streamer",
        description="Streaming speech recognition: a daemon, its clients and its tools.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=f"streamer {streamer.__version__}")
    commands = top.add_subparsers(metavar="COMMAND", title="commands")
    for command in COMMANDS:
        command.add(commands)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    stdout_closed = _open_what_is_closed()
    top = parser()
    args = top.parse_args(argv)
    if not hasattr(args, "run"):
        top.print_help()
        return USAGE
    try:
        if stdout_closed and args.run is not serve.run:
            raise CommandError("stdout is closed, expected a file, a pipe or a terminal for the results")
        return _run(args)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        _settle_stdout()  # the reader of our output has gone (`| head`): nothing is wrong
        return OK
    except Exception as error:
        _settle_stdout()
        sentence = _sentence(error)
        if os.environ.get("STREAMER_DEBUG") or sentence is None:
            raise
        say(f"streamer: {printable(sentence)}")
        return error.code if isinstance(error, CommandError) else FAILED


def _run(args: argparse.Namespace) -> int:
    try:
        code: int = args.run(args)
    except ModuleNotFoundError as error:
        raise CommandError(_missing(error)) from error
    sys.stdout.flush()
    return code


def _open_what_is_closed() -> bool:
    """Whether stdout was closed (`>&-`). Python has None then, which every print and isatty would stumble over."""
    stdout_closed = sys.stdout is None
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))
    return stdout_closed


def _settle_stdout() -> None:
    """Where stdout takes no more, what is left goes nowhere, so that flushing at exit does not complain."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _missing(error: ModuleNotFoundError) -> str:
    """The sentence for a package that is not installed: which extra brings it."""
    name = (error.name or "").partition(".")[0]
    if name not in ("torch", "onnx", "onnxscript", "safetensors"):
        raise error
    return f"this needs {name}, which is not installed: {how_to_add('torch')}"


def _sentence(error: Exception) -> str | None:
    """What a person reads of an error; None for a fault of ours, which needs its traceback."""
    if isinstance(error, OSError):
        reason = error.strerror or str(error) or type(error).__name__
        return f"{error.filename}: {reason}" if error.filename else reason
    kinds = [getattr(sys.modules[module], name, CommandError) for module, name in _SENTENCES if module in sys.modules]
    return str(error) if isinstance(error, (CommandError, *kinds)) else None
