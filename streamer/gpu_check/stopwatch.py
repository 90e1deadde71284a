"""What only CUDA has, behind one seam: time on the device, memory, what a profile and a graph hold.

On a CPU the clock takes the events' place and the operators that of the kernels, so that the same code runs. Knows
nothing of models or ticks.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

LAUNCHES = ("cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel", "cuLaunchKernelEx")
COPIES = ("cudaMemcpyAsync", "cudaMemsetAsync")
GRAPHS = ("cudaGraphLaunch",)
TOP = 15


class Marks:
    """Moments in the current stream of a device."""

    def __init__(self, device: torch.device) -> None:
        self._device, self.cuda = device, device.type == "cuda"

    def mark(self) -> Any:
        if not self.cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        return event

    def ms(self, begin: Any, end: Any) -> float:
        """Between two marks that the device has passed."""
        return float(begin.elapsed_time(end)) if self.cuda else 1000.0 * (end - begin)

    def wait(self) -> None:
        """Until the device has done everything."""
        if self.cuda:
            torch.cuda.synchronize(self._device)

    def used_bytes(self) -> int:
        return torch.cuda.memory_allocated(self._device) if self.cuda else 0

    def timed(self, work: Callable[[], object], times: int, warm: int = 3) -> float:
        """Milliseconds of one run of `work`: the median of `times`, each between two marks."""
        for _ in range(warm):
            work()
        self.wait()
        marks = []
        for _ in range(times):
            begin = self.mark()
            work()
            marks.append((begin, self.mark()))
        self.wait()
        return statistics.median(self.ms(*pair) for pair in marks)


def bandwidth(marks: Marks, device: torch.device, size: int) -> float:
    """Bytes a second of a copy on the device, those read and those written counted."""
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2.0 * size / (marks.timed(lambda: target.copy_(source), 10) / 1000.0)


def matrix_flops(marks: Marks, device: torch.device, rows: int, dtype: torch.dtype) -> float:
    """Operations a second of a square product of random numbers."""
    a, b = (torch.randn(rows, rows, device=device).to(dtype) for _ in range(2))
    out = torch.empty(rows, rows, dtype=dtype, device=device)
    return 2.0 * rows**3 / (marks.timed(lambda: torch.mm(a, b, out=out), 10) / 1000.0)


def percentiles(values: Sequence[float]) -> list[float]:
    """p50 and p95."""
    ordered = sorted(values)
    return [round(statistics.median(ordered), 4), round(ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))], 4)]


def profiled(marks: Marks, work: Callable[[], object], times: int) -> dict[str, Any]:
    """What `times` runs of `work` launch: the kernels that take longest, and counts for one run.

    Counted by torch's profiler: kernels as the device saw them, launches as the host made them.
    """
    from torch.profiler import ProfilerActivity, profile

    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if marks.cuda else [])]
    work()
    marks.wait()
    with profile(activities=kinds) as profiler:
        for _ in range(times):
            work()
        marks.wait()
    where = "CUDA" if marks.cuda else "CPU"
    rows, host = [], {"kernels": 0.0, "copies": 0.0, "graphs": 0.0}
    for event in profiler.key_averages():
        taken = event.self_device_time_total if marks.cuda else event.self_cpu_time_total
        if event.device_type.name == where and (not marks.cuda or taken > 0):
            rows.append((event.key[:160], event.count / times, taken / times))
        for kind, names in (("kernels", LAUNCHES), ("copies", COPIES), ("graphs", GRAPHS)):
            host[kind] += event.count / times if event.key in names else 0.0
    rows.sort(key=lambda row: -row[2])
    return {
        "on_device": round(sum(count for _, count, _ in rows), 1),
        "device_us": round(sum(us for _, _, us in rows), 1),
        "host": {kind: round(count, 1) for kind, count in host.items()},
        "top": [{"name": name, "count": round(count, 1), "us": round(us, 2)} for name, count, us in rows[:TOP]],
    }


def nodes(device: torch.device, work: Callable[[], None]) -> dict[str, Any] | None:
    """Nodes of the graph that `work` becomes, by kind; None on a CPU. The current stream has to be a side stream."""
    if device.type != "cuda":
        return None
    try:
        return _nodes(device, work)
    except Exception as error:  # torch, the driver and its bindings: a count is not worth a part
        return {"error": f"{type(error).__name__}: {error}"[:300]}


def _nodes(device: torch.device, work: Callable[[], None]) -> dict[str, int]:
    from cuda.bindings import runtime

    graph = torch.cuda.CUDAGraph(keep_graph=True)
    stream = torch.cuda.current_stream(device)
    with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        work()
    raw = graph.raw_cuda_graph()
    _, _, count = runtime.cudaGraphGetNodes(raw, 0)
    _, found, _ = runtime.cudaGraphGetNodes(raw, count)
    counts: dict[str, int] = {"all": int(count)}
    for node in found[:count]:
        _, kind = runtime.cudaGraphNodeGetType(node)
        name = kind.name.removeprefix("cudaGraphNodeType").lower()
        counts[name] = counts.get(name, 0) + 1
    return counts
