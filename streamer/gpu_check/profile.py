"""What a tick is made of: kernels by time, launches, its three components. This steers what is made faster next."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from models.tick import Arena, DeviceModel, TorchEncoder
from models.tokenizer import Tokenizer
from streamer.backends.device import DeviceBackend, Options
from streamer.gpu_check.job import NO_TIME, Job
from streamer.gpu_check.random_models import Speaker, fitting, make, narrowed, place, set_blank, speaker
from streamer.gpu_check.sounds import speech
from streamer.gpu_check.stopwatch import Marks, nodes, percentiles, profiled
from streamer.gpu_check.ticking import WARM, Drive, at_work, program_of, watched

PROFILED = 3  # ticks
STEP_S = 40.0  # of one shape; with less time left it is not begun


def run(job: Job, model: str) -> None:
    """Shortest chunks, operator by operator: a graph holds the same kernels, and hides them from the profiler."""
    whole = job.size.models[model]
    chunk = min(whole.chunks)
    config = narrowed(whole, chunk)
    slots = fitting(job, config, max(job.size.profiled))
    rows = tuple(count for count in job.size.profiled if count <= slots)
    backend = _marked(job, make(config), Options(slots, rows, "eager", kernels=job.cuda))
    rate, _ = set_blank(backend, speech(job.size.recordings), chunk, job.size.hearing)
    job.note(model=model, chunk=chunk, tokens_a_second=rate, about=backend.about)
    shapes: dict[str, Any] = {}
    for count in rows:
        shapes[str(count)] = _shape(job, backend, count, chunk) if job.has(STEP_S) else NO_TIME
        job.note(shapes=shapes)
    del backend
    if job.has(2 * STEP_S):  # last: some drivers do not let a graph with a WHILE node be profiled
        spoken = speaker(job, config, chunk, max(rows), rows)
        job.note(captured={str(count): _captured(spoken, count, chunk) for count in rows})


def _shape(job: Job, backend: DeviceBackend, rows: int, chunk: int) -> dict[str, Any]:
    audio, marks = speech(job.size.recordings), Marks(torch.device(job.device))
    drive = Drive(backend, audio, chunk, rows)
    for _ in range(WARM):
        drive.step()
    found: dict[str, Any] = {"components_ms": _components(backend, drive, marks, job.size.ticks)}
    found |= profiled(marks, drive.step, PROFILED)
    tick, _ = program_of(backend, rows, chunk)
    with at_work(backend):
        found["head_nodes"] = nodes(torch.device(job.device), tick.head)
        found["trip_nodes"] = nodes(torch.device(job.device), tick.trip) if tick.loops else None
    return found


def _captured(spoken: Speaker, rows: int, chunk: int) -> dict[str, Any]:
    """The same tick as a graph: what the host launches."""
    backend = spoken.backend
    marks = Marks(backend.arena.tail.device)
    drive = Drive(backend, speech(1), chunk, rows)
    found = profiled(marks, drive.step, PROFILED)
    return {"host": found["host"], "on_device": found["on_device"], "rung": backend.about["rung"]}


def _components(backend: DeviceBackend, drive: Drive, marks: Marks, ticks: int) -> dict[str, list[float]]:
    """Milliseconds between marks: features, encoder, search with what is packed. Gaps between launches are in it."""
    device, encoder = watched(backend), backend._encoder
    assert isinstance(encoder, MarkedEncoder)
    times: dict[str, list[float]] = {"features": [], "encoder": [], "search": []}
    device.pairs.clear()
    for _ in range(ticks):
        encoder.pairs.clear()
        drive.step()
        marks.wait()
        (begin, end), (encode, encoded) = device.pairs.pop(), encoder.pairs.pop()
        for name, pair in (("features", (begin, encode)), ("encoder", (encode, encoded)), ("search", (encoded, end))):
            times[name].append(marks.ms(*pair))
    return {name: percentiles(values) for name, values in times.items()}


class MarkedEncoder:
    """A StepEncoder with a mark before and behind each call."""

    def __init__(self, inner: TorchEncoder, marks: Marks) -> None:
        self._inner, self._marks = inner, marks
        self.pairs: list[tuple[Any, Any]] = []

    def encode(self, mel: torch.Tensor, rows: Any) -> tuple[torch.Tensor, torch.Tensor]:
        begin = self._marks.mark()
        result = self._inner.encode(mel, rows)
        self.pairs.append((begin, self._marks.mark()))
        return result


def _marked(job: Job, model: Any, options: Options) -> DeviceBackend:
    device, dtype = place(job)
    marks = Marks(device)

    def encoder(on_device: DeviceModel, arena: Arena, kernels: bool) -> MarkedEncoder:
        return MarkedEncoder(TorchEncoder(on_device, arena, kernels), marks)

    make_encoder: Callable[[DeviceModel, Arena, bool], Any] = encoder
    tokenizer = Tokenizer.from_labels(model.config.labels)
    return DeviceBackend("pytorch", DeviceModel(model, dtype, device), tokenizer, make_encoder, options)
