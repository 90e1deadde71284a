"""Recordings as heard elsewhere: changed within bounds, the same again from the same seed, never louder than full."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from models.training import acoustics, cache
from models.training.acoustics import Acoustics, Samples, heard_elsewhere

TONE: Samples = (0.3 * np.sin(np.arange(24_000) * 2 * np.pi * 1000 / 16_000)).astype(np.float32)
HISS: Samples = np.random.default_rng(5).standard_normal(8000).astype(np.float32)
NOTHING = Acoustics((1.0, 1.0), room_share=0, noise_share=0, telephone_share=0, codec_share=0, gain_db=(0.0, 0.0))


def only(**told: Any) -> Acoustics:
    """One change and no other."""
    return dataclasses.replace(NOTHING, **told)


def heard(told: Acoustics, seed: int = 0, audio: Samples = TONE) -> Samples:
    return heard_elsewhere(audio, np.random.default_rng(seed), [TONE, HISS], [HISS], told)


def level_db(samples: Samples) -> float:
    return 10 * float(np.log10(np.mean(samples**2)))


def test_nothing_told_changes_nothing() -> None:
    np.testing.assert_allclose(heard(NOTHING), TONE, atol=1e-4)


@pytest.mark.parametrize("seed", range(20))
def test_the_same_seed_gives_the_same_recording_within_full_scale(seed: int) -> None:
    once, again = heard(Acoustics(), seed), heard(Acoustics(), seed)
    assert once.dtype == np.float32
    assert once.tobytes() == again.tobytes()
    assert np.isfinite(once).all()
    assert np.abs(once).max() <= 1
    assert 0.86 < len(TONE) / len(once) < 1.15


def test_faster_is_shorter_and_higher() -> None:
    fast = heard(only(speed=(1.1, 1.1)))
    assert len(fast) == pytest.approx(len(TONE) / 1.1, abs=2)
    spectrum = np.abs(np.fft.rfft(fast))
    assert np.argmax(spectrum) * 16_000 / len(fast) == pytest.approx(1100, abs=2)


@pytest.mark.parametrize("snr_db", [0.0, 10.0, 20.0])
def test_noise_is_as_much_softer_as_told(snr_db: float) -> None:
    told = only(noise_share=1, snr_db=(snr_db, snr_db), voices_snr_db=0)
    for seed in range(8):
        noise = heard(told, seed, TONE / 4) - heard(NOTHING, seed, TONE / 4)
        assert level_db(TONE / 4) - level_db(noise) == pytest.approx(snr_db, abs=0.5)


def test_a_telephone_carries_nothing_above_four_kilohertz() -> None:
    loud = np.abs(np.fft.rfft(heard(only(telephone_share=1), audio=HISS / 8)))
    high, low = np.square(loud[len(loud) * 43 // 80 :]).mean(), np.square(loud[: len(loud) * 35 // 80]).mean()
    assert high < 0.01 * low


@pytest.mark.parametrize("coding", [("WAV", "ULAW"), ("WAV", "GSM610"), ("AU", "G721_32")])
def test_codecs_of_lines_change_sounds_and_move_none(coding: tuple[str, str]) -> None:
    coded = acoustics._coded(TONE, 8000, *coding)
    assert coded.shape == TONE.shape
    assert 0.9 < np.corrcoef(coded, TONE)[0, 1] < 1.0
    assert not np.array_equal(coded, TONE)


def test_opus_changes_a_sound_and_moves_nothing() -> None:
    coded = heard(only(codec_share=1, opus_level=(0.95, 0.95)))
    assert coded.shape == TONE.shape
    assert 0.95 < np.corrcoef(coded, TONE)[0, 1] < 1.0


def test_a_room_goes_on_after_the_sound() -> None:
    click = np.zeros(16_000, np.float32)
    click[1000] = 0.5
    after = heard(only(room_share=1, room_s=(0.4, 0.4)), audio=click)
    early, late = (np.mean(after[at : at + 1000] ** 2) for at in (1200, 6000))
    assert not np.abs(after[:990]).max() > 1e-3, "nothing is heard before it is said"
    assert early > 20 * late > 0


def test_versions_of_a_manifest_have_names_of_their_own(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", TONE, 16_000)
    manifest = tmp_path / "train.jsonl"
    manifest.write_text(json.dumps({"audio_filepath": "a.wav", "text": "a", "duration": 1.5}) + "\n")
    (tmp_path / "noise").mkdir()
    soundfile.write(tmp_path / "noise" / "hiss.wav", HISS / 8, 16_000)
    told = ["--versions", "2", "--noise", str(tmp_path / "noise"), "--workers", "1"]
    cache.main([str(manifest), "--out", str(tmp_path / "c"), *told])
    frames = [cache.load(tmp_path / "c", name)[0] for name in ("train", "train_v1", "train_v2")]
    again = cache.build(manifest, tmp_path / "d", workers=1, version=2, noise=tmp_path / "noise")
    assert again.name == "train_v2.jsonl"
    assert np.array_equal(frames[2], cache.load(tmp_path / "d", "train_v2")[0])
    assert [cache.load(tmp_path / "c", name)[1][0].text for name in ("train", "train_v1")] == ["a", "a"]
    assert len({array.tobytes() for array in frames}) == 3
