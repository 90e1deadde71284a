"""Claims about the files: each format is what its own readers expect, and is readable whenever the program ends."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path

import pysubs2
import pytest
import webvtt
from hypothesis import example, given
from hypothesis import strategies as st

from streamer.protocols.events import Word
from streamer.subtitles.cues import Style
from streamer.subtitles.writers import KINDS, kind_of, open_writer
from tests.streamer.subtitles.test_cues import said, speech

FIRST, SECOND = said("Tom & Jerry.", start=1.0), said("It was <late>.", start=4.0)


def written(kind: str, *utterances: list[Word], **options: object) -> str:
    out = io.StringIO()
    with open_writer(out, kind, **options) as writer:  # type: ignore[arg-type]
        for words in utterances:
            writer.add(words)
    return out.getvalue()


def test_plain_text_is_a_line_for_each_utterance() -> None:
    assert written("txt", FIRST, [], SECOND) == "Tom & Jerry.\nIt was <late>.\n"


def test_srt_is_what_players_expect() -> None:
    assert written("srt", FIRST, SECOND) == (
        "1\n00:00:01,000 --> 00:00:02,000\nTom & Jerry.\n\n"
        "2\n00:00:04,000 --> 00:00:05,000\nIt was \u2039late\u203a.\n\n"
    )


def test_webvtt_escapes_what_it_would_take_for_tags() -> None:
    assert written("vtt", FIRST, SECOND) == (
        "WEBVTT\n\n"
        "00:00:01.000 --> 00:00:02.000\nTom &amp; Jerry.\n\n"
        "00:00:04.000 --> 00:00:05.000\nIt was &lt;late&gt;.\n\n"
    )


def test_srt_of_several_channels_says_whose_words_they_are_within_the_line() -> None:
    out = io.StringIO()
    with open_writer(out, "srt", style=Style(line_length=14), channels=2) as writer:
        writer.add(said("one two three four five six", start=1.0), 1)
    cues = pysubs2.SSAFile.from_string(out.getvalue(), "srt")
    assert all(cue.plaintext.startswith("[2] ") for cue in cues)
    assert max(len(line) for cue in cues for line in cue.plaintext.splitlines()) <= 14


def test_ctm_has_a_line_for_each_word_and_a_name_without_blanks() -> None:
    assert written("ctm", FIRST, name="a/my talk.wav").splitlines() == [
        "my_talk 1 1.000 0.300 Tom 0.9000",
        "my_talk 1 1.300 0.300 & 0.9000",
        "my_talk 1 1.600 0.300 Jerry. 0.9000",
    ]


def test_json_lines_say_utterances_with_their_words() -> None:
    first, second = map(json.loads, written("jsonl", FIRST, SECOND, name="talk.wav").splitlines())
    assert first["text"] == "Tom & Jerry."
    assert first["words"][2] == {"word": "Jerry.", "start": 1.6, "end": 1.9, "confidence": 0.9}
    assert (second["audio_filepath"], second["channel"], second["start"], second["end"]) == ("talk.wav", 0, 4.0, 4.9)


def test_nothing_said_is_an_empty_file_of_its_kind() -> None:
    assert {kind: written(kind) for kind in KINDS} == {
        "txt": "",
        "srt": "",
        "vtt": "WEBVTT\n\n",
        "ctm": "",
        "jsonl": "",
    }


def test_letters_of_all_languages_are_utf_8_whatever_the_locale(tmp_path: Path) -> None:
    for kind in KINDS:
        with open_writer(tmp_path / f"a.{kind}", kind) as writer:
            writer.add(said("\u00e9t\u00e9 \u0939\u093f\u0928\u094d\u0926\u0940 \U0001f600"))
        text = (tmp_path / f"a.{kind}").read_bytes().decode("utf-8")
        assert "\u0939\u093f\u0928\u094d\u0926\u0940" in text
        assert "\r" not in text


# Other programs read what we write.


@given(speech())
def test_pysubs2_reads_the_words_and_times_of_srt(words: list[Word]) -> None:
    read = pysubs2.SSAFile.from_string(written("srt", words), "srt")
    assert [text for event in read for text in event.plaintext.split()] == [
        word.word.translate(str.maketrans("<>{}", "\u2039\u203a()")) for word in words
    ]
    assert all(event.start < event.end for event in read)


@given(speech())
def test_webvtt_py_reads_the_words_and_times_of_webvtt(words: list[Word]) -> None:
    captions = webvtt.from_buffer(io.StringIO(written("vtt", words))).captions
    assert [_plain(text) for caption in captions for text in caption.raw_text.split()] == [word.word for word in words]
    assert all(caption.start_in_seconds <= caption.end_in_seconds for caption in captions)


def _plain(text: str) -> str:
    assert "<" not in text
    assert ">" not in text
    return text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")


def test_an_hour_hundred_and_one_is_still_a_time() -> None:
    late = said("still here", start=363_600.5)
    assert "101:00:00,500 --> 101:00:01,500" in written("srt", late)
    (caption,) = webvtt.from_buffer(io.StringIO(written("vtt", late))).captions
    assert caption.start_in_seconds == 363_600


# A file grows.


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_settled_is_on_disk_before_the_writer_is_closed(tmp_path: Path, kind: str) -> None:
    writer = open_writer(tmp_path / "a", kind)
    writer.add(FIRST)
    writer.add(SECOND)
    so_far = (tmp_path / "a").read_text("utf-8")
    assert "Jerry." in so_far
    writer.close()
    whole = (tmp_path / "a").read_text("utf-8")
    assert whole.startswith(so_far)
    assert "late" in whole


def test_silence_settles_the_last_cue(tmp_path: Path) -> None:
    with open_writer(tmp_path / "a.srt", "srt") as writer:
        writer.add(FIRST)
        writer.heard(2.5)
        assert (tmp_path / "a.srt").read_text("utf-8") == ""
        writer.heard(10.0)
        assert "Jerry." in (tmp_path / "a.srt").read_text("utf-8")


# Several channels.


def test_cues_of_two_channels_are_in_the_order_of_their_times(tmp_path: Path) -> None:
    with open_writer(tmp_path / "a.vtt", "vtt", channels=2) as writer:
        writer.add(said("Are you there?", start=1.0), channel=0)
        writer.add(said("Good then.", start=30.0), channel=0)
        writer.add(said("I am.", start=3.0), channel=1)
        assert "Good" not in (tmp_path / "a.vtt").read_text("utf-8")
        writer.add(said("Well?", start=20.0), channel=1)
    captions = webvtt.read(str(tmp_path / "a.vtt")).captions
    assert [(caption.voice, caption.text) for caption in captions] == [
        ("Channel 1", "Are you there?"),
        ("Channel 2", "I am."),
        ("Channel 2", "Well?"),
        ("Channel 1", "Good then."),
    ]


@example([], [Word(word="{}", start=0.0, end=0.0, confidence=1.0)], random.Random(0))
@given(speech(), speech(), st.randoms(use_true_random=False))
def test_channels_keep_their_cues_however_they_come_in_turn(
    left: list[Word], right: list[Word], shuffler: random.Random
) -> None:
    turns = [0] * len(left) + [1] * len(right)
    shuffler.shuffle(turns)
    out, words = io.StringIO(), (iter(left), iter(right))
    with open_writer(out, "vtt", channels=2) as writer:
        for channel in turns:
            writer.add([next(words[channel])], channel)
    read = webvtt.from_string(out.getvalue()).captions
    starts = [caption.start for caption in read]
    assert len(starts) == written("vtt", left).count(" --> ") + written("vtt", right).count(" --> ")
    assert sum(len(caption.text.split()) for caption in read) == len(left) + len(right)
    assert starts == sorted(starts)


# Opening.


def test_a_file_that_is_there_is_not_overwritten_unasked(tmp_path: Path) -> None:
    (tmp_path / "a.srt").write_text("precious")
    with pytest.raises(FileExistsError, match=r"a\.srt"):
        open_writer(tmp_path / "a.srt", "srt")
    assert (tmp_path / "a.srt").read_text() == "precious"
    open_writer(tmp_path / "a.srt", "srt", overwrite=True).close()
    assert (tmp_path / "a.srt").read_text() == ""


def test_a_stream_that_was_given_stays_open() -> None:
    out = io.StringIO()
    open_writer(out, "vtt").close()
    assert not out.closed


def test_the_suffix_says_the_kind() -> None:
    names = ["a.srt", "b.VTT", "c.txt", "d.jsonl", "e.ctm", "f.doc", "srt", ".srt"]
    assert [kind_of(Path(name)) for name in names] == ["srt", "vtt", "txt", "jsonl", "ctm", None, None, None]


def test_the_style_is_the_writers_to_pass_on() -> None:
    narrow = written("srt", said("one two three four five"), style=Style(line_length=9, lines=3))
    assert max(map(len, narrow.splitlines()[2:5])) <= 9
