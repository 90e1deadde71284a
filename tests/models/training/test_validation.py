"""Claims about validation: chunk by chunk a model hears what it hears at once, and both rates are told."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from models import store
from models.training import journal
from models.training.journal import Journal
from models.training.trainer import train
from models.training.validation import streamed
from tests.models.training import toy
from tests.models.training.test_trainer import SENTENCES, steady


@pytest.mark.parametrize("name", ["hybrid_bpe", "rnnt_bpe_bn128"])
def test_frames_that_are_streamed_equal_those_of_the_whole(golden: Path, name: str) -> None:
    model, _ = store.load(golden / "models" / name / f"{name}.nemo")
    lengths = torch.tensor([203, 57, 96, 8])
    mel = torch.randn(4, 208, model.config.mels, generator=torch.Generator().manual_seed(0)) - 5
    for context in model.config.contexts:
        whole, counts = model.encoder.offline(mel, lengths, context)
        chunks, heard = streamed(model, mel, lengths, context)
        assert heard.tolist() == counts.tolist()
        for row, count in enumerate(counts.tolist()):
            torch.testing.assert_close(chunks[row, :count], whole[row, :count], atol=1e-5, rtol=0)


def test_a_run_tells_both_rates_and_writes_events(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tensorboard")
    toy.corpus(tmp_path, SENTENCES)
    stages = steady(steps=2, rnnt_weight=0.5)
    train(toy.settings(tmp_path, stages=stages, tensorboard=True, dev_latency_ms=160))
    said = capsys.readouterr().out
    assert [f"dev WER {way} " in said for way in ("ctc", "rnnt", "rnnt at 160 ms")] == [True] * 3
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "run"))
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2]
    assert "dev/wer rnnt at 160 ms" in events.Tags()["scalars"]


def test_without_tensorboard_a_run_that_wants_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match=r"^settings\.tensorboard: got true, expected false: the package"):
        Journal(tmp_path, tensorboard=True)


def test_a_bar_is_drawn_for_a_person_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    quiet = Journal(tmp_path)
    quiet.progress(0.5, "stage")
    quiet.close()
    assert not capsys.readouterr().out
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    drawn = Journal(tmp_path)
    drawn.progress(0.5, "stage step 7")
    drawn.close()
    assert "stage step 7" in capsys.readouterr().out
