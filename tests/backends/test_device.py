"""The GPU backend on the CPU: its kernels interpreted say what torch's operators say, and many rows are many ticks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models.kernels import subsampling
from models.store import load
from models.tick import DeviceModel
from streamer.backends.base import BackendError, Row, samples_needed
from streamer.backends.device import DeviceBackend
from tests.artefacts import Stream, checkpoint, clip, hear, launch, on_cpu, plain


@pytest.mark.parametrize(("model", "chunk"), [("tdt_bpe", 2), ("prompt_rnnt", 7)])
def test_the_interpreted_kernels_say_what_the_operators_say(
    monkeypatch: pytest.MonkeyPatch, model: str, chunk: int
) -> None:
    import tests.models.kernels.device  # noqa: F401  skips where there is no triton

    monkeypatch.setattr(subsampling, "PLACES", 1024)  # the interpreter takes as long for few places as for many
    operators, kernels = on_cpu(model, 1), on_cpu(model, 1, kernels=True)
    assert (kernels.about["kernels"], operators.about["kernels"]) == ("own", "library (told not to)")
    want, got = (hear(backend, 0, clip("speech")[:32000], chunk) for backend in (operators, kernels))
    assert len(want) >= 3
    assert plain(got) == plain(want)
    np.testing.assert_allclose([t.logp for t in got], [t.logp for t in want], atol=1e-4)


def test_kernels_that_fail_here_leave_their_place_to_the_librarys_and_say_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no kernel image is available")

    monkeypatch.setattr("models.tick.PackedLayer.of", broken)
    monkeypatch.setattr("streamer.backends.device.why_not", lambda _device: None)
    backend = on_cpu("hybrid_bpe", 2, kernels=True)
    assert backend.about["kernels"] == "library (RuntimeError: no kernel image is available)"
    assert "no kernel image is available" in caplog.text
    assert plain(hear(backend, 0, clip("short"), 2)) == plain(hear(on_cpu("hybrid_bpe", 2), 0, clip("short"), 2))


def test_a_refusal_in_words_is_no_fault_of_the_kernels(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refusing(*_: object) -> None:
        raise BackendError("slots", 7, "2 to 4, one of them spare")

    monkeypatch.setattr("models.tick.PackedLayer.of", refusing)
    monkeypatch.setattr("streamer.backends.device.why_not", lambda _device: None)
    with pytest.raises(BackendError, match="slots: got 7"):
        on_cpu("hybrid_bpe", 2, kernels=True)
    assert not caplog.text


def test_statistics_of_a_batch_norm_stay_exact_in_bfloat16() -> None:
    model, _ = load(checkpoint("rnnt_bpe_bn128"))
    device = DeviceModel(model, torch.bfloat16, torch.device("cpu"))
    for ours, its in zip(device.model.encoder.layers, model.encoder.layers, strict=True):
        assert torch.equal(ours.conv.batch_norm.running_var, its.conv.batch_norm.running_var)
    assert device.model.encoder.layers[0].feed_forward1.linear1.weight.dtype == torch.bfloat16


def test_more_rows_than_the_largest_tick_holds_are_several_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamer.backends.device.MOST_FRAMES", 4)
    backend = on_cpu("hybrid_bpe", 6)
    chunk = 2
    assert backend.buckets(chunk) == (1, 2)
    want = hear(on_cpu("hybrid_bpe", 6), 0, clip("speech"), chunk)
    streams = [Stream(slot, clip("speech"), chunk) for slot in range(5)]
    for stream in streams:
        backend.open(stream.slot)
    while not streams[0].done:
        launch(backend, streams)
    assert [plain(stream.tokens) for stream in streams] == [plain(want)] * 5


def test_two_launches_under_way_answer_each_its_own(backend_of: DeviceBackend) -> None:
    backend = backend_of
    chunk = max(backend.config.chunks)
    want = hear(backend, 0, clip("speech"), chunk)
    streams = [Stream(slot, clip("speech"), chunk) for slot in (1, 4)]
    tickets = []
    for stream in streams:
        backend.open(stream.slot)
    while not streams[0].done:
        tickets = [backend.launch(chunk, [stream.next_row()]) for stream in streams]
        for stream, ticket in zip(streams, tickets, strict=True):
            (heard,) = backend.collect(ticket)
            assert isinstance(heard, list)
            stream.tokens += heard
    assert [plain(stream.tokens) for stream in streams] == [plain(want)] * 2


@pytest.fixture
def backend_of() -> DeviceBackend:
    return on_cpu("hybrid_bpe", 6)


def test_a_loud_row_costs_its_neighbours_nothing_and_may_come_again(backend_of: DeviceBackend) -> None:
    backend = backend_of
    chunk = min(backend.config.chunks)
    want = hear(backend, 0, clip("speech"), chunk)
    stream = Stream(1, clip("speech"), chunk)
    backend.open(1)
    backend.open(2)
    loud = np.full(samples_needed(0, chunk), np.nan, np.float32)
    while not stream.done:
        refused, heard = backend.collect(backend.launch(chunk, [Row(2, loud), stream.next_row()]))
        assert "got NaN or infinite samples" in str(refused)
        stream.tokens += heard
    assert plain(stream.tokens) == plain(want)
    again = Stream(2, clip("speech"), chunk)
    while not again.done:
        launch(backend, [again])
    assert plain(again.tokens) == plain(want)
