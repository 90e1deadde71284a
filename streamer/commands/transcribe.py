"""`streamer transcribe`: files to text, or to JSON lines with words, tokens and their frames."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from streamer.commands import FAILED, OK, TAIL_MS, add_model_flags, command, say, whole

if TYPE_CHECKING:
    from streamer.commands.listening import Opened, Transcript


def add(commands: Any) -> None:
    """The flags of the command."""
    parser = command(
        commands,
        "transcribe",
        "files to text",
        """
        streamer transcribe talk.flac
        streamer transcribe --latency 160 --json *.wav > words.jsonl
        streamer transcribe --model nemotron.nemo --language en-US talk.wav
        """,
    )
    add_model_flags(parser)
    parser.add_argument(
        "--json",
        action="store_true",
        help="one JSON object a line: audio_filepath, text, words, tokens "
        "(ids), frames (of 80 ms, one for each token), duration",
    )
    parser.add_argument(
        "--tail-ms",
        type=whole(0),
        metavar="N",
        help="silence heard after each file in ms; 0 gives exactly "
        f"the tokens of the audio (default: {TAIL_MS}, with --json 0)",
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="any file libsndfile reads, any rate and channels")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Hear every file; results in the order of the command line, errors at once."""
    from streamer.commands.listening import Opened, open_listener
    from streamer.commands.progress import progress
    from streamer.recordings import Recordings

    tail_ms = args.tail_ms if args.tail_ms is not None else (0 if args.json else TAIL_MS)
    listener = open_listener(args, tail_ms, slots=min(16, len(args.files)))
    recordings, failed = Recordings(), 0
    opened = Opened(partial(recordings.read, name) for name in args.files)
    try:
        with progress("transcribing", len(args.files), whole_lines=args.json) as tick:
            for position, transcript in in_order(listener.hear(opened), opened):
                tick()
                failed += transcript.error is not None
                report(args.files[position], transcript, args.json, titled=len(args.files) > 1)
    finally:
        listener.close()
        recordings.close()
    return FAILED if failed or opened.failed else OK


def in_order(transcripts: Iterator[Transcript], opened: Opened) -> Iterator[tuple[int, Transcript]]:
    """The transcripts in the order of their recordings, each as soon as those before it are out."""
    early: dict[int, Transcript] = {}
    following = 0
    for transcript in transcripts:
        early[transcript.index] = transcript
        while following in early:
            yield opened.positions[following], early.pop(following)
            following += 1


def report(name: str, transcript: Transcript, as_json: bool, titled: bool) -> None:
    """One file's result on stdout."""
    if transcript.error is not None:
        say(f"streamer: {name}: {transcript.error}")
    elif as_json:
        print(json.dumps(line(name, transcript), ensure_ascii=False), flush=True)
    else:
        print(f"{name}: {transcript.text}" if titled else transcript.text, flush=True)


def line(name: str, transcript: Transcript) -> dict[str, Any]:
    """The JSON line of one file."""
    words = [
        {"word": w.text, "start": round(w.start_s, 3), "end": round(w.end_s, 3), "confidence": round(w.confidence, 4)}
        for w in transcript.words
    ]
    return {
        "audio_filepath": name,
        "text": transcript.text,
        "words": words,
        "tokens": [token.id for token in transcript.tokens],
        "frames": [token.frame for token in transcript.tokens],
        "duration": round(transcript.duration_s, 4),
    }
