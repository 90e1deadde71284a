"""What every table of figures says of its machine, and processor time of a process. Knows nothing else."""

from __future__ import annotations

import os
import platform
import time
from importlib.metadata import version
from pathlib import Path


def cpu_seconds(pid: int | None) -> float | None:
    """User and system seconds of a process, on Linux."""
    stat = Path(f"/proc/{pid}/stat")
    if pid is None or not stat.exists():
        return None
    fields = stat.read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / float(os.sysconf("SC_CLK_TCK"))


def machine() -> list[tuple[str, str]]:
    """What every table of figures ends with."""
    processors = f"{cpu_name()}, {os.cpu_count()} processors"
    return [("machine", processors), ("versions", _versions()), ("date", time.strftime("%Y-%m-%d"))]


def cpu_name() -> str:
    """The processor's own name."""
    info = Path("/proc/cpuinfo")
    names = (
        [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        if info.exists()
        else []
    )
    return names[0] if names else platform.processor() or platform.machine()


def _versions() -> str:
    names = ("onnxruntime", "numpy", "aiohttp", "websockets")
    return ", ".join([f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in names)])
