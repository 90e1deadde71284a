"""The loop of static shapes says what the reference says, for any company, slots and cuts."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.decoding import DecoderState, Token, decode_ctc, decode_transducer
from models.label_loop import LabelLoop, Memory, Networks, collapse, start_memory
from models.transducer import Model
from tests.models import golden
from tests.models.golden import MODELS
from tests.models.tiny import tiny_model

CPU = torch.device("cpu")
TRANSDUCERS = tuple(name for name in MODELS if golden.loaded(name)[0].config.transducer)
KINDS = {
    "rnnt": {},
    "tdt": {"durations": (0, 1, 2, 4)},
    "two layers": {"predictor_layers": 2},
    "tanh": {"max_symbols": 2},
}


def lively(**changes: object) -> Model:
    """A random transducer that says something at every second frame or so."""
    model = tiny_model(3, joint_activation="tanh" if changes.get("max_symbols") else "relu", **changes)
    with torch.no_grad():
        for parameter in (*model.decoder.parameters(), *model.joint.parameters()):
            parameter.mul_(3.0)
    return model


@torch.inference_mode()
def looped(model: Model, frames: Tensor, cuts: list[int], slots: list[int], lengths: list[int]) -> list[list[Token]]:
    """Decode (B, T, d) in windows of these widths, one slot a row, every window's rows in another order."""
    networks = Networks.of(model, torch.float32, CPU)
    memory = Memory.zeros(model.config, max(slots) + 2, CPU)
    memory.h[:], memory.c[:], memory.g[:] = start_memory(networks, memory)
    said: list[list[Token]] = [[] for _ in slots]
    first, at = 0, 0
    generator = torch.Generator().manual_seed(1)
    while first < frames.shape[1]:
        width = min(cuts[at % len(cuts)], frames.shape[1] - first)
        order = torch.randperm(len(slots), generator=generator).tolist()
        loop = LabelLoop(networks, memory, (len(slots) + 2, width))  # and two rows that nobody has
        loop.slots.copy_(torch.tensor([*(slots[i] for i in order), max(slots) + 1, max(slots) + 1]))
        loop.scores[: len(slots)] = model.joint.enc(frames[order, first : first + width])
        loop.counts[: len(slots)] = torch.tensor([min(width, max(0, lengths[i] - first)) for i in order])
        loop.first.fill_(first)
        loop.run()
        for line, i in enumerate(order):
            for n in range(int(loop.said[line])):
                word, where, p = (float(table[line, n]) for table in (loop.labels, loop.at, loop.logps))
                said[i].append(Token(int(word), int(where), p))
        assert not loop.said[len(slots) :].any()
        first, at = first + width, at + 1
    return said


@torch.inference_mode()
def reference(model: Model, frames: Tensor, lengths: list[int]) -> list[list[Token]]:
    state = DecoderState.start(model, len(frames))
    return decode_transducer(model, frames, torch.tensor(lengths), torch.zeros(len(frames), dtype=torch.int64), state)[
        0
    ]


def assert_same(got: list[list[Token]], want: list[list[Token]]) -> None:
    assert [[(t.id, t.frame) for t in row] for row in got] == [[(t.id, t.frame) for t in row] for row in want]
    flat = [[t.logp for row in rows for t in row] for rows in (got, want)]
    torch.testing.assert_close(torch.tensor(flat[0]), torch.tensor(flat[1]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", TRANSDUCERS)
def test_golden_frames_give_the_reference_tokens(name: str) -> None:
    model, _ = golden.loaded(name)
    case = next(case for case in golden.CASES if case.model == name and case.clip == "speech")
    frames = torch.from_numpy(case.frames)[None].repeat(3, 1, 1)
    lengths = [frames.shape[1], frames.shape[1] // 2, 0]
    want = reference(model, frames, lengths)
    assert want[0]
    assert_same(looped(model, frames, [14], [4, 0, 2], lengths), want)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=20, deadline=None)
@given(
    cuts=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    lengths=st.lists(st.integers(0, 24), min_size=4, max_size=4),
)
def test_cuts_slots_and_company_change_nothing(kind: str, cuts: list[int], lengths: list[int]) -> None:
    model = lively(**KINDS[kind])
    frames = torch.randn(4, 24, model.config.d_model, generator=torch.Generator().manual_seed(7))
    want = reference(model, frames, lengths)
    assert_same(looped(model, frames, cuts, [3, 0, 5, 1], lengths), want)


def test_the_random_models_say_enough_to_be_a_test() -> None:
    for changes in KINDS.values():
        model = lively(**changes)
        frames = torch.randn(4, 24, model.config.d_model, generator=torch.Generator().manual_seed(7))
        said = [len(row) for row in reference(model, frames, [24] * 4)]
        assert min(said) >= 5, said


@settings(max_examples=30, deadline=None)
@given(
    cuts=st.lists(st.integers(1, 7), min_size=1, max_size=5),
    lengths=st.lists(st.integers(0, 20), min_size=3, max_size=3),
)
def test_ctc_collapses_as_the_reference_does(cuts: list[int], lengths: list[int]) -> None:
    config = tiny_model().config
    few = torch.randint(0, 3, (3, 20), generator=torch.Generator().manual_seed(2))
    best = torch.where(few == 2, config.blank, few)
    logprobs = torch.nn.functional.one_hot(best, config.blank + 1).float().mul(5).log_softmax(-1)
    zeros = torch.zeros(3, dtype=torch.int64)
    nothing = torch.zeros(0, 3, 0)
    blank = torch.full((3,), config.blank)
    want, _ = decode_ctc(logprobs, torch.tensor(lengths), zeros, DecoderState(nothing, nothing, nothing, blank, zeros))
    memory, slots = Memory.zeros(config, 4, CPU), torch.tensor([2, 0, 3])
    got: list[list[Token]] = [[], [], []]
    first, at = 0, 0
    while first < 20:
        width = min(cuts[at % len(cuts)], 20 - first)
        counts = torch.tensor([min(width, max(0, n - first)) for n in lengths], dtype=torch.int32)
        piece = logprobs[:, first : first + width]
        said, labels, frames, logps = collapse(piece, counts, torch.full((3,), first, dtype=torch.int32), memory, slots)
        for row in range(3):
            for n in range(int(said[row])):
                got[row].append(Token(int(labels[row, n]), int(frames[row, n]), float(logps[row, n])))
        first, at = first + width, at + 1
    assert_same(got, want)
