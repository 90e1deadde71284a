"""The figures of a load: one object for JSON, and the same as Markdown. Knows nothing of how they were found."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

from streamer.bench.machine import cpu_name, machine
from streamer.bench.order import Order
from streamer.bench.tally import Tally, spread

LATE_MS = 10.0  # a generator whose p95 is beyond has measured itself
MOST_ERRORS = 5
_DELAYS = {
    "chunk_to_partial_ms": "last sample of a chunk sent to its partial",
    "finalize_to_final_ms": "finalize to its final",
    "close_to_closed_ms": "close to everything final",
    "word_to_partial_ms": "a word's end to the first partial that has it",
    "word_to_stable_ms": "a word's end until it is stable",
    "word_to_final_ms": "a word's end to its final",
    "sender_late_ms": "our own lateness: a message's time to its sending",
}
Figures = dict[str, Any]


def figures(tally: Tally, order: Order, about: Figures) -> Figures:
    """All there is to say; `about` are further fields: the model, the latency, what the daemon took."""
    delays = {
        "chunk_to_partial_ms": tally.chunks.milliseconds(),
        "finalize_to_final_ms": tally.finalizes.milliseconds(),
        "close_to_closed_ms": tally.closes.milliseconds(),
        "word_to_partial_ms": tally.first.milliseconds(),
        "word_to_stable_ms": tally.stable.milliseconds(),
        "word_to_final_ms": tally.final.milliseconds(),
        "sender_late_ms": spread(tally.late),
    }
    mishaps = order.mishaps
    return {
        **about,
        "streams": order.streams,
        "seconds": round(tally.at, 1),
        "message_ms": order.message_ms,
        "jitter_ms": mishaps.jitter_ms,
        "stalls": mishaps.stalls,
        "disconnects": mishaps.disconnects,
        "finalize_s": mishaps.finalize_s,
        "seed": order.seed,
        "ended": dict(tally.hows),
        "ended_with_cuts": tally.cut_streams,
        "words": tally.words,
        "words_different": tally.different,
        "finals_lost": tally.finals_lost,
        "stable_words_changed": tally.broken,
        **delays,
        "generator_on_time": on_time(delays["sender_late_ms"]),
        "audio_s": round(tally.audio_s, 1),
        "clients_cpu_s_per_audio_s": round(sum(tally.cpu_s.values()) / tally.audio_s, 4) if tally.audio_s else None,
        "messages_sent": tally.sent,
        "messages_received": tally.received,
        "errors": [f"{count} x {text}" for text, count in islice(tally.errors.items(), MOST_ERRORS)],
        "cpu": cpu_name(),
        **dict(machine()),
    }


def on_time(late_ms: dict[str, float]) -> bool:
    """Whether the clients kept real time."""
    return late_ms.get("p95", 0.0) <= LATE_MS


def warnings(found: Figures) -> list[str]:
    """What makes the figures worth less, in sentences."""
    if found["generator_on_time"]:
        return []
    late_ms = found["sender_late_ms"]["p95"]
    return [f"the clients were late themselves (p95 {late_ms:.0f} ms, expected at most {LATE_MS:g}): try --processes"]


def table(found: Figures, title: str, picture: str = "", more: Sequence[tuple[str, str]] = ()) -> str:
    """The figures as Markdown, `more` rows and the machine last; `picture` is a file beside it."""
    delays = "".join(
        f"| {name} | {' | '.join(_cell(found[key], which) for which in ('p50', 'p95', 'p99', 'max'))} "
        f"| {found[key]['count']} |\n"
        for key, name in _DELAYS.items()
    )
    rows = "".join(f"| {name} | {value} |\n" for name, value in _rows(found, more))
    shown = f"\n![Delays of this run]({picture})\n" if picture else ""
    said = "".join(f"\n**{warning[0].upper()}{warning[1:]}.**\n" for warning in warnings(found))
    head = "| milliseconds | p50 | p95 | p99 | max | of |\n|---|---:|---:|---:|---:|---:|\n"
    return f"# {title}\n\n{head}{delays}{said}\n| | |\n|---|---|\n{rows}{shown}"


def _cell(delays: dict[str, float], which: str) -> str:
    return f"{delays[which]:.0f}" if which in delays else "-"


def _rows(found: Figures, more: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    ended = ", ".join(f"{count} {how}" for how, count in sorted(found["ended"].items())) or "none"
    mishaps = [
        f"{name} {found[key]:g}{unit}"
        for name, key, unit in (
            ("jitter up to", "jitter_ms", " ms"),
            ("stalls in a share of", "stalls", ""),
            ("broken lines in a share of", "disconnects", ""),
            ("finalize every", "finalize_s", " s"),
        )
        if found[key]
    ]
    rows = [
        ("streams at the same time", str(found["streams"])),
        ("streams that ended", ended),
        ("mishaps", ", ".join(mishaps) or "none"),
        ("finals lost", str(found["finals_lost"])),
        ("words other than `streamer transcribe` has", f"{found['words_different']} of {found['words']}"),
        ("streams with a finalize or a stall among them", str(found["ended_with_cuts"])),
        ("stable words that changed", str(found["stable_words_changed"])),
        ("audio / wall", f"{found['audio_s']:.0f} s / {found['seconds']:.0f} s, {found['message_ms']} ms a message"),
    ]
    for key, name, unit in (
        ("cpu_s_per_audio_s", "processor seconds of the daemon per second of audio", ""),
        ("clients_cpu_s_per_audio_s", "and of the clients", ""),
        ("step_ms", "a step of the engine, mean", " ms"),
        ("rows_a_step", "streams a step, mean", ""),
        ("daemon_partial_ms", "a chunk to its partial as the daemon has it, mean", " ms"),
        ("finalize_goal_ms", "two steps and 20 ms", " ms"),
        ("rss_mib", "memory of the daemon at the end", " MiB"),
    ):
        if found.get(key) is not None:
            rows.append((name, f"{found[key]:g}{unit}"))
    rows += [("errors", "; ".join(found["errors"]))] if found["errors"] else []
    return [*rows, *more] + [(name, str(found[name])) for name in ("machine", "versions", "date")]
