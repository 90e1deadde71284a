"""What this machine is to the engine: its processors, their name, the memory that is free. Knows no model."""

from __future__ import annotations

import os
import platform
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")  # a container's own limits, where the system has version 2


def processors() -> int:
    """Those that this process may use: under taskset, or in a container, not all there are. A limit of processor time
    (`docker --cpus`, Kubernetes' `limits.cpu`) counts as so many, rounded up."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    match _text(_CGROUP / "cpu.max").split():
        case [quota, period] if quota.isdigit() and period.isdigit() and int(period):
            return max(1, min(count, -(-int(quota) // int(period))))
    return count


def processor_name() -> str:
    """As the system calls it."""
    for line in _text(Path("/proc/cpuinfo")).splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def free_bytes() -> int | None:
    """Memory that nobody uses, or that a container may use yet; None where the system does not say."""
    free = [int(line.split()[1]) << 10 for line in _text(Path("/proc/meminfo")).splitlines() if "MemAvailable" in line]
    most, used = _text(_CGROUP / "memory.max").strip(), _text(_CGROUP / "memory.current").strip()
    if most.isdigit() and used.isdigit():
        free.append(max(0, int(most) - int(used)))
    return min(free, default=None)


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, ValueError):
        return ""
