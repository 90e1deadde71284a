"""A teacher's frames lie where it heard them, at every tempo; a model learns them, and its release knows nothing."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import soundfile
import torch
from onnx import TensorProto, helper

from models import store
from models.tokenizer import Tokenizer
from models.training import release, teacher, trainer
from models.training.teacher import Teacher
from models.transducer import Model
from tests.models.training import toy

STRIDE = 400  # samples of a frame of the toy teacher


def loudness(path: Path) -> Path:
    """An encoder whose frames of 25 ms say how loud they are, and how loud with the other sign."""
    nodes = [
        helper.make_node("Abs", ["audio"], ["size"]),
        helper.make_node("Unsqueeze", ["size", "one"], ["row"]),
        helper.make_node("AveragePool", ["row"], ["mean"], kernel_shape=[STRIDE], strides=[STRIDE]),
        helper.make_node("Neg", ["mean"], ["other"]),
        helper.make_node("Concat", ["mean", "other"], ["both"], axis=1),
        helper.make_node("Transpose", ["both"], ["frames"], perm=[0, 2, 1]),
    ]
    audio = helper.make_tensor_value_info("audio", TensorProto.FLOAT, [1, "n"])
    frames = helper.make_tensor_value_info("frames", TensorProto.FLOAT, [1, "t", 2])
    one = helper.make_tensor("one", TensorProto.INT64, [1], [1])
    graph = helper.make_graph(nodes, "loudness", [audio], [frames], [one])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A toy corpus, and one recording that is loud from its second 1.6 to 2.4 of 4."""
    toy.corpus(tmp_path, ["low top mid top", "mid low"])
    audio = np.zeros(64_000, np.float32)
    audio[25_600:38_400] = 0.5
    soundfile.write(tmp_path / "loud.wav", audio, 16000)
    (tmp_path / "loud.jsonl").write_text(json.dumps({"audio_filepath": "loud.wav", "text": "top"}) + "\n")
    loudness(tmp_path / "loudness.onnx")
    names = [str(tmp_path / name) for name in ("loud.jsonl", "train.jsonl")]
    told = [*names, "--encoder", str(tmp_path / "loudness.onnx"), "--out", str(tmp_path / "taught"), "--workers", "1"]
    assert teacher.main(told) == teacher.main(told) == 0
    return tmp_path


@pytest.mark.parametrize("delay", [0, 2])
@pytest.mark.parametrize("tempo", [1.0, 1.25])
def test_targets_lie_where_the_teacher_heard_them(folder: Path, tempo: float, delay: int) -> None:
    guide = Teacher(folder / "taught", ["loud_v3"], delay)  # a version has the targets of the recordings themselves
    count = round(50 / tempo)
    heard = guide.frames(0, 0, count + 1, round(400 / tempo))[:, 0]
    loud = np.flatnonzero(heard > 0.5 * heard.max())
    # encoder frame t ends at 80 t ms
    assert loud[0] == pytest.approx(20 / tempo + 1 + delay, abs=1)
    assert loud[-1] == pytest.approx(30 / tempo + delay, abs=1)


def test_every_dimension_is_standardised(folder: Path) -> None:
    guide = Teacher(folder / "taught", ["loud"], 0)
    frames = guide.frames(0, 0, 50, 400)
    assert frames.mean(0) == pytest.approx([0, 0], abs=0.05)
    assert frames.std(0) == pytest.approx([1, 1], abs=0.05)


def test_a_model_learns_what_its_teacher_says_and_is_released_without_it(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stages = [{"name": "s", "steps": 60, "peak_lr": 5e-3, "warmup_steps": 5, "ctc_weight": 0.0, "teacher_weight": 1.0}]
    told = {"stages": stages, "teacher": str(folder / "taught"), "teacher_delay": 0}
    trainer.train(toy.settings(folder, max_steps=30, **told))
    trainer.train(toy.settings(folder, **told))  # goes on
    first, *_, last = (float(found) for found in re.findall(r"loss ([\d.]+)", capsys.readouterr().out))
    assert last < 0.3 * first
    release.release(folder / "run", folder / "out")
    model, _ = store.load(folder / "out")
    assert not [name for name in model.state_dict() if "teacher" in name]


def test_no_gradient_comes_from_padding(folder: Path) -> None:
    tokenizer = Tokenizer.from_sentencepiece((folder / "tokenizer.model").read_bytes())
    model = Model(replace(toy.config(tokenizer), d_model=4))
    teacher.add_head(model, 2)
    hidden = torch.randn(2, 5, 4, requires_grad=True)
    teacher.loss(model, hidden, torch.tensor([5, 2]), torch.randn(2, 7, 2)).backward()  # type: ignore[no-untyped-call]
    assert hidden.grad is not None
    assert hidden.grad[1, 2:].abs().max() == 0 < hidden.grad[1, :2].abs().min()


def test_what_does_not_fit_is_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="teacher: got None, expected a folder"):
        toy.settings(folder, stages=[{"name": "s", "steps": 1, "peak_lr": 1e-3, "teacher_weight": 1.0}])
    toy.corpus(folder, ["top"], "other")
    with pytest.raises(ValueError, match=r"settings\.teacher: got no .*other\.jsonl, expected targets of other"):
        trainer.train(toy.settings(folder, teacher=str(folder / "taught"), train=["other"]))
    told = {"teacher": str(folder / "taught"), "max_steps": 1}
    trainer.train(toy.settings(folder, **told))
    with pytest.raises(ValueError, match=r"got other weights than the model's .*teacher_head"):
        trainer.train(toy.settings(folder, max_steps=2))
    (folder / "loud.jsonl").write_text((folder / "train.jsonl").read_text())
    again = [str(folder / "loud.jsonl"), "--encoder", str(folder / "loudness.onnx"), "--out", str(folder / "taught")]
    assert teacher.main(again) == 1
    assert "got targets of another manifest or teacher" in capsys.readouterr().err
    assert teacher.main([str(folder / "none.jsonl"), *again[1:]]) == 1
    assert "none.jsonl: got no such file" in capsys.readouterr().err


def test_a_batch_has_each_rows_own_targets(folder: Path) -> None:
    told = toy.settings(folder, teacher=str(folder / "taught"))
    tokenizer = Tokenizer.from_sentencepiece((folder / "tokenizer.model").read_bytes())
    corpus = trainer.corpus_of(told, told.train, tokenizer, toy.config(tokenizer), taught=True)
    batch = corpus.batch([0, 1])
    assert batch.taught is not None
    levels = batch.mel.amax(-1)
    for row, frames in enumerate(batch.frames.tolist()):
        level = levels[row, : frames // 8 * 8].reshape(-1, 8).mean(1)[:-3]
        taught = batch.taught[row, 2 : 2 + len(level), 0]  # frame t is of the 80 ms before, and one frame of delay
        assert np.corrcoef(level, taught)[0, 1] > 0.8
