"""Claims about numbers of several processes: sums that Prometheus can read, and that never go back."""

from __future__ import annotations

import json

import pytest
from prometheus_client.parser import text_string_to_metric_families

from streamer import tally
from streamer.metrics import Metrics


def counted(streams: int, opened: int, waits: list[float]) -> list[tally.Family]:
    """A process that has counted this, told as JSON tells it."""
    metrics = Metrics(lambda: streams, lambda: 0, lambda: 0)
    metrics.opened.inc(opened)
    metrics.refusals.labels("at_capacity").inc()
    metrics.stepped(7, 0.01, waits, waits)
    told: list[tally.Family] = json.loads(json.dumps(tally.read(metrics.registry)))
    return told


def samples(part: list[tally.Family]) -> dict[str, float]:
    found = text_string_to_metric_families(tally.exposition(part).decode())
    return {f"{s.name}{s.labels or ''}": s.value for family in found for s in family.samples}


def test_sums_are_of_all_processes() -> None:
    total = samples(tally.add([counted(2, 5, [0.004]), counted(3, 7, [0.3, 30.0])]))
    assert total["streamer_streams"] == 5
    assert total["streamer_streams_opened_total"] == 12
    assert total["streamer_refusals_total{'code': 'at_capacity'}"] == 2
    assert total["streamer_steps_total{'chunk': '7'}"] == 2
    assert total["streamer_queue_wait_seconds_count"] == 3
    assert total["streamer_queue_wait_seconds_sum"] == pytest.approx(30.304)
    edges = {"0.005": 1, "0.2": 1, "0.3": 2, "10.0": 2, "+Inf": 3}
    assert {le: total[f"streamer_queue_wait_seconds_bucket{{'le': '{le}'}}"] for le in edges} == edges


def test_one_process_alone_is_told_as_it_tells_itself() -> None:
    metrics = Metrics(lambda: 1, lambda: 2, lambda: 3)
    metrics.stepped(1, 0.002, [0.1], [0.0])
    assert tally.exposition(tally.add([tally.read(metrics.registry)])) == metrics.exposition()


def test_what_a_process_leaves_behind_are_counts_and_no_streams() -> None:
    left = tally.add([[], tally.lasting(counted(4, 9, [0.1]))])
    total = samples(tally.add([counted(0, 0, []), left]))
    assert total["streamer_streams"] == 0
    assert total["streamer_streams_opened_total"] == 9


def test_values_at_an_edge_count_as_prometheus_counts_them() -> None:
    own = samples(counted(0, 0, [0.005, 0.0050001, 10.0, 10.1]))
    assert own["streamer_queue_wait_seconds_bucket{'le': '0.005'}"] == 1
    assert own["streamer_queue_wait_seconds_bucket{'le': '0.01'}"] == 2
    assert own["streamer_queue_wait_seconds_bucket{'le': '10.0'}"] == 3
    assert own["streamer_queue_wait_seconds_bucket{'le': '+Inf'}"] == 4
