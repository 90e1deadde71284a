"""Every counter and histogram of /metrics, declared once, with help and unit. Knows nothing of what it counts."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
STEP_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
LATENCY_S = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 5.0, 10.0)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """One daemon's numbers, in a registry of their own."""

    def __init__(self, streams: Callable[[], float], rooms: Callable[[], float], viewers: Callable[[], float]) -> None:
        self.registry = own = CollectorRegistry()
        for name, text, now in (
            ("streamer_streams", "Streams that are open now.", streams),
            ("streamer_rooms", "Rooms with a speaker, or whose speaker is away for a while.", rooms),
            ("streamer_viewers", "Viewers of all rooms.", viewers),
        ):
            Gauge(name, text, registry=own).set_function(now)
        self.opened = Counter("streamer_streams_opened", "Streams opened so far.", registry=own)
        self.audio = Counter("streamer_audio_seconds", "Audio given to the engine, seconds.", registry=own)
        self.steps = Counter("streamer_steps", "Steps of the engine, by chunk length.", ["chunk"], registry=own)
        self.rows = Histogram("streamer_batch_rows", "Streams stepped together.", buckets=ROWS, registry=own)
        self.step = Histogram("streamer_step_seconds", "Time of a step.", ["chunk"], buckets=STEP_S, registry=own)
        self.wait = Histogram(
            "streamer_queue_wait_seconds",
            "From the arrival of a chunk's last sample to its step.",
            buckets=LATENCY_S,
            registry=own,
        )
        self.late = Histogram(
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

    def exposition(self) -> bytes:
        """The text that Prometheus reads."""
        return generate_latest(self.registry)
