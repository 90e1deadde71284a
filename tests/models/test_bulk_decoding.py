"""Claims about decoding in bulk: kernels and operators find the same tokens, windows and company change none."""

from __future__ import annotations

import copy

import pytest
import torch

from models.bulk import Bulk, Spoken
from models.bulk_decoding import WINDOW, Decoding
from models.decoding import DecoderState, decode
from models.kernels.search import KernelLoop
from models.transcribe import offline
from tests.models import golden
from tests.models.kernels.device import DEVICE
from tests.models.tiny import tiny_model

KINDS = [{}, {"kind": "ctc", "predictor_hidden": 0, "predictor_layers": 0, "joint_hidden": 0}]
TDT = {"kind": "tdt", "durations": (0, 1, 2, 3, 40)}  # a duration may skip a whole window


@pytest.mark.parametrize("changes", [*KINDS, TDT], ids=["rnnt", "ctc", "tdt"])
@torch.inference_mode()
def test_many_rows_fed_in_pieces_say_what_each_says_alone(changes: dict[str, object]) -> None:
    model = tiny_model(5, **changes)
    frames = torch.randn(5, 3 * WINDOW + 5, model.config.d_model) * 3
    counts = [101, 96, 64, 7, 0]
    batch = Decoding(model, torch.float32, torch.device("cpu")).batch(len(counts))
    for first, last in ((0, 40), (40, 41), (41, 101)):
        rows = sum(count > first for count in counts)
        batch.feed(frames[:rows, first:last], [count - first for count in counts[:rows]], first)
    spoken = batch.spoken()
    assert sum(len(said.ids) for said in spoken) > 50
    for row, (count, said) in enumerate(zip(counts, spoken, strict=True)):
        tokens = []
        state = DecoderState.start(model, 1)
        for at in range(0, count, 10):
            piece = frames[row : row + 1, at : min(at + 10, count)]
            (new,), state = decode(model, piece, torch.tensor([piece.shape[1]]), torch.tensor([at]), state)
            tokens += new
        assert said.ids.tolist() == [token.id for token in tokens]
        assert said.frames.tolist() == [token.frame for token in tokens]
        assert said.logps.tolist() == pytest.approx([token.logp for token in tokens], abs=1e-4)


def test_a_batch_begins_as_if_nothing_had_been_said() -> None:
    bulk = Bulk(copy.deepcopy(golden.loaded("tdt_bpe")[0]))
    pcm = [golden.clip("speech")]
    (first,), (again,) = bulk.hear_all(pcm), bulk.hear_all(pcm)
    assert first.ids.tolist() == again.ids.tolist()
    assert first.frames.tolist() == again.frames.tolist()


@pytest.mark.parametrize("name", ["rnnt_char", "tdt_bpe"])
def test_kernels_find_the_tokens(name: str) -> None:
    model = golden.loaded(name)[0]
    bulk = Bulk(copy.deepcopy(model), device=DEVICE)
    bulk._decoding._kind = KernelLoop  # here even where no GPU is: interpreted
    clips = [golden.clip("short"), golden.clip("speech")[:20_000]]
    for said, pcm in zip(bulk.hear_all(clips), clips, strict=True):
        tokens = offline(model, pcm).tokens
        assert said.ids.tolist() == [token.id for token in tokens]
        assert said.frames.tolist() == [token.frame for token in tokens]


def test_nothing_is_said_of_nothing() -> None:
    bulk = Bulk(tiny_model())
    (said,) = bulk.hear_all([golden.clip("short")[:100]])
    assert said.ids.tolist() == Spoken.nothing().ids.tolist() == []
    assert bulk.hear_all([]) == []
