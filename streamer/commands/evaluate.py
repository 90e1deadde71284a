"""`streamer eval`: word error rate over a manifest, overall and for each source."""

from __future__ import annotations

import argparse
import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

from streamer.commands import FAILED, OK, CommandError, add_model_flags, command, say, whole

_APART = re.compile(r"[^\w\s']|_")


def add(commands: Any) -> None:
    """The flags of the command."""
    parser = command(
        commands,
        "eval",
        "word error rate over a manifest",
        """
        streamer eval --manifest corpus/test.jsonl --latency 560
        streamer eval --manifest m.jsonl --audio-root /data --limit 100 --json | tail -n 1
        """,
    )
    add_model_flags(parser)
    parser.add_argument(
        "--manifest",
        required=True,
        type=Path,
        metavar="M.jsonl",
        help="JSON lines with audio_filepath (also `a.tar!member`), text and, if there is one, source",
    )
    parser.add_argument(
        "--audio-root", type=Path, metavar="DIR", help="what the paths are relative to (default: the manifest's folder)"
    )
    parser.add_argument("--limit", type=whole(1), metavar="N", help="only the first N lines")
    parser.add_argument(
        "--tail-ms", type=whole(0), default=640, metavar="N", help="silence after each recording (default: 640)"
    )
    parser.add_argument("--json", action="store_true", help="also one JSON object for each recording")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Hear everything, print the table and, as the last line, one JSON object."""
    from streamer.commands.listening import open_listener
    from streamer.commands.progress import progress
    from streamer.recordings import Recordings, manifest

    entries = list(manifest(args.manifest))[: args.limit]
    if not entries:
        raise CommandError(f"{args.manifest}: no line to evaluate")
    recordings = Recordings(args.audio_root or args.manifest.parent)
    listener = open_listener(args, args.tail_ms)
    heard: dict[int, str] = {}
    audio_s = 0.0
    try:
        with progress("evaluating", len(entries)) as tick:
            for transcript in listener.hear(recordings.read(entry["audio_filepath"]) for entry in entries):
                tick()
                audio_s += transcript.duration_s
                heard[transcript.index] = transcript.text
                if transcript.error is not None:
                    say(f"streamer: {entries[transcript.index]['audio_filepath']}: {transcript.error}")
                elif args.json:
                    entry = entries[transcript.index]
                    print(json.dumps(entry | {"pred_text": transcript.text}, ensure_ascii=False), flush=True)
    finally:
        listener.close()
        recordings.close()
    scores = score(entries, heard)
    about = {
        "model": listener.config.name,
        "latency_ms": listener.latency_ms,
        "recordings": len(heard),
        "audio_seconds": round(audio_s, 2),
    }
    table(scores)
    print(json.dumps({**scores, **about}), flush=True)
    return OK if len(heard) == len(entries) else FAILED


def normalize(text: str) -> str:
    """Lower case, no punctuation but the apostrophe, one blank between words."""
    return " ".join(_APART.sub(" ", text.lower().replace("\u2019", "'")).split())


def score(entries: list[dict[str, Any]], heard: dict[int, str]) -> dict[str, Any]:
    """Word error rates as fractions: errors over reference words, overall and for each source."""
    pairs: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for index, text in sorted(heard.items()):
        reference = normalize(str(entries[index].get("text", "")))
        if reference:
            pairs[str(entries[index].get("source", "all"))].append((reference, normalize(text)))
    return {
        "wer": error_rate([pair for group in pairs.values() for pair in group]),
        "words": sum(len(reference.split()) for group in pairs.values() for reference, _ in group),
        "per_source": {source: error_rate(group) for source, group in sorted(pairs.items())},
    }


def error_rate(pairs: list[tuple[str, str]]) -> float | None:
    """WER of (reference, hypothesis) pairs, None where there is no reference."""
    import jiwer

    if not pairs:
        return None
    references, hypotheses = zip(*pairs, strict=True)
    return round(float(jiwer.wer(list(references), list(hypotheses))), 5)


def table(scores: dict[str, Any]) -> None:
    """The rates in percent, for people."""
    rows = [*scores["per_source"].items(), ("overall", scores["wer"])]
    width = max(len(source) for source, _ in rows)
    for source, rate in rows:
        print(f"{source:<{width}}  {'-' if rate is None else f'{100 * rate:6.2f} %'}")
