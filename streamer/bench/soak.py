"""What a long load shows that a short one does not: whether memory grows, whether delays drift. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from streamer.bench.tally import Delays

WARM_UP_S = 120.0  # at most so long, and at most a quarter of the time, memory may find its level
WARM_UP = 0.25
MIB = 1 << 20

Sample = tuple[float, int, int]  # seconds since the beginning, bytes, streams that had ended


def slope(points: Sequence[tuple[float, float]]) -> float:
    """How much y grows with each x, by least squares; 0 where all x are one."""
    if not points:
        return 0.0
    mean_x, mean_y = (sum(point[axis] for point in points) / len(points) for axis in (0, 1))
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0


def warm_up(seconds: float) -> float:
    """Seconds of so long a run that do not count for memory."""
    return min(WARM_UP_S, WARM_UP * seconds)


def memory(samples: Sequence[Sample], seconds: float, streams: int) -> dict[str, Any]:
    """How the daemon's memory went between its warm-up and the end of the time; empty where there are no samples."""
    settled = [sample for sample in samples if warm_up(seconds) <= sample[0] <= seconds]
    if len(settled) < 2:
        return {}
    a_minute = 60 * slope([(at, held) for at, held, _ in settled])
    return {
        "warm_up_s": round(warm_up(seconds), 1),
        "first_mib": round(settled[0][1] / MIB, 1),
        "last_mib": round(settled[-1][1] / MIB, 1),
        "most_mib": round(max(held for _, held, _ in samples) / MIB, 1),
        "bytes_a_minute": round(a_minute),
        "bytes_a_minute_and_open_stream": round(a_minute / streams),
        "bytes_an_ended_stream": round(slope([(ended, held) for _, held, ended in settled])),
    }


def drift(delays: Delays, begin: float, end: float) -> dict[str, Any]:
    """The delays of the first third of the time and of its last."""
    third = (end - begin) / 3
    return {
        "first_third": delays.between(begin, begin + third).milliseconds(),
        "last_third": delays.between(end - third, end).milliseconds(),
    }


def rows(found: dict[str, Any]) -> list[tuple[str, str]]:
    """The figures of a soak as a table's rows; `found` has capacity, share, memory and drifts."""
    told = []
    if found["capacity"]:
        fit = f"{found['capacity']}, {found['load']:.0%}"
        told.append(("streams that the daemon said fit, share of them that was put on", fit))
    if held := found["memory"]:
        told += [
            (f"memory after {held['warm_up_s']:g} s, at the end, most", _mib(held)),
            ("memory, a minute", f"{held['bytes_a_minute'] / 1024:+.1f} KiB"),
            ("memory, a minute and open stream", f"{held['bytes_a_minute_and_open_stream']:+d} bytes"),
            ("memory, for each stream that ended", f"{held['bytes_an_ended_stream']:+d} bytes"),
        ]
    for name, key in (
        ("chunk sent to its partial", "chunk_drift"),
        ("a word's end to its first partial", "word_drift"),
    ):
        thirds = (found[key][part] for part in ("first_third", "last_third"))
        pairs = (f"{one['p50']:.1f} / {one['p95']:.1f} ms" if one["count"] else "-" for one in thirds)
        told.append((f"{name}, p50 / p95, first third to last", " to ".join(pairs)))
    return told


def _mib(held: dict[str, Any]) -> str:
    return f"{held['first_mib']:g}, {held['last_mib']:g}, {held['most_mib']:g} MiB"
