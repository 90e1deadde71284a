"""Predictor and joint learn from sentences that nobody spoke what comes next; nothing else of the model moves."""

from __future__ import annotations

import lzma
from pathlib import Path

import numpy as np
import pytest
import torch

from models.config import ConfigError
from models.tokenizer import Tokenizer
from models.training import origin, sentences, trainer
from models.training.sentences import Sentences
from models.transducer import Model
from tests.models.training import toy


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    toy.corpus(tmp_path, ["low top mid top", "mid low"])
    (tmp_path / "one.txt").write_text("low low mid\n\ntop\n")
    (tmp_path / "two.txt.xz").write_bytes(lzma.compress(b"Mid, top!\n"))
    return tmp_path


def tokenizer_of(folder: Path) -> Tokenizer:
    return Tokenizer.from_sentencepiece((folder / "tokenizer.model").read_bytes())


def test_draws_are_padded_lines_of_all_files(folder: Path) -> None:
    tokenizer = tokenizer_of(folder)
    drawn = Sentences([str(folder / "one.txt"), str(folder / "two.txt.xz")], tokenizer, plain=True)
    ids, lengths = drawn.draw(np.random.default_rng(0), 50)
    rows = [row[:length].tolist() for row, length in zip(ids, lengths.tolist(), strict=True)]
    assert {tokenizer.decode(row) for row in rows} == {"low low mid", "top", "mid top"}
    assert all(not row[length:].any() for row, length in zip(ids, lengths.tolist(), strict=True))
    again, _ = drawn.draw(np.random.default_rng(0), 50)
    assert torch.equal(ids, again)


def test_what_comes_next_is_learnt_without_the_encoder(folder: Path) -> None:
    tokenizer = tokenizer_of(folder)
    model = Model(toy.config(tokenizer))
    ids, lengths = Sentences([str(folder / "one.txt")], tokenizer).draw(np.random.default_rng(0), 20)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    first = float(sentences.loss(model, ids, lengths).detach())
    for _ in range(200):
        optimizer.zero_grad()
        loss = sentences.loss(model, ids, lengths)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    # two sentences: a fifth to a half of a bit for each label remains
    assert float(loss.detach()) < 0.3 < 1.5 < first
    touched = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert touched == {"decoder", "joint"}


def test_the_predictor_drops_what_it_is_told_to_in_training_alone(folder: Path) -> None:
    tokenizer = tokenizer_of(folder)
    ids, lengths = Sentences([str(folder / "one.txt")], tokenizer).draw(np.random.default_rng(0), 20)
    for dropout, kinds in ((0.0, 1), (0.5, 5)):
        model = Model(toy.config(tokenizer), dropout)
        assert len({float(sentences.loss(model, ids, lengths).detach()) for _ in range(5)}) == kinds
        model.eval()
        assert len({float(sentences.loss(model, ids, lengths).detach()) for _ in range(5)}) == 1


def test_a_run_draws_them_and_refuses_what_is_none(folder: Path) -> None:
    stage = {"name": "s", "steps": 3, "peak_lr": 1e-3, "sentence_weight": 0.3, "rnnt_weight": 1.0}
    trainer.train(toy.settings(folder, stages=[stage], sentences=[str(folder / "two.txt.xz")], text="plain"))
    for name, written in (("none.txt", None), ("odd.txt", b"\xff"), ("odd.txt.xz", b"no"), ("blank.txt", b"\n")):
        if written is not None:
            (folder / name).write_bytes(written)
        with pytest.raises(ValueError, match=rf"sentences: got .*{name}.*, expected"):
            trainer.train(toy.settings(folder, run=str(folder / "new"), stages=[stage], sentences=[str(folder / name)]))
    assert not (folder / "new").exists()
    with pytest.raises(ValueError, match="sentences: got \\(\\), expected text files"):
        toy.settings(folder, stages=[stage])
    changes: dict[str, object] = {"sentences": ["x"], "model": {**toy.MODEL, "kind": "ctc"}}
    told = toy.settings(folder, stages=[stage | {"rnnt_weight": 0}], **changes)
    with pytest.raises(ConfigError, match="sentence_weight: 0"):
        origin.read(told)
