"""What is done to features is what would have happened to the sound."""

from __future__ import annotations

import numpy as np
import pytest
import soxr

from models.config import SAMPLE_RATE
from models.features_np import StreamingFeatures
from models.training.augment import Augment, Floats, masked, noise, sounded, warped
from tests.models.training import toy

NOTHING = Augment(freq_masks=0, time_masks=0, gain_db=0.0)
LOUD = -8.0  # of a log-mel number: what is quieter is near the guard of the log


def heard(audio: Floats) -> Floats:
    return StreamingFeatures(80).log_mel(audio.astype(np.float32))


def buzz(hertz: float, seconds: float = 1.0) -> Floats:
    """A voice of this pitch: many harmonics."""
    time = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    waves = [np.sin(2 * np.pi * hertz * k * time) / k for k in range(1, int(7000 / hertz))]
    return (0.1 * np.sum(waves, 0)).astype(np.float32)


def test_nothing_is_done_where_nothing_is_asked_for() -> None:
    mel = heard(buzz(150))
    np.testing.assert_array_equal(sounded(mel, np.random.default_rng(1), NOTHING), mel)
    masked(mel, np.random.default_rng(1), NOTHING)
    np.testing.assert_array_equal(mel, heard(buzz(150)))


def test_a_gain_is_the_gain_of_the_samples() -> None:
    audio = toy.tones(["low"]) * 0.5
    mel = sounded(heard(audio), np.random.default_rng(3), Augment(freq_masks=0, time_masks=0, gain_db=6.0))
    gain_db = np.random.default_rng(3).uniform(-6.0, 6.0)
    wanted = heard(audio * np.float32(10 ** (gain_db / 20)))
    loud = wanted > LOUD
    np.testing.assert_allclose(mel[loud], wanted[loud], atol=0.05)


@pytest.mark.parametrize("factor", [0.85, 1.0, 1.15])
@pytest.mark.parametrize("hertz", [300.0, 1100.0, 3000.0])
def test_a_warped_tone_is_a_tone_of_the_warped_frequency(factor: float, hertz: float) -> None:
    time = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    tone, other = (heard(0.3 * np.sin(2 * np.pi * f * time)) for f in (hertz, hertz * factor))
    peak = warped(tone, factor)[20:80].mean(0).argmax()
    assert abs(peak - other[20:80].mean(0).argmax()) <= 1


def test_a_warped_voice_is_nearer_to_the_voice_sped_up_than_it_was() -> None:
    audio = buzz(400.0)
    faster = heard(soxr.resample(audio, 1.1 * SAMPLE_RATE, SAMPLE_RATE))
    mel = heard(audio)[: len(faster)]
    below = slice(5, 60)  # bands up to some 4 kHz; above, the warped axis bends back
    error = [
        np.abs(one[10:-10, below].mean(0) - faster[10:-10, below].mean(0)).mean() for one in (mel, warped(mel, 1.1))
    ]
    assert error[1] < 0.6 * error[0]


@pytest.mark.parametrize("factor", [0.8, 1.25])
def test_a_warped_spectrum_keeps_the_order_of_its_bands_and_has_no_number_that_is_new(factor: float) -> None:
    rising = np.tile(np.arange(80, dtype=np.float32), (3, 1))
    other = warped(rising, factor)
    assert other.dtype == np.float32
    assert (np.diff(other, axis=1) >= 0).all()
    assert 0 <= other.min() <= other.max() <= 79
    assert other[0, 0] == pytest.approx(0, abs=1)
    assert other[0, -1] == pytest.approx(79, abs=1)
    moved = other[0, 10:60] - rising[0, 10:60]
    assert (moved < 0).all() if factor > 1 else (moved > 0).all()


@pytest.mark.parametrize("below_db", [0.0, 10.0, 25.0])
def test_noise_is_so_far_below_speech(below_db: float) -> None:
    audio = toy.tones(["low", "mid", "top"])
    mel = heard(audio)
    made = noise(mel, np.random.default_rng(4), below_db)
    powers = np.exp(mel.astype(np.float64)).sum(1)
    speech = np.sort(powers)[len(powers) // 2 :].mean()
    assert 10 * np.log10(speech / np.exp(made.astype(np.float64)).sum(1).mean()) == pytest.approx(below_db, abs=0.01)


def test_noise_adds_its_power_and_takes_nothing_away() -> None:
    mel = heard(toy.tones(["low", "mid"]))
    mixed = sounded(mel, np.random.default_rng(5), Augment(gain_db=0.0, noise=1.0, noise_db=0.0, quiet_db=5.0))
    assert (mixed >= mel).all()
    assert np.abs(mixed - mel).mean() > 0.5, "a quiet band is full of noise now"
    assert mixed.dtype == np.float32


def test_as_many_utterances_get_noise_as_are_asked_for() -> None:
    mel, rng = heard(toy.tones(["low"])), np.random.default_rng(6)
    some = Augment(gain_db=0.0, noise=0.3)
    changed = sum(not np.array_equal(sounded(mel, rng, some), mel) for _ in range(300))
    assert 60 < changed < 120


def test_silence_gets_noise_without_a_fault() -> None:
    mel = heard(np.zeros(SAMPLE_RATE))
    mixed = sounded(mel, np.random.default_rng(7), Augment(warp=0.2, noise=1.0))
    assert np.isfinite(mixed).all()
