"""The machine: versions, what it moves and multiplies a second, what launches and graphs cost on it."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from streamer.bench.machine import cpu_name
from streamer.gpu_check.job import Job
from streamer.gpu_check.random_models import place
from streamer.gpu_check.speed import measured
from streamer.gpu_check.stopwatch import Marks

PACKAGES = ("torch", "triton", "cuda-bindings", "numpy", "onnxruntime", "aiohttp", "uvloop", "tensorrt-rtx-cu13")
SMI = "name,driver_version,memory.total,clocks.max.sm,clocks.max.memory,clocks.sm,power.limit"
LAUNCHES = 1000
TRIPS = 1000


def run(job: Job) -> None:
    """Everything that other figures are to be read with."""
    device, _ = place(job)
    marks = Marks(device)
    job.note(versions=versions(), machine=machine(device), nvidia_smi=smi())
    job.note(reach=measured(marks, job))
    job.note(launches=launches(marks, device))
    if job.cuda:
        job.note(while_node=while_node(marks, device))


def versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "cuda": str(torch.version.cuda)}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def machine(device: torch.device) -> dict[str, Any]:
    about: dict[str, Any] = {"processor": cpu_name(), "processors": os.cpu_count(), "system": platform.platform()}
    if device.type == "cuda":
        gpu = torch.cuda.get_device_properties(device)
        about |= {
            "gpu": gpu.name,
            "compute_capability": f"{gpu.major}.{gpu.minor}",
            "multiprocessors": gpu.multi_processor_count,
            "gpu_bytes": gpu.total_memory,
        }
    return about


def smi() -> dict[str, str]:
    """What nvidia-smi says, where it is."""
    command = ["nvidia-smi", f"--query-gpu={SMI}", "--format=csv,noheader"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        return {"error": str(error)[:200]}
    return dict(zip(SMI.split(","), (part.strip() for part in said.split("\n")[0].split(",")), strict=False))


def launches(marks: Marks, device: torch.device) -> dict[str, float]:
    """Microseconds of the host for one small kernel, and of the device for one node of a graph of them."""
    x = torch.zeros(1, device=device)
    for _ in range(10):
        x.add_(1.0)
    marks.wait()
    begin = time.perf_counter()
    for _ in range(LAUNCHES):
        x.add_(1.0)
    host = time.perf_counter() - begin
    marks.wait()
    both = time.perf_counter() - begin
    costs = {"host_us": 1e6 * host / LAUNCHES, "eager_us": 1e6 * both / LAUNCHES}
    if device.type == "cuda":
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(LAUNCHES):
                x.add_(1.0)
        costs["graph_node_us"] = 1000 * marks.timed(graph.replay, 10) / LAUNCHES
    return {name: round(value, 3) for name, value in costs.items()}


def while_node(marks: Marks, device: torch.device) -> dict[str, Any]:
    """Microseconds of the device for a trip of a WHILE node with one kernel of the body's own."""
    from streamer.backends.graphs import while_set

    stream: Any = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    counter, start = (torch.ones(1, dtype=torch.int32, device=device) for _ in range(2))
    keep: list[Any] = []
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.stream(stream), torch.inference_mode():
            counter.sub_(1)
            stream.synchronize()
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                counter.copy_(start)
                with while_set(counter, keep):
                    counter.sub_(1)
            few = marks.timed(graph.replay, 10)
            start.fill_(1 + TRIPS)
            many = marks.timed(graph.replay, 10)
    except Exception as error:  # whatever the driver or its bindings say is the finding
        return {"error": f"{type(error).__name__}: {error}"[:400]}
    return {"trip_us": round(1000 * (many - few) / TRIPS, 3), "one_trip_us": round(1000 * few, 2)}
