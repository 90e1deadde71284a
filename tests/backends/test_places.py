"""Where a backend computes is what was asked for, or a sentence."""

from __future__ import annotations

import pytest
import torch

from streamer.backends import Place, load_backend
from streamer.backends.base import BackendError
from tests.artefacts import checkpoint, exported


def test_without_a_gpu_pytorch_computes_on_the_cpu_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    backend = load_backend("pytorch", checkpoint("hybrid_bpe"), 2)
    assert (backend.name, backend.precision, backend.depth) == ("pytorch", "fp32", 1)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (Place("cuda"), r"^device: got cuda, expected one of the 0 GPUs that torch .* sees$"),
        (Place("cuda:7"), r"^device: got cuda:7, expected one of the 0 GPUs"),
        (Place("abacus"), r"^device: got abacus, expected cpu, cuda or cuda:N$"),
        (Place("mps"), r"^device: got mps, expected cpu, cuda or cuda:N$"),
        (Place("cpu", "bf16"), r"^precision: got bf16, expected fp32 on cpu$"),
        (Place("cpu", "int8"), r"^precision: got int8, expected fp32 on cpu$"),
    ],
)
def test_a_place_that_is_not_there_is_refused_in_words(
    monkeypatch: pytest.MonkeyPatch, place: Place, message: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BackendError, match=message):
        load_backend("pytorch", checkpoint("hybrid_bpe"), 2, place=place)


def test_the_cpu_backend_says_that_it_has_no_gpu_and_which_precision_its_model_has() -> None:
    folder = exported("hybrid_bpe")
    with pytest.raises(BackendError, match=r"^device: got cuda, expected cpu for the backend ort; pytorch and trt"):
        load_backend("ort", folder, 2, place=Place("cuda"))
    with pytest.raises(BackendError, match=r"^precision: got int8, expected fp32, which the model at .* has$"):
        load_backend("ort", folder, 2, place=Place("cpu", "int8"))
