"""What can be known of CUDA graphs without a GPU: the ladder, the condition's kernel, that a tick can be captured."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from models.tick import Arena, DeviceModel, Tick, TorchEncoder
from streamer.backends import graphs
from tests.models.tiny import tiny_model

# What reads the device back, or copies a Python number to it: no capture allows either.
FORBIDDEN = (
    "_local_scalar_dense",
    "nonzero",
    "masked_select",
    "lift_fresh",
    "scalar_tensor",
    "unique",
    "equal.default",
)


class Seen(TorchDispatchMode):
    """Every operator that runs inside."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


KINDS: tuple[dict[str, object], ...] = (
    {},
    {"kind": "ctc"},
    {"durations": (0, 1, 2)},
    {"conv_norm": "batch_norm"},
    {"predictor_layers": 2},
    {"num_prompts": 4, "prompts": (("en-US", 1),)},
)


@pytest.mark.parametrize("changes", KINDS, ids=str)
def test_nothing_in_a_tick_waits_for_the_device_or_copies_to_it(changes: dict[str, object]) -> None:
    model = DeviceModel(tiny_model(**changes), torch.bfloat16, torch.device("cpu"))
    arena = Arena(model, 4)
    for chunk in model.config.chunks:
        tick = Tick(model, arena, TorchEncoder(model, arena), (3, chunk))
        with Seen() as seen, torch.inference_mode():
            tick.head()
            if tick.loops:
                tick.trip()
            tick.tail()
        assert len(seen.names) > 100
        # On a CPU one_hot looks whether its numbers are in range; on a GPU it does not (ATen/native/Onehot.cpp).
        checks = 2 if model.config.num_prompts else 0
        bad = [name for name in seen.names if any(word in name for word in FORBIDDEN)]
        assert len(bad) <= checks, bad


def test_the_shape_of_a_tick_does_not_depend_on_what_is_said() -> None:
    """The same operators for silence, speech and rows of nobody: what is captured once fits always."""
    model = DeviceModel(tiny_model(), torch.float32, torch.device("cpu"))
    arena = Arena(model, 4)
    tick = Tick(model, arena, TorchEncoder(model, arena), (3, 2))
    lists = []
    for seed in range(3):
        tick.input.copy_(torch.randn(tick.input.shape, generator=torch.Generator().manual_seed(seed)) * seed)
        tick.input[: 6 * 3].zero_()
        with Seen() as seen, torch.inference_mode():
            tick.head()
            tick.trip()
            tick.tail()
        lists.append(seen.names)
    assert lists[0] == lists[1] == lists[2]


class Counting:
    """A program that notes what ran; `work` trips have something to do."""

    most_trips = 5
    loops = True

    def __init__(self, compiled: bool = True, work: int = 3) -> None:
        self.compiled, self.work, self.ran = compiled, work, ""
        self.flag = torch.zeros(1, dtype=torch.int32)

    def head(self) -> None:
        self.ran += "h"
        self.flag.fill_(self.work)

    def trip(self) -> None:
        self.ran += "t" if self.flag.item() else "."
        self.flag.sub_(1).clamp_(min=0)

    def tail(self) -> None:
        self.ran += "T"


class Recorded:
    """A graph as a list of calls."""

    def __init__(self, part: Callable[[], None]) -> None:
        self.replay = part


@pytest.fixture
def recording(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA's part played by plain calls."""

    class Stream:
        def wait_stream(self, _other: object) -> None: ...

        def synchronize(self) -> None: ...

    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda _stream: nullcontext())
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "set_stream", lambda _stream: None)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", object)
    monkeypatch.setattr(graphs, "_graph", lambda _pool, _stream, part: Recorded(part))
    monkeypatch.setattr(Counting, "stream", Stream(), raising=False)


@pytest.mark.parametrize(("rung", "ran"), [("unrolled", "httt..T"), ("bodies", "htttT"), ("eager", "htttT")])
@pytest.mark.usefixtures("recording")
def test_every_rung_runs_all_trips_that_have_work(rung: str, ran: str) -> None:
    program = Counting()
    captured = graphs.capture(program, None, Counting.stream, rung)  # type: ignore[attr-defined]
    assert (captured.rung, captured.reasons) == (rung, {})
    assert program.ran.endswith(ran), "what was captured runs once before it is needed"
    program.ran = ""
    captured.launch()
    assert program.ran == ran


@pytest.mark.usefixtures("recording")
def test_a_rung_that_fails_is_left_with_its_reason(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pools = []

    def broken(_program: object, pool: object, _stream: object) -> graphs.Made:
        pools.append(pool)
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setitem(graphs._MAKERS, "whole", broken)
    monkeypatch.setitem(graphs._MAKERS, "unrolled", broken)
    captured = graphs.capture(Counting(), None, Counting.stream)  # type: ignore[attr-defined]
    assert captured.rung == "bodies"
    assert list(captured.reasons) == ["whole", "unrolled"]
    assert all("not permitted" in reason for reason in captured.reasons.values())
    assert caplog.text.count("not permitted") == 2
    assert pools[0] is not pools[1], "a pool whose capture failed cannot be captured into again"
    assert captured.pool not in pools


@pytest.mark.usefixtures("recording")
def test_trips_of_torchs_operators_are_neither_a_node_nor_unrolled() -> None:
    captured = graphs.capture(Counting(compiled=False), None, Counting.stream)  # type: ignore[attr-defined]
    assert captured.rung == "bodies"
    assert list(captured.reasons) == ["whole", "unrolled"]


def test_bodies_are_never_captured_on_the_stream_that_is_being_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch hands out 32 streams in turn: the 33rd is the first again."""
    numbers = itertools.cycle(range(32))

    class Stream:
        def __init__(self, _device: torch.device) -> None:
            self.cuda_stream = next(numbers)

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(graphs, "_body_streams", {})
    for captured in (*range(32), 5, 5, 0):
        assert graphs._body_stream(torch.device("cuda", 0), captured).cuda_stream != captured


def test_the_conditions_kernel_compiles_without_a_gpu() -> None:
    pytest.importorskip("cuda.bindings.nvrtc", reason="cuda-bindings are not installed")
    try:
        ptx = graphs.condition_ptx()
    except Exception as error:
        if "libnvrtc" not in str(error):
            raise
        pytest.skip("NVRTC is not installed")
    assert b".entry set_condition" in ptx
    assert b"cudaGraphSetConditional" in ptx
