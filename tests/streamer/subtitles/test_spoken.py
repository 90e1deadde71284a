"""Claims about words that are written while a segment is still being spoken."""

from __future__ import annotations

import io

from streamer.protocols.events import Final, Partial, Word
from streamer.subtitles.spoken import Spoken
from streamer.subtitles.writers import open_writer


def words(text: str, start: float = 0.0) -> tuple[Word, ...]:
    """A word each half second."""
    return tuple(
        Word(word=word, start=start + at / 2, end=start + at / 2 + 0.4, confidence=0.9)
        for at, word in enumerate(text.split())
    )


def partial(said: tuple[Word, ...], stable: int, segment: int = 0, channel: int = 0) -> Partial:
    text = " ".join(word.word for word in said)
    return Partial(channel=channel, segment=segment, start=said[0].start, text=text, words=said, stable_words=stable)


def final(said: tuple[Word, ...], segment: int = 0, channel: int = 0) -> Final:
    text = " ".join(word.word for word in said)
    return Final(
        channel=channel, segment=segment, start=said[0].start, end=said[-1].end, text=text, words=said, reason="close"
    )


def test_a_cue_before_a_pause_is_written_when_the_next_word_is_in_sight() -> None:
    out = io.StringIO()
    spoken = Spoken(open_writer(out, "srt"))
    said = words("one two three") + words("four", start=5.0)
    spoken.partial(partial(said, 3))
    assert "one two three" in out.getvalue()
    assert "four" not in out.getvalue()


def test_every_word_is_written_once_whatever_brought_it() -> None:
    out = io.StringIO()
    spoken = Spoken(open_writer(out, "ctm", name="talk.wav"))
    first, second = words("one two three"), words("four five", start=3.0)
    spoken.partial(partial(first[:2], 1))
    assert [line.split()[4] for line in out.getvalue().splitlines()] == ["one"]
    spoken.partial(partial(first, 2))
    spoken.partial(partial(first, 2))
    spoken.final(final(first))
    spoken.partial(partial(second, 1, segment=1))
    spoken.final(final(second, segment=1))
    spoken.final(final(words("six", start=9.0), segment=2))
    assert [line.split()[4] for line in out.getvalue().splitlines()] == ["one", "two", "three", "four", "five", "six"]


def test_channels_do_not_mix() -> None:
    out = io.StringIO()
    spoken = Spoken(open_writer(out, "ctm", name="talk.wav", channels=2))
    here, there = words("one two"), words("uno due")
    spoken.partial(partial(here, 1))
    spoken.partial(partial(there, 1, channel=1))
    spoken.final(final(there, channel=1))
    spoken.final(final(here))
    assert [line.split()[4] for line in out.getvalue().splitlines()] == ["one", "uno", "due", "two"]


def test_a_line_is_an_utterance() -> None:
    out = io.StringIO()
    spoken = Spoken(open_writer(out, "txt"))
    said = words("one two three")
    spoken.partial(partial(said, 2))
    assert out.getvalue() == ""
    spoken.final(final(said))
    assert out.getvalue() == "one two three\n"
