"""Every part of the check, run through with toys on the CPU: its record is complete, and the report shows it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pytest

from streamer.backends import trt_open
from streamer.backends.base import BackendError
from streamer.gpu_check import kernels, report, rtx
from streamer.gpu_check.job import NO_TIME, NOT_RUN, SMALL, TOY, Job
from streamer.gpu_check.parts import NAMES, PARTS, named
from streamer.gpu_check.random_models import last_layer, speaker

MOST_S = 60.0


def ran(name: str, **changes: Any) -> dict[str, Any]:
    """The figures of a part that was given toys."""
    job = Job("cpu", SMALL, **({"seconds": MOST_S} | changes))
    named(name).work()(job)
    return job.figures


def numbers(figures: object) -> Iterator[float]:
    """All that are somewhere in a record."""
    if isinstance(figures, dict):
        figures = list(figures.values())
    if isinstance(figures, list):
        for one in figures:
            yield from numbers(one)
    elif isinstance(figures, (int, float)):
        yield figures


def shown(name: str, figures: dict[str, Any]) -> str:
    """The report of this part alone."""
    return report.render({name: {"status": "done", "figures": figures, "machine": "toy"}})


def test_the_machine_is_described() -> None:
    figures = ran("environment")
    assert figures["reach"]["bytes_s"] > 0
    assert figures["reach"]["flops_s"] > 0
    assert figures["launches"]["host_us"] > 0
    assert f"torch {figures['versions']['torch']}" in shown("environment", figures)


def test_golden_models_say_the_same_in_any_company() -> None:
    figures = ran("parity")
    (ways,) = figures["models"].values()
    (way,) = ways.values()
    assert way["tokens"] > 0
    assert way["cases"] >= 4
    assert way["furthest_logp"] < 1e-4
    assert figures["wrong"] == []
    assert "| 0 (of 4 clips by ways) |" in shown("parity", figures)


def test_other_tokens_than_the_cpus_fail_the_part_and_stay_in_its_record(monkeypatch: pytest.MonkeyPatch) -> None:
    from streamer.gpu_check import parity

    monkeypatch.setattr(parity, "together", lambda _backend, talks, seed: [[] for _ in talks if seed == 0])
    job = Job("cpu", SMALL, MOST_S)
    with pytest.raises(AssertionError, match="other tokens than the CPU's: hybrid_bpe"):
        parity.run(job)
    assert job.figures["models"]["hybrid_bpe"]["eager, torch kernels"]["wrong_together"]


def test_whole_ticks_are_compared_with_and_without_our_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.models.kernels import device  # mends the interpreter

    monkeypatch.setattr(kernels, "CHUNKS", 1)
    figures = ran("kernels")
    (tick,) = figures["ticks"].values()
    assert tick["near"]
    if device.interpreting():
        assert figures["why_not"] is None
        assert 0 < tick["own beside torch 1"]["max"] < 1e-4
        assert tick["tokens 1"] == 1.0
    assert "| near | near |" in shown("kernels", figures)


def test_ticks_that_are_apart_fail_the_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_compared", lambda *_: {"near": False})
    job = Job("cpu", SMALL, MOST_S)
    with pytest.raises(AssertionError, match=r"kernels: got 114m, 80 ms, float32 apart"):
        kernels.run(job)


def test_the_kernels_own_tests_are_counted_from_pytests_report() -> None:
    report_of = "<testsuites><testsuite>{}</testsuite></testsuites>"
    cases = '<testcase name="a"/><testcase name="b"><failure/></testcase><testcase name="c"><skipped/></testcase>'
    found = kernels.counted(ElementTree.fromstring(report_of.format(cases)))
    assert found == {"tests": 3, "failed": ["b"], "skipped": 1}


def test_bf16_is_compared_by_frames_tokens_and_words() -> None:
    figures = ran("precision")
    (latency,) = figures["latencies"].values()
    assert latency["tokens"] > 0
    assert latency["apart"] == 0.0
    assert latency["token_agreement"] == 1.0
    assert figures["frames"] == {"max": 0.0, "mean": 0.0}
    assert "word error rates" in shown("precision", figures)


def test_streams_of_different_latencies_go_together() -> None:
    figures = ran("mixed")
    assert len(figures["chunks"]) > 1
    assert figures["float32"]["tokens"] > 0
    assert figures["float32"]["different"] == 0
    assert f"| none | {figures['float32']['different']} |" in shown("mixed", figures)


def test_step_times_have_all_that_the_table_wants() -> None:
    figures = ran("speed-0.6b-80")
    assert set(figures["steps"]) == {"1", "2"}
    for step in figures["steps"].values():
        assert step["wall_ms"][0] >= step["device_ms"][0] > 0
        assert step["bound_ms"] > 0
        assert 0 < step["share_of_bandwidth"] < 1
        assert step["streams"] > 0
    assert figures["bytes_a_stream"]["arena"] > 0
    rows = [line for line in shown("speed-0.6b-80", figures).splitlines() if line.startswith("| 2 |")]
    assert sum(NOT_RUN not in row for row in rows) == 1  # the others are those of other latencies and models


def test_what_no_time_is_left_for_is_marked_so() -> None:
    figures = ran("speed-0.6b-80", seconds=1.0)
    assert set(figures["steps"].values()) == {NO_TIME}
    assert NO_TIME in shown("speed-0.6b-80", figures)


def test_a_tick_is_taken_apart() -> None:
    figures = ran("profile-114m", seconds=200.0)
    for shape in figures["shapes"].values():
        assert all(times[0] > 0 for times in shape["components_ms"].values())
        assert shape["top"][0]["us"] >= shape["top"][-1]["us"] > 0
        assert shape["on_device"] > 50
    assert set(figures["captured"]) == set(figures["shapes"])
    assert figures["shapes"]["1"]["top"][0]["name"] in shown("profile-114m", figures)


def test_random_weights_speak_about_as_often_as_people_do() -> None:
    spoken = speaker(Job("cpu", replace(SMALL, hearing=(4.0, 9)), MOST_S), TOY, 14, 4)
    assert 1.0 < spoken.tokens_a_second < 9.0
    assert last_layer(spoken.model).bias[TOY.blank] == spoken.bias


def test_streams_in_process_are_searched_and_confirmed() -> None:
    figures = ran("streams-80")
    first = figures["tries"][0]
    assert first["streams"] == SMALL.first_streams
    assert first["results"] > 5
    assert first["errors"] == 0
    assert first["engine_cpu"] > 0
    assert f"| 80 ms | in process | {figures['most']} |" in shown("streams-80", figures)


def test_streams_through_the_websocket_are_heard() -> None:
    figures = ran("sockets-80")
    first = figures["tries"][0]
    assert first["messages"]["ready"] >= 1
    assert first["errors"] == 0
    assert first["daemon_cpu"] > 0
    assert first["generator_cpu"] > 0
    assert f"| 80 ms | WebSocket | {figures['most']} |" in shown("sockets-80", figures)


def test_whole_recordings_have_a_rate_and_a_price() -> None:
    figures = ran("offline", price=7.0)
    for size in figures["models"].values():
        assert size["rtfx"] > 0
        assert size["cost"] == pytest.approx(1e6 / size["rtfx"] * 7.0, rel=0.01)
    assert "a million hours at 7 a GPU hour" in shown("offline", figures)


def test_tensorrt_rtx_that_refuses_the_gpu_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise BackendError("step.plan", "invalid here (UNSUPPORTED_CC)", "an engine for this GPU")

    monkeypatch.setattr(trt_open, "module_of", lambda _: (SimpleNamespace(__version__="1.7"), rtx.FLAVOUR))
    monkeypatch.setattr(rtx, "_exported", lambda *_: None)
    monkeypatch.setattr(rtx, "_opened", refuse)
    figures = ran("tensorrt-rtx")
    assert figures["builds"]
    assert figures["result"].startswith("does not run here: BackendError: step.plan: got invalid here")
    assert "UNSUPPORTED_CC" in shown("tensorrt-rtx", figures)


def test_tensorrt_rtx_that_runs_has_the_same_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trt_open, "module_of", lambda _: (SimpleNamespace(__version__="1.7"), rtx.FLAVOUR))
    monkeypatch.setattr(rtx, "_exported", lambda *_: None)
    monkeypatch.setattr(rtx, "_opened", lambda job, _, slots: speaker(job, TOY, 1, min(slots, 4)).backend)
    monkeypatch.setattr(rtx, "BUILD_S", dict.fromkeys(rtx.BUILD_S, 1.0))
    figures = ran("tensorrt-rtx")
    assert figures["result"] == "runs here"
    assert set(figures["models"]["0.6b"]["steps"]) == {"1", "2"}
    assert "**0.6b**, 80 ms" in shown("tensorrt-rtx", figures)


def test_tensorrt_rtx_that_was_not_brought_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(_: object) -> None:
        raise BackendError("TensorRT-RTX", "no module", "the extra tensorrt")

    monkeypatch.setattr(trt_open, "module_of", none)
    assert ran("tensorrt-rtx")["result"].startswith(f"{NOT_RUN}: TensorRT-RTX: got no module")


def test_every_part_has_a_function() -> None:
    assert len(set(NAMES)) == len(NAMES)
    assert all(callable(part.work()) for part in PARTS)


def test_a_record_holds_numbers_alone() -> None:
    assert all(math.isfinite(number) for number in numbers(ran("speed-114m-1120")))
