"""`streamer bench accuracy`: a model's word error rates at each of its latencies, as a table that can be kept."""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from streamer.commands import DEFAULT_BACKEND, FAILED, OK, TAIL_MS, CommandError, add_model_flags, command, whole


@dataclass(frozen=True, slots=True)
class Column:
    """What came out at one latency."""

    latency_ms: int | None  # None where the recordings were heard whole
    scores: dict[str, Any]  # as `evaluate.score` gives them
    failed: int
    audio_s: float
    wall_s: float


def add(verbs: Any) -> None:
    """The flags of the verb."""
    parser = command(verbs, "accuracy", "word error rates over a manifest, for each source and latency")
    add_model_flags(parser)
    parser.add_argument("--manifest", required=True, type=Path, metavar="M.jsonl", help="as for `streamer eval`")
    parser.add_argument(
        "--audio-root", type=Path, metavar="DIR", help="what the paths are relative to (default: the manifest's folder)"
    )
    parser.add_argument("--limit", type=whole(1), metavar="N", help="only the first N lines")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="also write the table there")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Hear the manifest once for each latency (or at the one that is asked for), and print the table."""
    from streamer.recordings import manifest

    entries = list(islice(manifest(args.manifest), args.limit))
    if not entries:
        raise CommandError(f"{args.manifest}: no line to evaluate")
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
    name, columns = heard_at(args, entries)
    text = table(columns, f"Word error rates of {name} on {args.manifest.name}, in percent")
    print(text, end="")
    if args.out:
        (args.out / f"accuracy-{name}-{args.manifest.stem}.md").write_text(text, "utf-8")
    return FAILED if any(column.failed for column in columns) else OK


def heard_at(args: argparse.Namespace, entries: list[Any]) -> tuple[str, list[Column]]:
    """The model's name and a column for each latency, the longest first."""
    from streamer import artefacts
    from streamer.commands import evaluate, listening
    from streamer.commands.models import read
    from streamer.recordings import Recordings

    asked = [args.latency]
    if args.latency is None:
        config = read(artefacts.resolve(args.model, args.backend or DEFAULT_BACKEND, args.precision))
        asked = [str(latency) for latency in sorted(config.latencies_ms, reverse=True)] or [listening.OFFLINE]
    columns, name = [], ""
    for latency in asked:
        recordings = Recordings(args.audio_root or args.manifest.parent)
        listener = listening.open_listener(argparse.Namespace(**(vars(args) | {"latency": latency})), TAIL_MS)
        began = time.perf_counter()
        try:
            heard = evaluate.hear(entries, recordings, listener, as_json=False)
        finally:
            listener.close()
            recordings.close()
        wall_s = time.perf_counter() - began
        scores = evaluate.score(entries, {place: transcript.text for place, transcript in heard.items()})
        audio_s = sum(transcript.duration_s for transcript in heard.values())
        columns.append(Column(listener.latency_ms, scores, len(entries) - len(heard), audio_s, wall_s))
        name = listener.config.name
    return name, columns


def table(columns: list[Column], title: str) -> str:
    """Sources down, latencies across, then speed and machine, as Markdown."""
    from streamer.bench.machine import machine

    heads = ["whole" if column.latency_ms is None else f"{column.latency_ms} ms" for column in columns]
    rows = [["source", *heads], ["---", *("---:" for _ in heads)]]
    for source in columns[0].scores["per_source"]:
        rows.append([source, *(percent(column.scores["per_source"].get(source)) for column in columns)])
    rows.append(["**all**", *(percent(column.scores["wer"]) for column in columns)])
    rows.append(["recordings that failed", *(str(column.failed) for column in columns)])
    rows.append(["seconds of audio heard a second", *(f"{c.audio_s / c.wall_s:.0f}" for c in columns)])
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    about = [f"- {key}: {value}" for key, value in machine()]
    words = columns[0].scores["words"]
    return "\n".join([f"# {title}", "", *lines, "", f"- reference words: {words}", *about]) + "\n"


def percent(rate: float | None) -> str:
    return "-" if rate is None else f"{100 * rate:.2f}"
