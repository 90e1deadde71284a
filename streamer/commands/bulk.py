"""`streamer transcribe --device`: many recordings, or a manifest of them, in batches; how fast, and at what cost.

Recordings are read and words spelled by processes of their own (`hands`), samples wait in files (`ahead`) for the
device (`device`), results for their turn (`delivery`). Here it is put together.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.config import SAMPLE_RATE
from streamer.commands import FAILED, OK, TAIL_MS, USAGE, CommandError, say, unwound_by_sigterm, whole
from streamer.engine.machine import processors

if TYPE_CHECKING:
    from streamer.commands.device import Heard
    from streamer.commands.hands import Wanted
    from streamer.commands.results import Results

MOST_SECONDS = 86_400  # of a batch
HOURS = 1_000_000  # whose cost is said
GROUPS = 2  # groups of recordings under way for each reader


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Those of bulk transcription; all but the first need it."""
    group = parser.add_argument_group("many recordings at once (docs/bulk.md)")
    group.add_argument("--device", choices=("cuda", "cpu"), help="hear in batches with torch, there")
    group.add_argument(
        "--manifest",
        type=Path,
        metavar="M.jsonl",
        help="JSON lines with audio_filepath and, if there are, offset and duration (seconds), in place of FILE",
    )
    group.add_argument(
        "--audio-root", type=Path, metavar="DIR", help="what its paths are relative to (default: the manifest's folder)"
    )
    group.add_argument("--dtype", choices=("bf16", "fp32"), help="of the products (default: bf16 on cuda, fp32 on cpu)")
    group.add_argument(
        "--batch-seconds",
        type=whole(1, MOST_SECONDS),
        metavar="S",
        help="audio of a batch, its padding included (default: what memory has room for, 2400 at most, 60 on cpu)",
    )
    group.add_argument(
        "--readers",
        type=whole(1, 256),
        metavar="N",
        help="processes that read files and spell words (default: one for every processor but one)",
    )
    group.add_argument("--price", type=_price, metavar="P", help="of a GPU hour: says what a million hours cost")


def _price(text: str) -> float:
    try:
        price = float(text)
    except ValueError:
        price = -1.0
    if 0 <= price < float("inf"):
        return price
    raise argparse.ArgumentTypeError(f"got {text!r}, expected a price from 0, like 3.50")


def check(args: argparse.Namespace) -> None:
    """A flag of bulk transcription without it, or with what it has not."""
    if bool(args.files) == (args.manifest is not None):
        got = "files and a manifest" if args.files else "no file and no manifest"
        args.refuse(f"got {got}, expected either FILE ... or --manifest")
    if args.device is None:
        for name in ("manifest", "audio_root", "dtype", "batch_seconds", "readers", "price"):
            if getattr(args, name) is not None:
                raise CommandError(f"--{name.replace('_', '-')}: expected --device cuda or --device cpu with it", USAGE)
        return
    if args.multichannel:
        raise CommandError("--multichannel: not with --device, which hears the mean of all channels", USAGE)
    if args.backend is not None:
        raise CommandError("--backend: not with --device, which always hears with torch", USAGE)
    if args.precision == "int8":
        raise CommandError("--precision int8: not with --device, which has --dtype bf16 and fp32", USAGE)
    if "-" in args.files:
        raise CommandError("-: standard input is heard as it comes, expected files with --device", USAGE)
    if args.audio_root is not None and args.manifest is None:
        raise CommandError("--audio-root: expected --manifest with it", USAGE)


def wanted(args: argparse.Namespace) -> list[Wanted]:
    """What is asked for, in its order; puts the names of a manifest where those of the command line are."""
    from streamer.commands.hands import Wanted
    from streamer.commands.results import Job
    from streamer.recordings import WHOLE, manifest

    if args.manifest is None:
        return [Wanted(Job(name, position), WHOLE) for position, name in enumerate(args.files)]
    entries = list(manifest(args.manifest, ("audio_filepath",)))
    if not entries:
        raise CommandError(f"{args.manifest}: no line to transcribe")
    args.files = [entry.audio_filepath for entry in entries]
    return [Wanted(Job(entry.audio_filepath, position), entry.part) for position, entry in enumerate(entries)]


def run(args: argparse.Namespace, asked: Sequence[Wanted], results: Results) -> int:
    """Hear everything; results in the order of the input, errors at once, speed and cost at the end."""
    from streamer.commands.ahead import Shelf, scratch
    from streamer.commands.delivery import Delivery
    from streamer.commands.device import Hearing, named, opened
    from streamer.commands.hands import lines, open_hands, words
    from streamer.commands.progress import progress

    readers = args.readers or max(1, processors() - 1)
    root = (args.audio_root or args.manifest.parent) if args.manifest else Path()
    with ExitStack() as stack:
        stack.callback(results.close)
        stack.enter_context(unwound_by_sigterm())
        bulk, vocabulary = opened(args)
        folder = stack.enter_context(scratch())
        hands = open_hands(readers)
        stack.callback(hands.shutdown, cancel_futures=True)
        tick = stack.enter_context(progress("transcribing", len(asked), whole_lines=args.json))
        delivery = Delivery(results, tick)
        hearing = Hearing(bulk, delivery, _tail(args) if bulk.config.streaming else 0)
        stored = Shelf(hands, folder, root, GROUPS * readers + 1).stored(asked, delivery.failed)
        write: Callable[..., Any] = lines if args.json else words
        began = time.perf_counter()
        try:
            heard = hearing.run(stored, partial(hands.submit, write, vocabulary))
        except BrokenExecutor:
            raise CommandError("a process that reads recordings died (out of memory? try fewer --readers)") from None
        all_s = time.perf_counter() - began
    if heard.audio_s:
        for text in summary(heard, all_s, named(bulk), args.price):
            say(f"streamer: {text}")
    return FAILED if delivery.errors or results.given_up else OK


def _tail(args: argparse.Namespace) -> int:
    """Samples of silence behind each recording."""
    tail_ms: int = args.tail_ms if args.tail_ms is not None else (0 if args.json else TAIL_MS)
    return tail_ms * SAMPLE_RATE // 1000


def summary(heard: Heard, all_s: float, device: str, price: float | None) -> Iterator[str]:
    """The lines at the end. RTFx: seconds of audio in a second of the clock."""
    with_files, without = (heard.audio_s / max(seconds, 1e-9) for seconds in (all_s, heard.model_s))
    yield (
        f"{heard.recordings} recordings, {heard.audio_s:,.1f} s of audio in {all_s:,.2f} s: RTFx {with_files:,.1f} "
        f"with reading, decoding and writing files; {heard.model_s:,.2f} s on {device}: RTFx {without:,.1f} without"
    )
    if price is not None:
        costs = [f"{HOURS / rate * price:,.2f}" for rate in (with_files, without)]
        yield f"{HOURS:,} hours at {price:,.2f} a GPU hour: {costs[0]} with files, {costs[1]} without"
