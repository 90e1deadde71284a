"""Batches: every utterance once, the same again from the same seed, features as cached."""

from __future__ import annotations

import collections
import io
import json
import math
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from models.features_np import StreamingFeatures
from models.training import cache
from models.training.augment import Augment
from models.training.data import ROUND_FRAMES, Corpus, fits_ctc
from models.training.manifest import Line
from tests.models.training import toy

SENTENCES = ["low", "mid top", "top low mid", "low low", "mid", "top mid low top", "low top"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus")
    toy.corpus(path, SENTENCES)
    return path


@pytest.fixture(scope="module")
def corpus(folder: Path) -> Corpus:
    return toy.cached(folder)


def test_the_cache_holds_the_features_of_every_utterance(folder: Path) -> None:
    frames, items = cache.load(folder / "cache", "train")
    assert [item.text for item in items] == SENTENCES
    audio, _ = soundfile.read(folder / "train2.wav", dtype="float32")
    mel = StreamingFeatures(80).log_mel(audio)
    cached = frames[items[2].offset : items[2].offset + items[2].frames]
    np.testing.assert_allclose(cached, mel, atol=0.01)


def test_audio_inside_an_archive_is_read_as_outside(folder: Path) -> None:
    with tarfile.open(folder / "some.tar", "w") as archive:
        data = (folder / "train1.wav").read_bytes()
        member = tarfile.TarInfo("inside.wav")
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    inside, outside = cache.read_all([Line(1, "some.tar!inside.wav", "a"), Line(2, "train1.wav", "a")], folder)
    assert np.array_equal(inside, outside)
    manifest = folder / "archived.jsonl"
    manifest.write_text(json.dumps({"audio_filepath": "some.tar!inside.wav", "text": "mid top"}) + "\n")
    cache.build(manifest, folder / "cache", workers=1)
    frames, items = cache.load(folder / "cache", "archived")
    np.testing.assert_allclose(frames[: items[0].frames], StreamingFeatures(80).log_mel(inside), atol=0.01)


def test_a_cache_of_another_manifest_or_of_other_features_is_refused(folder: Path, tmp_path: Path) -> None:
    manifest, cached = folder / "train.jsonl", folder / "cache"
    index = cached / "train.jsonl"
    assert cache.build(manifest, cached) == index, "there already, of the same manifest"
    with pytest.raises(ValueError, match=r"train\.jsonl: got mels=80, expected 128"):
        cache.load(cached, "train", 128)
    with pytest.raises(ValueError, match=r"train\.jsonl: got another file, expected an index"):
        cache.build(manifest, folder)
    other = tmp_path / "train.jsonl"
    other.write_text(manifest.read_text().replace("mid top", "top mid"))
    with pytest.raises(ValueError, match=r"train\.jsonl: got manifest=[0-9a-f]{64}, expected [0-9a-f]{64}"):
        cache.build(other, cached)


def test_a_cache_from_before_indices_said_what_they_are_is_read(folder: Path, tmp_path: Path) -> None:
    for name in ("train.jsonl", "train.f16"):
        shutil.copy(folder / "cache" / name, tmp_path / name)
    (tmp_path / "train.jsonl").write_text("".join((folder / "cache" / "train.jsonl").open().readlines()[1:]))
    frames, items = cache.load(tmp_path, "train")
    assert [item.text for item in items] == SENTENCES
    assert np.array_equal(frames, cache.load(folder / "cache", "train")[0])
    assert cache.build(folder / "train.jsonl", tmp_path) == tmp_path / "train.jsonl"
    with pytest.raises(ValueError, match=r"train\.f16: got \d+ bytes, expected \d+ of 128 mels"):
        cache.load(tmp_path, "train", 128)


def test_every_utterance_comes_once_an_epoch(corpus: Corpus) -> None:
    plan = corpus.plan(3.0, seed=1, epoch=2)
    assert sorted(index for batch in plan for index in batch) == list(range(len(SENTENCES)))
    for batch in plan:
        longest = max(corpus.utterances[i].frames for i in batch)
        assert len(batch) == 1 or longest * len(batch) <= 300


def test_the_order_is_that_of_seed_and_epoch_alone(corpus: Corpus) -> None:
    assert corpus.plan(1.5, 1, 2) == corpus.plan(1.5, 1, 2)
    assert corpus.plan(1.5, 1, 2) != corpus.plan(1.5, 1, 3)


def test_a_short_epoch_leaves_long_utterances_out(corpus: Corpus) -> None:
    taken = {i for batch in corpus.plan(3.0, 1, 0, up_to_s=1.2) for i in batch}
    assert taken == {i for i, u in enumerate(corpus.utterances) if u.frames <= 120}
    with pytest.raises(ValueError, match="got no utterance"):
        corpus.plan(3.0, 1, 0, up_to_s=0.1)


def test_a_batch_is_padded_with_zeros_after_each_row(corpus: Corpus) -> None:
    batch = corpus.batch([0, 2, 4])
    assert batch.mel.shape[1] % ROUND_FRAMES == 0
    assert batch.frames.tolist() == sorted(batch.frames.tolist(), reverse=True)
    for row, frames in enumerate(batch.frames.tolist()):
        assert not batch.mel[row, frames:].any()
        assert batch.mel[row, :frames].abs().sum() > 0
    assert batch.texts[0] == "top low mid"


def test_disturbing_depends_on_the_seed_and_keeps_the_shape(corpus: Corpus) -> None:
    plain = corpus.batch([2]).mel
    one, again, other = (corpus.batch([2], np.random.default_rng(seed), Augment()).mel for seed in (1, 1, 2))
    assert one.equal(again)
    assert not one.equal(other)
    assert not one.equal(plain)
    assert one.shape == plain.shape


def test_utterances_without_a_ctc_path_are_left_out() -> None:
    assert fits_ctc([1, 2, 3], 24)
    assert not fits_ctc([1, 2, 3], 23)
    assert not fits_ctc([1, 1, 3], 24), "a blank must lie between equal tokens"
    assert not fits_ctc([], 100)


def test_a_balanced_choice_takes_as_many_of_every_source(corpus: Corpus) -> None:
    chosen = corpus.balanced(2)
    assert collections.Counter(corpus.utterances[i].source for i in chosen) == {"toy0": 2, "toy1": 2}
    assert math.isclose(corpus.seconds, sum(u.frames for u in corpus.utterances) / 100)
