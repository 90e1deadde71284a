"""Every counter and histogram of /metrics, declared once, with help and unit. Knows nothing of what it counts."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
STEP_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
LATENCY_S = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 5.0, 10.0)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
NOTED = 64  # steps that are noted before they are counted: a call a number a step is as dear as its rows


class Total:
    """A counter without a lock, for one thread: it is counted many times a second, and read once in many seconds."""

    def __init__(self, name: str, text: str, *, registry: CollectorRegistry) -> None:
        self._name, self._text, self._value = name, text, 0.0
        registry.register(self)

    def add(self, value: float) -> None:
        """So much more."""
        self._value += value

    def collect(self) -> Iterable[CounterMetricFamily]:
        """What the registry asks for."""
        yield CounterMetricFamily(self._name, self._text, value=self._value)


class Spread:
    """A histogram that takes many values at once: the rows of a step are thousands, and one call each is too dear."""

    def __init__(self, name: str, text: str, *, buckets: Sequence[float], registry: CollectorRegistry) -> None:
        self._name, self._text = name, text
        self._edges = np.array(buckets, np.float64)
        self._counts = np.zeros(len(buckets) + 1, np.int64)
        self._sum = 0.0
        registry.register(self)

    def observe_all(self, values: Sequence[float]) -> None:
        """Count each of them."""
        found = np.searchsorted(self._edges, values, side="left")
        self._counts += np.bincount(found, minlength=len(self._counts))
        self._sum += float(np.sum(values))

    def collect(self) -> Iterable[HistogramMetricFamily]:
        """What the registry asks for."""
        names = [*map(str, self._edges.tolist()), "+Inf"]
        buckets = list(zip(names, np.cumsum(self._counts).tolist(), strict=True))
        yield HistogramMetricFamily(self._name, self._text, buckets=buckets, sum_value=self._sum)


def _one(fits: Callable[[], Mapping[int, int]], latency_ms: int) -> float:
    return fits()[latency_ms]


class First:
    """Registered before the numbers themselves: what was only noted is counted before they are collected."""

    def __init__(self, count: Callable[[], None]) -> None:
        self._count = count

    def collect(self) -> Iterable[Metric]:
        """Nothing of its own."""
        self._count()
        return ()


class Metrics:
    """One daemon's numbers, in a registry of their own."""

    def __init__(self, streams: Callable[[], float], rooms: Callable[[], float], viewers: Callable[[], float]) -> None:
        self.registry = own = CollectorRegistry()
        self._noted: deque[tuple[int, float, Sequence[float], Sequence[float]]] = deque()  # steps, not counted yet
        self._counting = threading.Lock()
        own.register(First(self._count))
        for name, text, now in (
            ("streamer_streams", "Streams that are open now.", streams),
            ("streamer_rooms", "Rooms with a speaker, or whose speaker is away for a while.", rooms),
            ("streamer_viewers", "Viewers of all rooms.", viewers),
        ):
            Gauge(name, text, registry=own).set_function(now)
        self.opened = Counter("streamer_streams_opened", "Streams opened so far.", registry=own)
        self.audio = Total("streamer_audio_seconds", "Audio given to the engine, seconds.", registry=own)
        self.steps = Counter("streamer_steps", "Steps of the engine, by chunk length.", ["chunk"], registry=own)
        self.rows = Histogram("streamer_batch_rows", "Streams stepped together.", buckets=ROWS, registry=own)
        self.step = Histogram("streamer_step_seconds", "Time of a step.", ["chunk"], buckets=STEP_S, registry=own)
        self.wait = Spread(
            "streamer_queue_wait_seconds",
            "From the arrival of a chunk's last sample to its step.",
            buckets=LATENCY_S,
            registry=own,
        )
        self.late = Spread(
            "streamer_chunk_lateness_seconds",
            "From when a real-time client would have sent a chunk to the end of its step.",
            buckets=LATENCY_S,
            registry=own,
        )
        self.partial = Histogram(
            "streamer_partial_latency_seconds",
            "From the arrival of a chunk's last sample to its partial on the socket.",
            buckets=LATENCY_S,
            registry=own,
        )
        self.final = Histogram(
            "streamer_final_latency_seconds",
            "From a finalize or close to its final on the socket.",
            buckets=LATENCY_S,
            registry=own,
        )
        self.refusals = Counter("streamer_refusals", "Connections refused, by code.", ["code"], registry=own)
        self.errors = Counter("streamer_errors", "Error messages sent on streams, by code.", ["code"], registry=own)

    def stepped(self, chunk: int, seconds: float, waits_s: Sequence[float], late_s: Sequence[float]) -> None:
        """A step was made; waits and lateness are of its rows. Some together are counted in the time of a few."""
        self._noted.append((chunk, seconds, waits_s, late_s))
        if len(self._noted) >= NOTED:
            self._count()

    def _count(self) -> None:
        """The steps that were noted, by the engine's thread while we may be asked for the numbers."""
        with self._counting:
            noted = [self._noted.popleft() for _ in range(len(self._noted))]
            if not noted:
                return
            for chunk, seconds, waits_s, _ in noted:
                self.steps.labels(str(chunk)).inc()
                self.step.labels(str(chunk)).observe(seconds)
                self.rows.observe(len(waits_s))
            self.wait.observe_all([value for _, _, waits_s, _ in noted for value in waits_s])
            self.late.observe_all([value for _, _, _, late_s in noted for value in late_s])

    def describe(self, about: Mapping[str, str]) -> None:
        """What the engine runs on, as labels of a gauge that is 1."""
        gauge = Gauge("streamer_backend", "How the model runs: 1.", sorted(about), registry=self.registry)
        gauge.labels(**about).set(1)

    def room(self, latencies_ms: Iterable[int], fits: Callable[[], Mapping[int, int]]) -> None:
        """How many streams of each latency fit, asked for whenever somebody looks."""
        text = "Streams of this latency that are kept on time when there are no others."
        gauge = Gauge("streamer_capacity_streams", text, ["latency_ms"], registry=self.registry)
        for latency_ms in sorted(latencies_ms):
            gauge.labels(str(latency_ms)).set_function(partial(_one, fits, latency_ms))

    def exposition(self) -> bytes:
        """The text that Prometheus reads."""
        return generate_latest(self.registry)
