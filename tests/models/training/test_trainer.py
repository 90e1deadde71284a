"""The loop learns, resumes where it was, shares work between workers, and releases what it averaged."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import re
import threading
from pathlib import Path

import pytest
import torch

from models import store
from models.config import ConfigError
from models.tokenizer import Tokenizer, train_bpe
from models.training import progress as progress_module
from models.training import release, settings, trainer
from models.training.arena import Arena, Step
from models.training.joint_loss import groups
from models.training.progress import Progress, WorkerLost
from models.training.trainer import learning_rate, train, work
from models.training.validation import validate
from models.training.wer import ctc_texts, wer, wer_by_source
from tests.models.training import toy

SENTENCES = ["low top mid top", "mid low"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    toy.corpus(tmp_path, SENTENCES)
    return tmp_path


def losses(text: str) -> list[float]:
    return [float(found) for found in re.findall(r"loss ([\d.]+)", text)]


def steady(**values: object) -> list[dict[str, object]]:
    """A stage of one learning rate."""
    return [{"name": "s", "steps": 1000, "peak_lr": 5e-3, "final_lr": 5e-3, "warmup_steps": 5, **values}]


def test_two_utterances_are_learnt_by_heart_by_both_heads(folder: Path) -> None:
    both = steady(ctc_weight=0.3, inter_ctc_weight=0.2, rnnt_weight=0.7, warmup_steps=10)
    train(toy.settings(folder, stages=both, max_steps=150, log_steps=50, ema_decay=0.9))
    release.release(folder / "run", folder / "out")
    model, tokenizer = store.load(folder / "out")
    corpus = toy.cached(folder)
    ctc, rnnt, streamed = validate(model, corpus, [0, 1], tokenizer, ("ctc", "rnnt"), None)
    assert sorted(ctc.said) == sorted(rnnt.said) == sorted(SENTENCES)
    assert (ctc.wer, streamed.way) == (0.0, "rnnt at 80 ms")
    release.main([str(folder / "run"), str(folder / "alone"), "--kind", "ctc", "--name", "alone"])
    model, tokenizer = store.load(folder / "alone")
    assert (model.config.kind, model.config.name) == ("ctc", "alone")
    assert validate(model, corpus, [0, 1], tokenizer, ("ctc",), None)[0].said == ctc.said


def weights(run: Path) -> dict[str, torch.Tensor]:
    arena = torch.load(run / "checkpoint.pt", weights_only=True)["arena"]
    return {**arena["weights"], "first": arena["first"], "second": arena["second"]}


def test_a_resumed_run_ends_with_the_bits_of_one_that_never_stopped(folder: Path) -> None:
    (folder / "sentences.txt").write_text("top low\nmid\n")
    told = {
        "stages": [*steady(steps=2), *steady(rnnt_weight=0.5, sentence_weight=0.2, steps=5)],
        "sentences": [str(folder / "sentences.txt")],
        "augment": {"freq_masks": 1, "time_masks": 1, "gain_db": 3.0},
        "dropout": 0.1,
        "accumulate": 2,
        "batch_s": 2.0,
    }
    train(toy.settings(folder, **told))
    for steps in (3, None):
        train(toy.settings(folder, max_steps=steps, run=str(folder / "again"), **told))
    whole, again = weights(folder / "run"), weights(folder / "again")
    assert torch.load(folder / "run" / "checkpoint.pt", weights_only=True)["progress"][3] == 7
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_two_workers_train_one_model(folder: Path) -> None:
    train(toy.settings(folder, stages=steady(), max_steps=6, workers=2, batch_s=1.5))
    state = torch.load(folder / "run" / "checkpoint.pt", weights_only=True)
    assert all(torch.isfinite(value).all() for value in state["arena"]["weights"].values())
    assert state["progress"][3] >= 6


def ends_as_worker_1(worker: int, *rest: object) -> object:
    """A worker that is killed before it does anything; the first is a real one."""
    if worker:
        os._exit(3)
    return work(worker, *rest)


def test_a_run_whose_worker_died_is_saved_and_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "work", ends_as_worker_1)
    with pytest.raises(WorkerLost, match=r"^worker 1 ended with code 3; the run is saved"):
        train(toy.settings(folder, stages=steady(), workers=2, batch_s=1.5))
    assert torch.load(folder / "run" / "checkpoint.pt", weights_only=True)["progress"][3] >= 1


def test_nobody_waits_for_ever_for_a_lock_that_died_with_its_owner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_module, "LOCK_S", 0.05)
    progress = Progress(toy.settings(Path("nowhere")), multiprocessing)
    held, done = threading.Event(), threading.Event()

    def holds() -> None:
        with progress.locked():
            held.set()
            done.wait()

    thread = threading.Thread(target=holds)
    thread.start()
    held.wait()
    try:
        with pytest.raises(WorkerLost, match="was not free for 0 s"):
            progress.claim(lambda _: 1)
    finally:
        done.set()
        thread.join()
    assert progress.claim(lambda _: 1) is not None


def test_a_loss_without_a_head_is_refused_by_name(folder: Path) -> None:
    told = toy.settings(folder, stages=steady(rnnt_weight=1.0))
    with pytest.raises(ConfigError, match=r"^stages\.s='ctc': expected rnnt_weight: 0"):
        train(dataclasses.replace(told, model={**toy.MODEL, "kind": "ctc"}))
    assert not (folder / "run").exists()


def test_a_run_goes_on_with_its_own_model_and_tokenizer_only(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = toy.settings(folder, stages=steady(), max_steps=1, save_minutes=0.0)
    train(told)
    assert re.search(r"validation took \d+\.\d s", capsys.readouterr().out)
    kept = (folder / "run" / "checkpoint.pt").read_bytes()
    with pytest.raises(ValueError, match=r"checkpoint\.pt: got a model of other layers, xscaling, expected"):
        train(dataclasses.replace(told, model={**toy.MODEL, "xscaling": False, "layers": 2}))
    train_bpe(["low mid top"] * 5, 12, folder / "other")
    with pytest.raises(ValueError, match=r"tokenizer\.model: got another tokenizer"):
        train(dataclasses.replace(told, tokenizer=str(folder / "other.model")))
    assert (folder / "run" / "checkpoint.pt").read_bytes() == kept
    train(dataclasses.replace(told, model={**toy.MODEL, "name": "renamed", "licence": "CC0-1.0"}))


def test_mels_are_those_of_the_model(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"train\.jsonl: got mels=80, expected 128"):
        train(toy.settings(folder, model={**toy.MODEL, "mels": 128}))


def test_a_run_starts_from_released_weights(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(toy.settings(folder, stages=steady(), max_steps=60, ema_decay=0.5))
    release.release(folder / "run", folder / "out")
    fresh = losses(capsys.readouterr().out)[0]
    train(toy.settings(folder, stages=steady(), max_steps=1, init=str(folder / "out"), run=str(folder / "second")))
    assert losses(capsys.readouterr().out)[0] < 0.3 * fresh


def test_flat_updates_equal_torchs_adamw() -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Linear(7, 3))
    reference = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Linear(7, 3))
    reference.load_state_dict(net.state_dict())
    matrices = [p for p in reference.parameters() if p.dim() >= 2]
    vectors = [p for p in reference.parameters() if p.dim() < 2]
    adamw = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
        lr=1e-2,
        betas=(0.9, 0.98),
    )
    arena = Arena(net, workers=2)
    for number in range(1, 4):
        rank, inputs = number % 2, torch.randn(4, 5)
        arena.attach(net, arena.weights, arena.gradients[rank])
        arena.gradients[rank].zero_()
        net(inputs).square().mean().backward()
        arena.update(rank, Step(1e-2, number, 0.9, 0.98, 0.1, 0.5, 0.9))
        adamw.zero_grad()
        reference(inputs).square().mean().backward()
        torch.nn.utils.clip_grad_norm_(reference.parameters(), 0.5)
        adamw.step()
    for name, wanted in reference.named_parameters():
        got = arena.views(arena.weights)[name]
        assert torch.allclose(got, wanted, atol=1e-5), f"{name}: max difference {(got - wanted).abs().max():.2e}"


def test_a_gradient_that_is_no_number_changes_nothing() -> None:
    arena = Arena(torch.nn.Linear(3, 3), workers=1)
    before = arena.weights.clone()
    arena.gradients[0].fill_(float("nan"))
    arena.update(0, Step(1e-2, 1, 0.9, 0.98, 0.1, 1.0, 0.9))
    assert torch.equal(arena.weights, before)


def test_claims_walk_through_epochs_and_stages_of_minutes_and_of_steps() -> None:
    told = toy.settings(Path("nowhere"), stages=[*steady(minutes=1.0, steps=None), *steady(steps=3)])
    progress = Progress(told, multiprocessing)
    claimed = [progress.claim(lambda epoch: 2 + epoch) for _ in range(6)]
    assert [(job.epoch, job.batch) for job in claimed if job] == [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2), (2, 0)]
    progress.pass_time(59.0)
    assert progress.get("stage") == 0
    progress.pass_time(2.0)
    job = progress.claim(lambda _: 10)
    assert job is not None
    assert job.stage == 1
    for _ in range(3):
        progress.heard(1.0, 0.5)
    assert progress.get("stage") == 2, "a stage of steps ends with its last one"
    assert progress.claim(lambda _: 10) is None
    asked = Progress(told, multiprocessing)
    asked.ask_to_end()
    assert asked.claim(lambda _: 10) is None


def test_the_learning_rate_warms_up_over_steps_and_ends_with_the_stage() -> None:
    stage = settings.Stage("s", minutes=10.0, peak_lr=1.0, final_lr=0.1, warmup_steps=10)
    assert learning_rate(stage, 0, 0.0) == pytest.approx(0.1)
    assert learning_rate(stage, 100, 0.0) == pytest.approx(1.0)
    assert learning_rate(stage, 100, 0.5) == pytest.approx(0.55)
    assert learning_rate(stage, 100, 1.0) == pytest.approx(0.1)


def test_groups_cover_all_rows_and_keep_to_the_cells() -> None:
    frames, labels = torch.tensor([50, 40, 40, 10, 9]), torch.tensor([9, 12, 3, 4, 1])
    cuts = list(groups(frames, labels, 1100))
    assert [row for cut in cuts for row in range(cut.start, cut.stop)] == [0, 1, 2, 3, 4]
    for cut in cuts:
        cells = (cut.stop - cut.start) * int(frames[cut].max()) * (int(labels[cut].max()) + 1)
        assert cells <= 1100 or cut.stop - cut.start == 1


def test_settings_for_tuning_are_whole_and_unknown_keys_are_refused() -> None:
    assert settings.load(Path(settings.__file__).with_name("tune.yaml")).model is None
    with pytest.raises(ValueError, match=r"settings.batch: got an unknown key"):
        settings.from_dict({"batch": 1})
    with pytest.raises(ValueError, match=r"stages.peak_lr: got '1e-3', expected a number"):
        settings.from_dict({"stages": [{"name": "s", "minutes": 1, "peak_lr": "1e-3"}]})


def test_wer_counts_errors_by_words_of_all_utterances() -> None:
    assert wer(["a b c", "d"], ["a x c", "d"]) == pytest.approx(0.25)
    assert wer_by_source(["a b", "c"], ["a b", ""], ["one", "two"]) == {"one": 0.0, "two": 1.0}
    with pytest.raises(ValueError, match="got 1 hypotheses, expected 2"):
        wer(["a", "b"], ["a"])


def test_ctc_texts_join_repeats_and_stop_at_the_rows_end() -> None:
    tokenizer = Tokenizer.from_labels(["a", "b"])
    best = torch.tensor([[0, 0, 2, 0, 1, 1, 0], [1, 2, 2, 0, 0, 0, 0]])
    logprobs = torch.nn.functional.one_hot(best, 3).float().log_softmax(-1)
    assert ctc_texts(logprobs, torch.tensor([6, 3]), tokenizer) == ["aab", "b"]
