"""Ticks of many rows, timed: on the device, by the host, and as they come when two are under way.

The one place that looks behind a backend's verbs: its device is wrapped to put marks around each launch. Knows nothing
of which models are timed.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from models.config import SAMPLE_RATE
from models.tick import Tick
from streamer.backends.base import Row, samples_needed
from streamer.backends.device import DeviceBackend
from streamer.gpu_check.sounds import Pcm, cut
from streamer.gpu_check.stopwatch import Marks, percentiles

WARM = 3


class TimedDevice:
    """A backend's device with a mark before and behind each launch."""

    def __init__(self, inner: Any, marks: Marks) -> None:
        self._inner, self._marks = inner, marks
        self.pairs: list[tuple[Any, Any]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def __str__(self) -> str:
        return str(self._inner)

    def launch(self, tick: Tick, captured: Any, staging: Any) -> None:
        with self._inner.at_work():
            begin = self._marks.mark()
            self._inner.launch(tick, captured, staging)
            self.pairs.append((begin, self._marks.mark()))

    def taken_ms(self) -> float:
        """On the device since the last question; it has to be idle."""
        total = sum(self._marks.ms(*pair) for pair in self.pairs)
        self.pairs.clear()
        return total


class Drive:
    """Streams in slots 0 ... rows - 1 of a backend, stepped together through recorded speech."""

    def __init__(self, backend: DeviceBackend, audio: Pcm, chunk: int, rows: int) -> None:
        self.backend, self.chunk, self.rows = backend, chunk, rows
        self._audio, self._index, self.tokens = audio, 0, 0
        self._starts = np.linspace(0, len(audio), rows, endpoint=False).astype(int).tolist()
        for slot in range(rows):
            backend.open(slot)

    def next_rows(self) -> list[Row]:
        needed = samples_needed(self._index, self.chunk)
        self._index += 1
        rows = [Row(slot, cut(self._audio, at, needed)) for slot, at in enumerate(self._starts)]
        self._starts = [at + needed for at in self._starts]
        return rows

    def collect(self, ticket: Any) -> None:
        for heard in self.backend.collect(ticket):
            if isinstance(heard, Exception):
                raise heard
            self.tokens += len(heard)

    def step(self) -> None:
        self.collect(self.backend.launch(self.chunk, self.next_rows()))


def watched(backend: DeviceBackend) -> TimedDevice:
    """The backend's device, watched from here on."""
    device: Any = backend._device
    if not isinstance(device, TimedDevice):
        device = backend._device = TimedDevice(device, Marks(backend.arena.tail.device))  # type: ignore[assignment]
    assert isinstance(device, TimedDevice)
    return device


def step_times(backend: DeviceBackend, audio: Pcm, shape: tuple[int, int], ticks: int) -> dict[str, Any]:
    """Milliseconds of a step of (rows, chunk), p50 and p95 each.

    device: between the copy in and the copy out; wall: launch to collected tokens; host: the processor's part of that;
    apart: between two results when two steps are under way.
    """
    rows, chunk = shape
    device, marks = watched(backend), Marks(backend.arena.tail.device)
    drive = Drive(backend, audio, chunk, rows)
    for _ in range(WARM):
        drive.step()
    marks.wait()
    device.taken_ms()
    times: dict[str, list[float]] = {"device": [], "wall": [], "host": []}
    drive.tokens = 0
    for _ in range(ticks):
        batch = drive.next_rows()
        begin = time.perf_counter()
        ticket = backend.launch(chunk, batch)
        launched = time.perf_counter()
        marks.wait()
        done = time.perf_counter()
        drive.collect(ticket)
        end = time.perf_counter()
        times["device"].append(device.taken_ms())
        times["wall"].append(1000 * (end - begin))
        times["host"].append(1000 * (launched - begin + end - done))
    seconds = ticks * rows * samples_needed(1, chunk) / SAMPLE_RATE
    figures: dict[str, Any] = {f"{name}_ms": percentiles(values) for name, values in times.items()}
    _apart_s(drive, backend.depth)  # memory for as many launches is pinned
    figures["apart_ms"] = round(1000 * _apart_s(drive, ticks), 4)
    figures["tokens_a_second"] = round(drive.tokens / seconds / 2, 2)  # the second half of them without a clock
    figures["launches"] = -(-rows // backend.buckets(chunk)[-1])
    device.taken_ms()
    return figures


def _apart_s(drive: Drive, ticks: int) -> float:
    """Seconds between results with as many launches under way as the backend allows."""
    backend, batches = drive.backend, [drive.next_rows() for _ in range(ticks)]
    flying: list[Any] = []
    begin = time.perf_counter()
    for batch in batches:
        flying.append(backend.launch(drive.chunk, batch))
        if len(flying) >= backend.depth:
            drive.collect(flying.pop(0))
    while flying:
        drive.collect(flying.pop(0))
    return (time.perf_counter() - begin) / ticks


def program_of(backend: DeviceBackend, rows: int, chunk: int) -> tuple[Tick, Any]:
    """The tick that steps so many rows, and the graph it is captured in, if there is one."""
    bucket = next(size for size in backend.buckets(chunk) if size >= rows)
    return backend._ticks[bucket, chunk]


def at_work(backend: DeviceBackend) -> Any:
    """A context in which operators run in order with the backend's ticks."""
    return backend._device.at_work()
