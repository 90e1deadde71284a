"""Claims about bulk hearing: every recording gets the tokens it would get alone, in any company, order and pieces."""

from __future__ import annotations

import copy
import functools
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode

from models import bulk as bulk_module
from models.batching import PIECE, Batch, Budget, InMemory, Staging
from models.bulk import Bulk, Spoken, measured, most_frames
from models.transcribe import Heard, offline
from tests.models import golden
from tests.models.golden import MODELS
from tests.models.tiny import tiny_model

FRAMES = 1e-4  # golden README, tolerance of encoder frames
CUTS = (0, 1, 159, 160, 1279, 1280, 20_000, 33_333)
CONTEXTS = [(name, context) for name in MODELS for context in golden.loaded(name)[0].config.contexts]


@functools.cache
def recordings() -> list[np.ndarray]:
    """The golden clips, cuts of one down to nothing, and one so long that it comes in pieces."""
    clips = [golden.clip(name) for name in golden.CLIPS]
    return [*clips, *(clips[0][5000 : 5000 + n] for n in CUTS), np.concatenate(clips)]


@functools.cache
def alone(name: str, context: tuple[int, int]) -> list[Heard]:
    return [offline(golden.loaded(name)[0], pcm, context) for pcm in recordings()]


def bulk_of(name: str, context: tuple[int, int], **options: Any) -> Bulk:
    return Bulk(copy.deepcopy(golden.loaded(name)[0]), context, **options)


def assert_same(spoken: Spoken, heard: Heard) -> None:
    assert spoken.ids.tolist() == [token.id for token in heard.tokens]
    assert spoken.frames.tolist() == [token.frame for token in heard.tokens]
    assert np.allclose(spoken.logps, [token.logp for token in heard.tokens], atol=1e-3)


@pytest.mark.parametrize("frames", [1, 100_000], ids=lambda frames: f"budget{frames}")
@pytest.mark.parametrize(("name", "context"), CONTEXTS, ids=str)
def test_every_recording_gets_the_tokens_it_gets_alone(name: str, context: tuple[int, int], frames: int) -> None:
    bulk = bulk_of(name, context)
    bulk.budget = Budget(frames, bulk.budget.squares)  # one by one in pieces, all at once
    order = list(range(len(recordings())))
    random.Random(frames).shuffle(order)
    spoken = bulk.hear_all([recordings()[index] for index in order])
    for index, said in zip(order, spoken, strict=True):
        assert_same(said, alone(name, context)[index])


@pytest.mark.parametrize("name", ["hybrid_bpe", "rnnt_bpe_bn128", "offline_bpe"])
def test_encoder_frames_are_those_of_the_whole_file(name: str) -> None:
    context = golden.first_context(name)
    bulk = bulk_of(name, context)
    bulk.budget = Budget(1, bulk.budget.squares)
    order = sorted(range(len(recordings())), key=lambda index: -len(recordings()[index]))
    batch = Staging(bulk.device).load([InMemory(recordings()[index]) for index in order])
    with torch.inference_mode():
        pieces = [(frames, counts) for frames, counts in bulk.encoded(batch)]
    assert len(pieces) > 1 or not bulk.config.streaming
    for row, index in enumerate(order):
        expected = alone(name, context)[index].frames
        heard = [frames[row] for frames, _ in pieces if row < len(frames)]
        got = torch.cat([expected[:0], *heard])[: len(expected)]
        assert got.shape == expected.shape
        assert not len(got) or (got - expected).abs().max() < FRAMES


def test_rows_that_have_ended_cost_nothing_more() -> None:
    bulk = bulk_of("hybrid_bpe", (14, 13))
    bulk.budget = Budget(1)
    long, short = np.zeros(1280 * 300, np.float32), np.zeros(1280 * 100, np.float32)
    batch = Staging(bulk.device).load([InMemory(long), InMemory(short)])
    with torch.inference_mode():
        assert [len(frames) for frames, _ in bulk.encoded(batch)] == [2, 2, 1, 1, 1]


@pytest.mark.parametrize("name", ["prompt_rnnt", "prompt_hybrid"])
def test_a_language_is_heard_as_it_is_alone(name: str) -> None:
    context = golden.first_context(name)
    for language, index in golden.loaded(name)[0].config.prompts:
        expected = offline(golden.loaded(name)[0], golden.clip("speech"), context, index)
        (spoken,) = bulk_of(name, context, prompt=index).hear_all([golden.clip("speech")])
        assert spoken.ids.tolist() == [token.id for token in expected.tokens], language


@pytest.mark.parametrize("name", MODELS)
def test_bfloat16_gives_nearly_the_same_frames_and_as_many_tokens(name: str) -> None:
    context = golden.first_context(name)
    model = golden.loaded(name)[0]
    bulk, exact = bulk_of(name, context, dtype=torch.bfloat16), bulk_of(name, context)
    batch = Staging(bulk.device).load([InMemory(golden.clip("speech"))])
    with torch.inference_mode():
        ((rough, _),), ((frames, _),) = list(bulk.encoded(batch)), list(exact.encoded(batch))
    assert rough.dtype == torch.bfloat16
    assert (rough.float() - frames).square().mean().sqrt() < 0.03 * frames.square().mean().sqrt()
    (spoken,), (expected,) = bulk.hear(batch), exact.hear(batch)
    assert abs(len(spoken.ids) - len(expected.ids)) <= 1 + len(expected.ids) // 10
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())  # of the caller's own


class Placed(TorchFunctionMode):
    """Notes who makes a tensor without saying on which device."""

    MAKERS = (torch.zeros, torch.ones, torch.full, torch.arange, torch.empty, torch.tensor, torch.linspace, torch.eye)

    def __init__(self) -> None:
        super().__init__()
        self.careless: list[str] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in self.MAKERS and "device" not in (kwargs or {}):
            self.careless.append(f"{func.__name__}{args}")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["tdt_bpe", "ctc_bpe", "prompt_rnnt"])
def test_every_tensor_is_made_on_the_device(name: str) -> None:
    bulk = bulk_of(name, golden.first_context(name))
    batch = Staging(bulk.device).load([InMemory(golden.clip("speech"))])
    with Placed() as placed:
        bulk.hear(batch)
    assert not placed.careless


FULL_CONTEXT = {
    "contexts": ((-1, -1),),
    "style": "regular",
    "normalize": "per_feature",
    "conv_norm": "batch_norm",
    "causal_subsampling": False,
    "conv_context": (2, 2),
}


@pytest.mark.parametrize("changes", [{}, FULL_CONTEXT], ids=["streaming", "full"])
def test_encoding_needs_nothing_that_lies_elsewhere(monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]) -> None:
    monkeypatch.setattr("models.bulk.measured", lambda *_: Budget(200, 10**9))
    meta = torch.device("meta")  # has no numbers, and refuses to be mixed with the CPU, as a GPU does
    bulk = Bulk(tiny_model(**changes), device=meta, dtype=torch.bfloat16)
    batch = Batch(torch.empty(3, 320_000, device=meta), (320_000, 300_000, 1700))
    with torch.inference_mode():
        pieces = [frames for frames, _ in bulk.encoded(batch)]
    assert sum(frames.shape[1] for frames in pieces) == bulk.frames(320_000)
    assert {(frames.device, frames.dtype) for frames in pieces} == {(meta, torch.bfloat16)}


def test_a_batch_is_what_memory_has_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, free = torch.device("cpu"), 10**9
    assert 1 << 20 < bulk_module._free_bytes(cpu) < 1 << 50
    monkeypatch.setattr(bulk_module, "_free_bytes", lambda _device: free)
    streaming, full = tiny_model().config, tiny_model(**FULL_CONTEXT).config
    budget = measured(full, cpu, torch.float32)
    assert measured(streaming, cpu, torch.float32) == Budget(750)
    assert budget == Budget(750, int(0.4 * 10**9) // (12 * 4 * full.heads))
    assert (measured(full, cpu, torch.bfloat16).squares or 0) > (budget.squares or 0)
    free = 10**7
    assert measured(streaming, cpu, torch.float32).frames == PIECE  # pieces of fewer would be a waste
    assert measured(full, cpu, torch.float32).frames < 100
    assert most_frames(streaming) * 4 * streaming.sub_channels * streaming.sub_widths[0] < 1 << 31


def test_a_full_context_model_says_how_long_a_recording_may_be() -> None:
    bulk = Bulk(tiny_model(contexts=((-1, -1),), style="regular"))
    bulk.budget = Budget(1000, 100 * 100)
    assert bulk.most_samples() == 100 * 1280
    bulk.budget = Budget(10, 100 * 100)  # frames of a batch bound no recording alone
    assert bulk.most_samples() == 100 * 1280
    assert bulk_of("hybrid_bpe", (14, 13)).most_samples() is None
