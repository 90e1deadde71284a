"""What /metrics says besides what server tests count."""

from __future__ import annotations

from streamer.backends.fake import FakeBackend
from streamer.metrics import Metrics


def test_what_the_model_runs_on_are_labels_of_a_gauge() -> None:
    metrics = Metrics(*[lambda: 0.0] * 3)
    assert b"streamer_backend" not in metrics.exposition()
    metrics.describe({"name": "fake", **FakeBackend().about})
    (line,) = [line for line in metrics.exposition().decode().splitlines() if line.startswith("streamer_backend{")]
    assert line == 'streamer_backend{device="cpu",kernels="library",name="fake",precision="fp32",rung="eager"} 1.0'
