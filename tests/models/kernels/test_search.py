"""The search's kernels do what the label loop in torch does: same tokens, same memory, same trips."""

from __future__ import annotations

from dataclasses import astuple, replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from models.kernels import search
from models.label_loop import LabelLoop, Memory, Networks, start_memory
from tests.models.kernels.device import DEVICE, captured
from tests.models.test_label_loop import KINDS, lively
from tests.models.tiny import tiny_config

SLOTS = [3, 0, 6, 1]  # and two rows on slot 7, which nobody has
RESULTS = ("position", "repeats", "last_at", "said")
ODD = {"predictor_hidden": 20, "joint_hidden": 19, "predictor_layers": 2}
WHOLE, HALF = torch.float32, torch.bfloat16
CASES = [("rnnt", WHOLE), ("tdt", WHOLE), ("tanh", WHOLE), ("odd", WHOLE), ("tdt", HALF), ("two layers", HALF)]


def windows(model: torch.nn.Module, widths: list[int]) -> list[tuple[Tensor, Tensor]]:
    """Scores and ragged counts of each window."""
    generator = torch.Generator().manual_seed(5)
    made = []
    for at, width in enumerate(widths):
        frames = torch.randn(len(SLOTS), width, model.config.d_model, generator=generator)
        counts = [width, max(0, width - at), width, 0 if at else width]
        with torch.inference_mode():
            made.append((model.joint.enc(frames), torch.tensor(counts, dtype=torch.int32)))
    return made


def loop_of(kind: type[LabelLoop], networks: Networks, memory: Memory, window: tuple[Tensor, Tensor]) -> LabelLoop:
    scores, counts = window
    loop = kind(networks, memory, (len(SLOTS) + 2, scores.shape[1]))
    loop.scores[: len(SLOTS)] = scores
    loop.counts[: len(SLOTS)] = counts
    loop.slots.copy_(torch.tensor([*SLOTS, 7, 7]))
    loop.first.fill_(100)
    return loop


def memory_of(model: torch.nn.Module, networks: Networks) -> Memory:
    memory = Memory.zeros(model.config, 8, DEVICE)
    memory.h[:], memory.c[:], memory.g[:] = start_memory(networks, memory)
    return memory


def assert_same(got: LabelLoop, want: LabelLoop) -> None:
    near = 1e-5 if got.scores.dtype == torch.float32 else 1e-2
    for name in RESULTS:
        assert torch.equal(getattr(got, name), getattr(want, name)), name
    for row, said in enumerate(want.said.tolist()):
        assert torch.equal(got.labels[row, :said], want.labels[row, :said])
        assert torch.equal(got.at[row, :said], want.at[row, :said])
        torch.testing.assert_close(got.logps[row, :said], want.logps[row, :said], atol=near, rtol=near)
    for mine, theirs in zip(astuple(got.memory), astuple(want.memory), strict=True):
        torch.testing.assert_close(mine, theirs, atol=near, rtol=near)


@pytest.fixture(autouse=True)
def _small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small enough that the little models, too, have several blocks of rows, of words and of depth."""
    for name in ("joint_tile", "cell_tile", "project_tile"):
        monkeypatch.setattr(search, name, lambda *_: search.Tile(16, 16, 16))


@pytest.mark.parametrize(("kind", "dtype"), CASES)
@torch.inference_mode()
def test_every_trip_is_the_twins(kind: str, dtype: torch.dtype) -> None:
    model = lively(**KINDS.get(kind, ODD))
    networks = Networks.of(model, dtype, DEVICE)
    networks = replace(networks, max_symbols=min(2, networks.max_symbols))  # fewer trips
    memories = memory_of(model, networks), memory_of(model, networks)
    spoken = 0
    for window in windows(model, [1, 5]):
        want = loop_of(LabelLoop, networks, memories[0], window)
        got = loop_of(search.KernelLoop, networks, memories[1], window)
        want.begin()
        got.begin()
        assert got.working.item() == want.working.item()
        while want.working.item():
            want.trip()
            got.trip()
            assert got.working.item() == want.working.item()
            assert torch.equal(got.emitted, want.emitted)
            assert_same(got, want)
        got.trip()  # an unrolled trip too many
        assert not got.working.item()
        want.end()
        got.end()
        assert_same(got, want)
        spoken += int(want.said.sum())
    assert spoken >= 8, spoken


@pytest.mark.usefixtures("last_program_first")
@torch.inference_mode()
def test_a_graph_of_more_trips_than_needed_says_what_the_twin_says_in_any_order_of_programs() -> None:
    model = lively(**KINDS["tdt"])
    networks = replace(Networks.of(model, WHOLE, DEVICE), max_symbols=2)
    memories = memory_of(model, networks), memory_of(model, networks)
    window = windows(model, [5])[0]
    want = loop_of(LabelLoop, networks, memories[0], window)
    got = loop_of(search.KernelLoop, networks, memories[1], window)

    def work() -> None:
        got.begin()
        for _ in range(5 * 2 + 1):
            got.trip()
        got.end()

    run = captured(work)
    for kept, start in zip(astuple(memories[1]), astuple(memories[0]), strict=True):
        kept.copy_(start)  # as before the runs that a graph takes to be made
    run()
    want.run()
    assert not got.working.item()
    assert int(want.said.sum()) >= 5
    assert_same(got, want)


def larger_networks(dtype: torch.dtype) -> Networks:
    """Random ones that take several of the large models' tiles, with durations, and say something now and then."""
    generator = torch.Generator().manual_seed(11)
    words, hidden = 75, 144

    def made(*sizes: int) -> Tensor:
        return torch.randn(sizes, generator=generator).mul(sizes[-1] ** -0.5).to(DEVICE, dtype)

    def bias(size: int) -> Tensor:
        return torch.randn(size, generator=generator).to(DEVICE)

    of_output = bias(words + 3)
    of_output[words - 1] += 2.0  # silence more often than not
    return Networks(
        made(words, 4 * hidden) * 20,
        ((made(4 * hidden, hidden), bias(4 * hidden)),),
        (made(4 * hidden, hidden), made(4 * hidden, hidden)),
        (made(hidden, hidden), bias(hidden)),
        (made(words + 3, hidden), of_output),
        "relu",
        words - 1,
        2,
        (0, 1, 2),
    )


@torch.inference_mode()
def test_the_tiles_of_large_models_give_what_the_twin_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    networks = larger_networks(HALF)
    loops = []
    for kind in (LabelLoop, search.KernelLoop):
        memory = Memory.zeros(tiny_config(predictor_hidden=144, joint_hidden=144, predictor_layers=2), 4, DEVICE)
        loop = kind(networks, memory, (3, 4))
        loop.scores.copy_(torch.randn(3, 4, 144, generator=torch.Generator().manual_seed(2)) * 2)
        loop.slots.copy_(torch.tensor([2, 0, 1]))
        loop.counts.copy_(torch.tensor([4, 2, 3]))
        loop.run()
        loops.append(loop)
    assert int(loops[0].said.sum()) >= 4
    assert_same(loops[1], loops[0])


@pytest.mark.parametrize("kind", ["rnnt", "tdt"])
@torch.inference_mode()
def test_tokens_that_are_further_apart_than_the_selections_tile_are_found(kind: str) -> None:
    model = lively(**KINDS[kind])
    model.joint.joint_net[-1].bias[model.config.blank] += 8.5  # hardly says anything
    networks = replace(Networks.of(model, WHOLE, DEVICE), max_symbols=1)
    loops = []
    for made in (LabelLoop, search.KernelLoop):
        loops.append(loop_of(made, networks, memory_of(model, networks), windows(model, [1, 30])[1]))
        loops[-1].run()
    places = [loops[0].at[row, :said].tolist() for row, said in enumerate(loops[0].said.tolist())]
    assert max(b - a for row in places for a, b in pairwise([99, *row])) > 16
    assert_same(loops[1], loops[0])
