"""A daemon's own numbers from outside: its /metrics between two moments, and the memory of its processes.

Knows nothing of loads.
"""

from __future__ import annotations

import http.client
import json
import os
import re
from pathlib import Path
from urllib.parse import urlsplit

from streamer.bench import machine

_SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
Numbers = dict[str, float]


def metrics(url: str) -> Numbers:
    """Sums over all labels but `le`, by name, of the daemon at ws://HOST:PORT; empty where it does not answer."""
    return summed(_said(url, "/metrics"))


def capacity(url: str, latency_ms: int) -> int | None:
    """Streams of one latency that a daemon says fit; None where it says nothing."""
    try:
        return int(json.loads(_said(url, "/v1/info"))["capacity"][str(latency_ms)])
    except (ValueError, KeyError, TypeError):
        return None


def _said(url: str, path: str) -> str:
    """What a daemon answers; nothing where it does not."""
    parts = urlsplit(url)
    if parts.scheme != "ws" or parts.hostname is None:
        return ""
    connection = http.client.HTTPConnection(parts.hostname, parts.port or 80, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().read().decode("utf-8", "replace")
    except (OSError, http.client.HTTPException):
        return ""
    finally:
        connection.close()


def summed(text: str) -> Numbers:
    """The text of an exposition as numbers."""
    found: Numbers = {}
    for name, labels, value in _SAMPLE.findall(text):
        if "le=" not in labels and not name.endswith("_created"):
            found[name] = found.get(name, 0.0) + float(value)
    return found


def mean(before: Numbers, after: Numbers, name: str) -> float | None:
    """The mean of a histogram over what was observed between the two."""
    total, count = (after.get(name + end, 0.0) - before.get(name + end, 0.0) for end in ("_sum", "_count"))
    return total / count if count > 0 else None


def family(pid: int) -> list[int]:
    """A process and all that it started which run now; on Linux."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError):
            continue
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return sorted(found)


def cpu_seconds(pid: int | None) -> float:
    """Processor seconds of a process and all it started that runs now; 0 where unknown."""
    return 0.0 if pid is None else sum(machine.cpu_seconds(one) or 0.0 for one in family(pid))


def resident_bytes(pid: int | None) -> int | None:
    """What a process and its children hold in memory, pages that they share counted for each; None where unknown."""
    if pid is None:
        return None
    sizes = []
    for one in family(pid):
        try:
            pages = int(Path(f"/proc/{one}/statm").read_text().split()[1])
        except (OSError, IndexError):
            continue
        sizes.append(pages * os.sysconf("SC_PAGE_SIZE"))
    return sum(sizes) if sizes else None
