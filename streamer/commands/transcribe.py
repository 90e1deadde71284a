"""`streamer transcribe`: files, or standard input live, to text, subtitles or JSON lines."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from streamer.commands import (
    FAILED,
    OK,
    TAIL_MS,
    USAGE,
    CommandError,
    add_model_flags,
    bulk,
    command,
    say,
    unwound_by_sigterm,
    whole,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from streamer.commands.results import Job, Results
    from streamer.commands.targets import Targets
    from streamer.recordings import Recordings
    from streamer.subtitles.cues import Style
    from streamer.subtitles.writers import Writer

MOST_SLOTS = 16  # recordings heard together
MOST_TAIL_MS = 60_000  # far more than any model looks ahead


def add(commands: Any) -> None:
    """The flags of the command."""
    parser = command(
        commands,
        "transcribe",
        "files, or standard input as it comes, to text or subtitles",
        """
        streamer transcribe talk.flac
        streamer transcribe --out talk.srt talk.flac
        streamer transcribe --format vtt --out subtitles/ *.wav
        streamer transcribe --latency 160 --json *.wav > words.jsonl
        streamer transcribe --model nemotron.nemo --language en-US talk.wav
        streamer transcribe --multichannel --format ctm call.wav
        arecord -q -f S16_LE -r 16000 | streamer transcribe -
        ffmpeg -v error -i rtsp://camera/1 -f s16le -ar 16000 -ac 1 - | streamer transcribe --out live.vtt -
        streamer transcribe --device cuda --json --price 3.50 --manifest corpus.jsonl > words.jsonl
        """,
    )
    add_model_flags(parser)
    parser.add_argument(
        "--json",
        action="store_true",
        help="one JSON object a line for each file: audio_filepath, text, words, tokens "
        "(ids), frames (of 80 ms, one for each token), duration",
    )
    parser.add_argument(
        "--tail-ms",
        type=whole(0, MOST_TAIL_MS),
        metavar="N",
        help="silence heard after each file in ms; 0 gives exactly "
        f"the tokens of the audio (default: {TAIL_MS}, with --json 0)",
    )
    parser.add_argument(
        "--multichannel", action="store_true", help="hear each channel by itself, as in recordings of calls"
    )
    _add_output_flags(parser)
    _add_input_flags(parser)
    bulk.add_flags(parser)
    parser.add_argument(
        "files",
        nargs="*",
        metavar="FILE",
        help="any file libsndfile reads, any rate and channels (more kinds with the extra codecs); - is standard input",
    )
    parser.set_defaults(run=run, refuse=parser.error)


def _add_output_flags(parser: argparse.ArgumentParser) -> None:
    from streamer.subtitles import KINDS

    group = parser.add_argument_group("files to write")
    group.add_argument("--format", choices=KINDS, help="what is written (default: what the name in --out ends in)")
    group.add_argument("--out", metavar="FILE|FOLDER", help="where to (default: stdout); a folder for several files")
    group.add_argument("--force", action="store_true", help="overwrite files that are there")
    group.add_argument(
        "--line-length", type=whole(10, 200), default=42, metavar="N", help="characters of a subtitle's line (42)"
    )
    group.add_argument("--lines", type=whole(1, 3), default=2, metavar="N", help="lines of a subtitle (2)")
    group.add_argument(
        "--reading-speed", type=whole(5, 100), default=17, metavar="N", help="characters a second for a subtitle (17)"
    )


def _add_input_flags(parser: argparse.ArgumentParser) -> None:
    from streamer.protocols.events import SAMPLE_RATES

    group = parser.add_argument_group("standard input")
    group.add_argument(
        "--encoding",
        choices=("auto", "pcm_s16le", "pcm_f32le", "mulaw", "alaw"),
        help="auto takes what begins with no file's header for pcm_s16le (default: auto)",
    )
    group.add_argument(
        "--sample-rate", type=whole(*SAMPLE_RATES), metavar="HZ", help="of bare samples (default: 16000)"
    )
    group.add_argument("--channels", type=whole(1, 8), metavar="N", help="of bare samples (default: 1)")


def run(args: argparse.Namespace) -> int:
    """Hear everything; results in the order of the command line, errors at once."""
    from streamer.commands.targets import targets

    bulk.check(args)
    if args.device is None and "-" in args.files:
        if len(args.files) > 1:
            raise CommandError("-: got other files too, expected standard input alone", USAGE)
        from streamer.commands.live import run as run_live

        return run_live(args, targets(args), style(args))
    if args.encoding or args.sample_rate or args.channels:
        raise CommandError(
            "--encoding, --sample-rate and --channels: for standard input (-), files say their own", USAGE
        )
    if args.device is not None:
        asked = bulk.wanted(args)
        return bulk.run(args, asked, _results(args, targets(args)))
    return _run_files(args, targets(args))


def style(args: argparse.Namespace) -> Style:
    """How subtitles look."""
    from streamer.subtitles.cues import Style

    return Style(line_length=args.line_length, lines=args.lines, characters_per_s=args.reading_speed)


def _run_files(args: argparse.Namespace, where: Targets) -> int:
    from streamer.commands.listening import Opened, open_listener
    from streamer.commands.progress import progress
    from streamer.recordings import Recordings

    tail_ms = args.tail_ms if args.tail_ms is not None else (0 if args.json else TAIL_MS)
    apart = 2 if args.multichannel else 1  # channels; a guess, which costs or saves memory only
    failed = 0
    jobs: list[Job] = []
    readings: list[Reading] = []
    with ExitStack() as stack:
        stack.enter_context(unwound_by_sigterm())
        listener = open_listener(args, tail_ms, slots=min(MOST_SLOTS, apart * len(args.files)))
        stack.callback(listener.close)
        recordings = Recordings()
        stack.callback(recordings.close)
        results = _results(args, where)
        stack.callback(results.close)
        opened = Opened(_openings(args, recordings, jobs, readings))
        whole_lines = args.json or (where.kind is not None and where.paths is None)
        tick = stack.enter_context(progress("transcribing", len(args.files), whole_lines=whole_lines))
        for said in listener.follow(opened):
            job = jobs[opened.positions[said.index]]
            results.add(job, said)
            if not said.last:
                continue
            if job.channel in (None, job.channels - 1):
                tick()
            error = f"{job.title}: {said.error}" if said.error is not None else readings[said.index].error
            if error is not None:
                failed += 1
                say(f"streamer: {error}")
    return FAILED if failed or opened.failed or results.given_up else OK


class Reading:
    """A recording's blocks, the first of which has been read: what cannot be read at all is known at once.

    Where reading fails later the blocks end, and `error` says why: what came before is heard.
    """

    def __init__(self, blocks: Iterator[NDArray[np.float32]]) -> None:
        self.error: str | None = None
        self._first, self._rest = next(blocks, None), blocks

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        from streamer.recordings import Unreadable

        if self._first is None:
            return
        yield self._first
        self._first = None
        try:
            yield from self._rest
        except Unreadable as error:
            self.error = str(error)


def _openings(
    args: argparse.Namespace, recordings: Recordings, jobs: list[Job], readings: list[Reading]
) -> Iterator[Callable[[], Reading]]:
    """What opens each recording, or each channel of it; notes who is who on the way."""
    from streamer.commands.results import Job
    from streamer.recordings import Unreadable

    def open_(job: Job) -> Reading:
        readings.append(reading := Reading(recordings.blocks(job.name, job.channel)))
        return reading

    for position, name in enumerate(args.files):
        parts = [Job(name, position)]
        if args.multichannel:
            with suppress(Unreadable):  # whoever opens it finds out, and says so
                count = recordings.channels(name)
                parts = [Job(name, position, channel, count) for channel in range(count)]
        for job in parts:
            jobs.append(job)
            yield partial(open_, job)


def _results(args: argparse.Namespace, where: Targets) -> Results:
    from streamer.commands.results import Files, InTurn, Lines, Objects

    if args.json:
        return InTurn(Objects())
    if where.kind is None:
        several = len(args.files) > 1
        return InTurn(Lines(titled=several or args.multichannel, whole=several))
    files = Files(partial(open_target, where, style(args)))
    return files if where.paths else InTurn(files, together=True)


def open_target(where: Targets, style: Style, job: Job) -> Writer:
    """The writer of one input's words."""
    from streamer.subtitles.writers import open_writer

    assert where.kind is not None, "kind: got None, expected one of a writer"
    target = where.paths[job.position] if where.paths else sys.stdout
    return open_writer(target, where.kind, name=job.name, style=style, channels=job.channels, overwrite=where.overwrite)
