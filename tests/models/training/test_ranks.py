"""Claims about torchrun: two processes learn what one learns from the same batches, and say it once."""

from __future__ import annotations

import multiprocessing
import os
import socket
from pathlib import Path

import pytest
import torch

from models.training.ranks import Ranks
from models.training.trainer import train
from tests.models.training import toy
from tests.models.training.test_trainer import SENTENCES, losses, steady, weights

TOLD = {
    "stages": steady(steps=4, rnnt_weight=0.5, ctc_weight=0.5),
    "augment": {"freq_masks": 1, "time_masks": 1, "gain_db": 3.0},
    "accumulate": 2,
    "batch_s": 1.5,
    "dropout": 0.1,
    "device": "cpu",
}


def second(folder: Path, environment: dict[str, str]) -> None:
    """The other process that torchrun would have started."""
    os.environ.update({**environment, "RANK": "1"})
    train(toy.settings(folder, run=str(folder / "two"), **TOLD))


def test_two_processes_learn_what_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    toy.corpus(tmp_path, [*SENTENCES, "low low"])
    train(toy.settings(tmp_path, **TOLD))
    alone = losses(capsys.readouterr().out)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    other = multiprocessing.get_context("spawn").Process(target=second, args=(tmp_path, environment))
    other.start()
    for name, value in {**environment, "RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    train(toy.settings(tmp_path, run=str(tmp_path / "two"), **TOLD))
    other.join(60)
    assert other.exitcode == 0
    assert losses(capsys.readouterr().out) == pytest.approx(alone, abs=2e-3)
    one, two = weights(tmp_path / "run"), weights(tmp_path / "two")
    for name, value in one.items():
        most = float((value - two[name]).abs().max())
        assert most < 1e-5, f"{name}: largest difference {most:.1e}"


def test_what_does_not_divide_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy.corpus(tmp_path, SENTENCES)
    monkeypatch.setattr(Ranks, "join", lambda _: Ranks(0, 2, torch.device("cpu")))
    monkeypatch.setattr(Ranks, "leave", lambda _: None)
    with pytest.raises(ValueError, match=r"^settings\.accumulate: got 3, expected a multiple of 2 processes"):
        train(toy.settings(tmp_path, accumulate=3))
    with pytest.raises(ValueError, match=r"^settings\.workers: got 2, expected 1 under torchrun or on a GPU"):
        train(toy.settings(tmp_path, workers=2))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^settings\.device: got cuda, expected cpu or auto"):
        train(toy.settings(tmp_path, device="cuda"))
