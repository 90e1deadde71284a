"""Claims about what a microphone leaves behind."""

from __future__ import annotations

import json
import wave
from pathlib import Path

import pytest

from streamer.commands import CommandError, saving
from streamer.commands.saving import Saves
from streamer.protocols.events import Final, Partial, Word

WORDS = (
    Word(word="good", start=0.5, end=0.8, confidence=0.9),
    Word(word="morning", start=0.8, end=1.2, confidence=0.8),
)
FINAL = Final(segment=0, start=0.5, end=1.2, text="good morning", words=WORDS, reason="endpoint")
PCM = bytes(range(256)) * 250  # two seconds of it


def read(file: Path) -> bytes:
    with wave.open(str(file)) as wav:
        assert (wav.getnchannels(), wav.getsampwidth(), wav.getframerate()) == (1, 2, 16000)
        return wav.readframes(wav.getnframes())


def test_audio_is_kept_bit_for_bit(tmp_path: Path) -> None:
    file = tmp_path / "talk.wav"
    with Saves([str(file)], 16000) as saves:
        for at in range(0, len(PCM), 641):
            saves.audio(PCM[at : at + 641])
    assert read(file) == PCM
    assert file.stat().st_size == 44 + len(PCM)
    assert not saves.failed


def test_every_file_is_whole_before_the_end(tmp_path: Path) -> None:
    names = [tmp_path / f"talk.{kind}" for kind in ("wav", "txt", "jsonl", "vtt")]
    saves = Saves([str(name) for name in names], 16000).__enter__()
    saves.audio(PCM[:48_000])
    saves.audio(PCM[48_000:])
    saves.final(FINAL)
    assert read(names[0]) == PCM[:48_000]  # a second of audio at a time
    assert names[1].read_text() == "good morning\n"
    assert json.loads(names[2].read_text())["words"][1] == {
        "word": "morning", "start": 0.8, "end": 1.2, "confidence": 0.8
    }  # fmt: skip
    assert names[3].read_text().startswith("WEBVTT\n")
    saves.close()
    assert read(names[0]) == PCM


def test_settled_words_of_an_open_segment_are_kept(tmp_path: Path) -> None:
    subtitles, lines = tmp_path / "talk.srt", tmp_path / "talk.txt"
    later = Word(word="then", start=4.0, end=4.3, confidence=0.8)
    partial = Partial(segment=0, start=0.5, text="good morning then", words=(*WORDS, later), stable_words=2)
    with Saves([str(subtitles), str(lines)], 16000) as saves:
        saves.partial(partial)
        assert "good morning" in subtitles.read_text()
        assert lines.read_text() == ""
        saves.final(Final(segment=0, start=0.5, end=4.3, text=partial.text, words=partial.words, reason="close"))
    assert lines.read_text() == "good morning then\n"
    assert subtitles.read_text().count("good morning") == 1


def test_json_lines_name_the_recording_that_is_kept_beside_them_if_any(tmp_path: Path) -> None:
    alone, beside, wav = (tmp_path / name for name in ("alone.jsonl", "beside.jsonl", "talk.wav"))
    with Saves([str(alone)], 16000) as saves:
        saves.final(FINAL)
    with Saves([str(beside), str(wav)], 16000) as saves:
        saves.final(FINAL)
    assert "audio_filepath" not in json.loads(alone.read_text())
    assert json.loads(beside.read_text())["audio_filepath"] == str(wav)


def test_a_gap_is_said_where_people_read(tmp_path: Path) -> None:
    names = [tmp_path / f"talk.{kind}" for kind in ("txt", "srt", "jsonl", "ctm")]
    with Saves([str(name) for name in names], 16000) as saves:
        saves.final(FINAL)
        saves.unheard(1.2, 31.2, "[30.0 s not heard]")
    texts = [name.read_text() for name in names]
    assert texts[0] == "good morning\n[30.0 s not heard]\n"
    assert "[30.0 s not heard]" in texts[1].replace("\n", " ")
    assert "heard" not in texts[2] + texts[3]


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (["talk.mp3"], "talk.mp3: expected a name that ends in one of .wav, .txt, .srt, .vtt, .ctm, .jsonl"),
        (["talk"], "talk: expected a name"),
        (["new.srt", "new.srt"], "new.srt: got it twice"),
        (["new.srt", "old.wav"], "old.wav: it is there already; --force writes over it"),
        (["new.srt", "no/folder.txt"], "folder.txt: No such file or directory"),
    ],
)
def test_what_cannot_be_written_is_said_before_anything_is_heard(
    names: list[str], sentence: str, tmp_path: Path
) -> None:
    (tmp_path / "old.wav").write_bytes(b"precious")
    with pytest.raises(CommandError) as error, Saves([str(tmp_path / name) for name in names], 16000):
        pass
    assert sentence in str(error.value)
    assert (tmp_path / "old.wav").read_bytes() == b"precious"


def test_force_writes_over_what_is_there(tmp_path: Path) -> None:
    file = tmp_path / "talk.wav"
    file.write_bytes(bytes(100_000))
    with Saves([str(file)], 16000, overwrite=True) as saves:
        saves.audio(PCM[:100])
    assert read(file) == PCM[:100]


def test_a_file_that_takes_no_more_is_given_up_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(saving, "WAV_BYTES", 48_000)
    with Saves([str(tmp_path / "talk.wav"), str(tmp_path / "talk.txt")], 16000) as saves:
        saves.audio(PCM[:48_000])
        saves.audio(PCM[48_000:])
        saves.audio(PCM)
        saves.final(FINAL)
    assert capsys.readouterr().err == (
        f"streamer: --save {tmp_path / 'talk.wav'}: a WAV file ends at 4 GiB; what came before is there\n"
    )
    assert saves.failed
    assert read(tmp_path / "talk.wav") == PCM[:48_000]
    assert (tmp_path / "talk.txt").read_text() == "good morning\n"


def test_a_full_disk_is_said_and_the_others_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    (tmp_path / "full.txt").symlink_to("/dev/full")
    with Saves([str(tmp_path / "full.txt"), str(tmp_path / "talk.txt")], 16000, overwrite=True) as saves:
        saves.final(FINAL)
        saves.final(FINAL)
    assert "full.txt: No space left on device; what came before is there" in capsys.readouterr().err
    assert saves.failed
    assert (tmp_path / "talk.txt").read_text() == "good morning\n" * 2
