"""`streamer eval`: word error rate over a manifest, overall and for each source; with `--timing`, when words came."""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.training.text import normalize
from streamer.commands import FAILED, OK, TAIL_MS, CommandError, add_model_flags, command, say, whole

if TYPE_CHECKING:
    from streamer.commands.listening import Listener, Transcript
    from streamer.recordings import Entry, Recordings


def add(commands: Any) -> None:
    """The flags of the command."""
    parser = command(
        commands,
        "eval",
        "word error rate over a manifest",
        """
        streamer eval --manifest corpus/test.jsonl --latency 560
        streamer eval --manifest m.jsonl --audio-root /data --limit 100 --json | tail -n 1
        streamer eval --manifest corpus/dev.jsonl --latency 80 --timing
        """,
    )
    add_model_flags(parser)
    parser.add_argument(
        "--manifest",
        required=True,
        type=Path,
        metavar="M.jsonl",
        help="JSON lines with audio_filepath (also `a.tar!member`), text and, if there are, source (scored apart), "
        "offset and duration (the part of the file, seconds)",
    )
    parser.add_argument(
        "--audio-root", type=Path, metavar="DIR", help="what the paths are relative to (default: the manifest's folder)"
    )
    parser.add_argument("--limit", type=whole(1), metavar="N", help="only the first N lines")
    parser.add_argument(
        "--tail-ms",
        type=whole(0),
        default=TAIL_MS,
        metavar="N",
        help=f"silence after each recording (default: {TAIL_MS})",
    )
    parser.add_argument(
        "--timing",
        nargs="?",
        const="",
        metavar="M",
        help="also how long after its end a word was seen, stable and final. Lines of the manifest may say when words "
        "were spoken (`words`: word, start, end); for the others a model with a CTC head does, with torch: M, or the "
        "model itself",
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="also one JSON object for each recording, as they get ready: not in the manifest's order",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Hear everything, print the table and, as the last line, one JSON object."""
    from streamer.commands.listening import open_listener
    from streamer.recordings import Recordings, manifest

    entries = list(islice(manifest(args.manifest), args.limit))
    if not entries:
        raise CommandError(f"{args.manifest}: no line to evaluate")
    recordings = Recordings(args.audio_root or args.manifest.parent)
    listener = open_listener(args, args.tail_ms)
    timing: dict[str, Any] = {}
    try:
        if args.timing is None:
            heard = hear(entries, recordings, listener, args.json)
        else:
            from streamer.commands import timing as times

            watch = times.Watch(listener)
            heard = hear(entries, recordings, watch, args.json)
            timing = times.measure(entries, heard, watch, times.Times(recordings, args.timing or args.model))
    finally:
        listener.close()
        recordings.close()
    scores = score(entries, {index: transcript.text for index, transcript in heard.items()})
    about = {
        "model": listener.config.name,
        "latency_ms": listener.latency_ms,
        "recordings": len(heard),
        "failed": len(entries) - len(heard),
        "audio_seconds": round(sum(transcript.duration_s for transcript in heard.values()), 2),
    }
    table(scores)
    if timing:
        times.table(timing)
    print(json.dumps({**scores, **about, **({"timing": timing} if timing else {})}), flush=True)
    return OK if len(heard) == len(entries) else FAILED


def hear(entries: list[Entry], recordings: Recordings, listener: Listener, as_json: bool) -> dict[int, Transcript]:
    """What was heard, by place in the manifest. What failed is said and is not there."""
    from streamer.commands.listening import Opened
    from streamer.commands.progress import progress

    opened = Opened(partial(recordings.read, entry.audio_filepath, entry.part) for entry in entries)
    heard: dict[int, Transcript] = {}
    with progress("evaluating", len(entries), whole_lines=as_json) as tick:
        for transcript in listener.hear(opened):
            tick()
            place = opened.positions[transcript.index]
            entry = entries[place]
            if transcript.error is not None:
                say(f"streamer: {entry.audio_filepath}: {transcript.error}")
                continue
            heard[place] = transcript
            if as_json:
                print(json.dumps(entry.fields | {"pred_text": transcript.text}, ensure_ascii=False), flush=True)
    return heard


def score(entries: list[Entry], heard: dict[int, str]) -> dict[str, Any]:
    """Word error rates as fractions: errors over reference words, overall and for each source."""
    pairs: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for index, text in sorted(heard.items()):
        pairs[entries[index].source].append((normalize(entries[index].text), normalize(text)))
    return {
        "wer": error_rate([pair for group in pairs.values() for pair in group]),
        "words": sum(len(reference.split()) for group in pairs.values() for reference, _ in group),
        "per_source": {source: error_rate(group) for source, group in sorted(pairs.items())},
        "heard_in_silence": {source: heard_in_silence(group) for source, group in sorted(pairs.items())},
    }


def error_rate(pairs: list[tuple[str, str]]) -> float | None:
    """WER of (reference, hypothesis) pairs; None where no word was said. Words heard in silence are errors too."""
    import jiwer

    said = [(reference, hypothesis) for reference, hypothesis in pairs if reference]
    if not said:
        return None
    references, hypotheses = zip(*said, strict=True)
    counts = jiwer.process_words(list(references), list(hypotheses))
    errors = counts.substitutions + counts.deletions + counts.insertions
    errors += heard_in_silence(pairs)
    return round(errors / sum(len(reference.split()) for reference, _ in said), 5)


def heard_in_silence(pairs: list[tuple[str, str]]) -> int:
    """Words heard in recordings in which none was said; a source of such recordings alone has no rate to show them."""
    return sum(len(hypothesis.split()) for reference, hypothesis in pairs if not reference)


def table(scores: dict[str, Any]) -> None:
    """The rates in percent, for people."""
    rows = [*scores["per_source"].items(), ("overall", scores["wer"])]
    width = max(len(source) for source, _ in rows)
    for source, rate in rows:
        false = scores["heard_in_silence"].get(source, 0)
        note = f"  (words heard where none was said: {false})" if false else ""
        print(f"{source:<{width}}  {'     -  ' if rate is None else f'{100 * rate:6.2f} %'}{note}".rstrip())
