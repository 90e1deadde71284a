"""Finalize: always answered, and every word is said once, wherever the finalizes fall."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamer.actions import Feed, Fork
from streamer.protocols.events import Audio, Close, Closed, Endpointing, Final, Finalize, Partial, Word
from streamer.voice import MAX_FORKS
from tests.streamer.life import HELLO, OPENING, SETTINGS, Life, audio, silence
from tests.streamer.toy import pcm_of


def test_finalize_is_answered_with_what_the_stream_has_not_heard_yet() -> None:
    life = Life(replace(OPENING, latency_ms=560)).receive(audio(HELLO[:7]), Finalize())
    assert life.texts() == [("finalize", "v1a v2c")]
    assert all(word.end <= 0.56 for word in life.finals()[0].words)


def test_finalize_without_words_is_answered_with_an_empty_final() -> None:
    life = Life().receive(Finalize(), silence(3), Finalize(), Close())
    assert life.texts() == [("finalize", ""), ("finalize", ""), ("close", "")]
    assert [final.segment for final in life.finals()] == [0, 1, 2]


def test_what_a_finalize_said_is_not_said_again() -> None:
    life = Life(replace(OPENING, latency_ms=560)).receive(audio(HELLO), Finalize(), audio([0, 3, 3, 0]), Close())
    assert life.texts() == [("finalize", "v1a v2c"), ("close", "v3c")]


def test_a_word_that_a_finalize_cuts_through_goes_on_as_a_word_of_its_own() -> None:
    life = Life().receive(audio([0, 1, 1]), Finalize(), audio([1, 1, 0, 0]), Close())
    assert life.texts() == [("finalize", "v1c"), ("close", "b")]


def test_many_finalizes_at_once_are_all_answered_and_say_each_word_once() -> None:
    life = Life(replace(OPENING, latency_ms=560)).receive(audio(HELLO), *[Finalize()] * 9, run=False)
    assert sum(isinstance(action, Fork) for action in life.actions) == 1, "one client took more than its share"
    life.run()
    assert [reason for reason, _ in life.texts()] == ["finalize"] * 9
    assert [text for _, text in life.texts() if text] == ["v1a v2c"]
    assert life.receive(Close()).texts()[-1] == ("close", "")


def test_a_finalize_cuts_where_it_was_sent_although_another_is_being_answered() -> None:
    said = [audio(HELLO), Finalize(), audio([0, 3, 3, 0]), Finalize(), audio([0, 4, 4, 0]), Close()]
    life = Life(replace(OPENING, latency_ms=560)).receive(*said, run=False).run()
    assert life.texts() == [("finalize", "v1a v2c"), ("finalize", "v3c"), ("close", "v4c")]
    assert sum(isinstance(action, Fork) for action in life.actions) == 2


def test_a_flood_of_finalizes_shares_forks_beyond_a_bound() -> None:
    said = [event for voice in range(40) for event in (audio([0, voice % 3 + 1]), Finalize())]
    life = Life().receive(*said, run=False)
    assert sum(isinstance(action, Fork) for action in life.actions) == MAX_FORKS
    assert [reason for reason, _ in life.run().texts()] == ["finalize"] * 40


def test_finalizes_that_still_wait_at_close_are_answered_before_its_final() -> None:
    life = Life().receive(audio(HELLO), *[Finalize()] * 6, Close(), run=False).run()
    assert [reason for reason, _ in life.texts()] == ["finalize"] * 6 + ["close"]
    assert [text for _, text in life.texts() if text] == ["v1a v2c"]


@pytest.mark.parametrize("end", ["limit", "shutdown", "failed"])
def test_a_finalize_is_answered_before_the_last_final_although_the_server_ends_the_stream(end: str) -> None:
    life = Life().receive(audio(HELLO), Finalize(), run=False)
    if end == "limit":
        life.now += SETTINGS.idle_s
        life.do(life.session.tick(life.now))
    elif end == "shutdown":
        life.do(life.session.shutdown(life.now))
    life.receive(Finalize(), run=False)
    if end == "failed":
        life.do(life.session.failed("internal", "step: got a fault, expected tokens", life.now))
    life.run()
    last = "error" if end == "failed" else end
    assert [reason for reason, _ in life.texts()] == ["finalize", "finalize", last]
    assert life.errors() == {"limit": ["idle_timeout"], "shutdown": [], "failed": ["internal"]}[end]


def test_with_resampling_a_finalize_hears_what_the_resampler_still_holds() -> None:
    opening = replace(OPENING, sample_rate=48000)
    sound = Audio(pcm=np.repeat(pcm_of(HELLO), 3).tobytes())
    life = Life(opening).receive(sound)
    fed = sum(action.pcm.size for action in life.actions if isinstance(action, Feed))
    life.receive(Finalize())
    forked = next(action.pcm.size for action in life.actions if isinstance(action, Fork))
    assert fed < len(HELLO) * 1280
    assert fed + forked - 800 * 16 == len(HELLO) * 1280
    assert life.texts() == [("finalize", "v1a v2c")]
    assert life.receive(Close()).seen[-1] == Closed(audio_seconds=0.64)


def test_a_finalize_hears_what_was_kept_because_it_makes_no_chunk() -> None:
    def fed() -> int:
        return sum(action.pcm.size for action in life.actions if isinstance(action, Feed))

    life = Life(replace(OPENING, encoding="pcm_s16le")).receive(Audio(pcm=bytes(2000)), Audio(pcm=bytes(600)))
    assert (fed(), life.session.audio_seconds) == (1000, 1300 / 16000), "of a first chunk of 1480 samples"
    life.receive(Finalize(), run=False)
    assert (fed(), isinstance(life.actions[-1], Fork)) == (1300, True)
    assert life.run().receive(Audio(pcm=bytes(20)), Close()).seen[-1] == Closed(audio_seconds=1310 / 16000)


words_and_gaps = st.lists(st.tuples(st.integers(1, 6), st.integers(2, 6), st.integers(1, 8)), max_size=8).map(
    lambda parts: [0, *(voice for v, run, gap in parts for voice in [v] * run + [0] * gap), 0, 0, 0, 0, 0]
)
places = st.lists(st.floats(0, 1), max_size=6)
Rhythm = tuple[list[int], list[int]]  # samples a piece, engine steps after each; both repeat
rhythms = st.tuples(
    st.lists(st.integers(400, 9000), min_size=1, max_size=5), st.lists(st.integers(0, 3), min_size=1, max_size=5)
)


def walk(life: Life, voices: list[int], cuts: Sequence[int], rhythm: Rhythm) -> None:
    """Send the audio in random pieces, let the engine run at random, finalize at the cuts (samples)."""
    data, at = pcm_of(voices), 0
    pieces, runs = map(itertools.cycle, rhythm)
    for end, finalize in [*((cut, True) for cut in sorted(cuts)), (len(data), False)]:
        while at < end:
            size = min(next(pieces), end - at)
            life.receive(Audio(pcm=data[at : at + size].tobytes()), run=False).run(next(runs))
            at += size
        if finalize:
            life.receive(Finalize(), run=False).run(next(runs))


def cut_through(word: Word, cuts: Sequence[int], delay: int) -> bool:
    """A cut after the word's first frame is heard and before its last one is."""
    first, end = round(word.start / 0.08) - 1 - delay, round(word.end / 0.08) - 1 - delay
    seen = [len(range(100, cut, 1280)) for cut in cuts]  # frames whose sample 100 comes before the cut
    return any(first < frames < end for frames in seen)


@settings(deadline=None, max_examples=150)
@given(words_and_gaps, places, st.sampled_from([80, 160, 560]), st.integers(0, 3), rhythms)
def test_with_finalizes_anywhere_every_word_they_do_not_cut_through_is_there_once(
    voices: list[int], shares: list[float], latency_ms: int, delay: int, rhythm: Rhythm
) -> None:
    opening = replace(OPENING, latency_ms=latency_ms)
    whole = [word for f in Life(opening, delay=delay).receive(audio(voices), Close()).finals() for word in f.words]
    cuts = sorted(int(share * 1280 * len(voices)) for share in shares)
    life = Life(opening, delay=delay)
    walk(life, voices, cuts, rhythm)
    life.receive(Close(), run=False).run()
    assert [r for r, _ in life.texts()] == ["finalize"] * len(cuts) + ["close"]
    kept = [word for final in life.finals() for word in final.words]
    times = [time for word in kept for time in (word.start, word.end)]
    assert times == sorted(times)
    rest = iter(kept)
    for word in whole:
        if not cut_through(word, cuts, delay):
            assert any(same(word, other) for other in rest), f"{word} is not in {kept}, cuts {cuts}"
    if not any(cut_through(word, cuts, delay) for word in whole):
        assert [word.word for word in kept] == [word.word for word in whole]


def same(word: Word, other: Word) -> bool:
    """The same word; its times may only have been cut short by the end of the audio that a finalize heard."""
    early = other.start <= word.start and other.end <= word.end
    return (word.word, word.confidence) == (other.word, other.confidence) and early


@settings(deadline=None, max_examples=50)
@given(words_and_gaps, st.integers(3, 8), st.integers(1, 4), st.sampled_from([80, 560]))
def test_a_finalize_in_silence_changes_no_word(voices: list[int], gap: int, finalizes: int, latency_ms: int) -> None:
    opening = replace(OPENING, latency_ms=latency_ms)
    sound = [audio(voices), silence(gap), *[Finalize()] * finalizes, silence(gap), audio(voices), Close()]
    plain = [event for event in sound if not isinstance(event, Finalize)]
    words, expected = (
        [word for final in Life(opening).receive(*events).finals() for word in final.words] for events in (sound, plain)
    )
    assert words == expected


@settings(deadline=None, max_examples=60)
@given(words_and_gaps, places, rhythms, st.integers(1, 6))
def test_stable_words_of_partials_come_true_in_their_final(
    voices: list[int], shares: list[float], rhythm: Rhythm, silence_frames: int
) -> None:
    endpointing = Endpointing(silence_ms=80 * silence_frames, max_ms=1000)
    life = Life(replace(OPENING, endpointing=endpointing))
    cuts = sorted(int(share * 1280 * len(voices)) for share in shares)
    walk(life, voices, cuts, rhythm)
    life.receive(Close(), run=False).run()
    stable: dict[int, tuple[Word, ...]] = {}
    for event in life.seen:
        if isinstance(event, (Partial, Final)):
            before = stable.get(event.segment, ())
            assert event.words[: len(before)] == before
            stable[event.segment] = event.words[: event.stable_words] if isinstance(event, Partial) else event.words
    assert [final.segment for final in life.finals()] == list(range(len(life.finals())))
