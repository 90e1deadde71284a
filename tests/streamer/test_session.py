"""One client's life, with a toy engine in place of the real one: no socket, no clock, no weights."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamer.actions import Action, Feed, Finish, Fork, Hangup, Say
from streamer.errors import Refusal
from streamer.protocols.events import (
    Audio,
    ClientEvent,
    Close,
    Closed,
    Configure,
    Endpointing,
    Error,
    Final,
    Finalize,
    KeepAlive,
    Malformed,
    Opening,
    Partial,
    Ready,
    ServerEvent,
    Word,
)
from streamer.protocols.native import Native
from streamer.session import Session, SessionSettings
from tests.streamer.toy import ID, Pieces, ToyEngine, pcm_of, token, toy_config

OFF = Endpointing(enabled=False, max_ms=3_600_000)
SETTINGS = SessionSettings(tail_ms=800)
OPENING = Opening(encoding="pcm_f32le", latency_ms=160, endpointing=OFF)


class Life:
    """A session, a toy engine and what the client saw. Every event passes the dialect, so the table holds too."""

    def __init__(self, opening: Opening = OPENING, session: SessionSettings = SETTINGS, delay: int = 0,
                 eou: bool = False) -> None:
        config = toy_config(eou=eou)
        self.now = 0.0
        self.session = Session(opening, config, Pieces(), session, self.now)
        self.engine = ToyEngine(self.session.chunk, delay)
        self.native = Native()
        self.seen: list[ServerEvent] = []
        self.hangup: Hangup | None = None
        self.actions: list[Action] = []
        self.do(self.session.start("id"))

    def do(self, actions: Sequence[Action]) -> None:
        for action in actions:
            assert self.hangup is None, "an action after the hangup"
            self.actions.append(action)
            match action:
                case Say(event=event):
                    self.native.send(event)
                    self.seen.append(event)
                case Hangup():
                    self.hangup = action
                case _:
                    self.engine.do(action)

    def receive(self, *events: ClientEvent, run: bool = True) -> Life:
        for event in events:
            if isinstance(event, Close):
                self.native.receive('{"type":"close"}')
            self.do(self.session.receive(event, self.now))
            if run:
                self.run()
        return self

    def run(self, steps: int = 1 << 30) -> Life:
        while steps and (heard := self.engine.step()) is not None:
            self.do(self.session.heard(heard, self.now))
            steps -= 1
        return self

    def wait(self, seconds: float) -> Life:
        self.now += seconds
        self.do(self.session.tick(self.now))
        return self.run()

    def finals(self) -> list[Final]:
        return [event for event in self.seen if isinstance(event, Final)]

    def texts(self) -> list[tuple[str, str]]:
        return [(final.reason, final.text) for final in self.finals()]

    def errors(self) -> list[str]:
        return [event.code for event in self.seen if isinstance(event, Error)]


def audio(voices: Sequence[int]) -> Audio:
    return Audio(pcm=pcm_of(voices).tobytes())


def silence(frames: int) -> Audio:
    return audio([0] * frames)


HELLO = [0, 1, 1, 1, 0, 2, 2, 0]  # "v1a v2c" in eight frames


# A life in order.


def test_ready_repeats_what_was_agreed() -> None:
    assert Life().seen == [Ready(session_id="id", model="toy", latency_ms=160, sample_rate=16000)]


def test_close_yields_the_final_of_everything_then_closed_then_1000() -> None:
    life = Life().receive(audio(HELLO), Close())
    assert life.texts() == [("close", "v1a v2c")]
    assert isinstance(life.seen[-1], Closed)
    assert life.seen[-1] == Closed(audio_seconds=0.64)
    assert life.hangup == Hangup(code=1000, reason="close")


def test_words_carry_times_and_confidence() -> None:
    final = Life().receive(audio(HELLO), Close()).finals()[0]
    confidence = round(float(np.exp(-0.01 * ((1 + 7) / 2))), 4)
    assert final.words[0] == Word(word="v1a", start=0.16, end=0.4, confidence=confidence)
    assert (final.start, final.end) == (0.16, final.words[1].end)


def test_a_stream_without_audio_closes_with_an_empty_final() -> None:
    life = Life().receive(Close())
    assert life.texts() == [("close", "")]
    assert life.hangup == Hangup(code=1000, reason="close")


def test_close_after_everything_was_finalised_still_says_a_final() -> None:
    life = Life().receive(audio(HELLO), silence(4), Finalize(), Close())
    assert life.texts() == [("finalize", "v1a v2c"), ("close", "")]


def test_nothing_is_heard_after_close() -> None:
    life = Life().receive(audio(HELLO), Close(), run=False)
    life.receive(audio(HELLO), Finalize(), Close(), run=False).run()
    assert life.texts() == [("close", "v1a v2c")]
    assert sum(isinstance(action, Finish) for action in life.actions) == 1
    assert life.session.receive(audio(HELLO), 0.0) == []


@pytest.mark.parametrize("size", [1, 3, 100, 5000])
def test_the_same_audio_in_pieces_of_any_size_gives_the_same_finals(size: int) -> None:
    data = pcm_of([*HELLO, *HELLO, 3, 3, 3, 3]).tobytes()
    pieces = [Audio(pcm=data[at : at + size]) for at in range(0, len(data) if size > 1 else 3000, size)]
    whole = Life().receive(Audio(pcm=b"".join(p.pcm for p in pieces)), Close()).finals()
    assert Life().receive(*pieces, Close()).finals() == whole


# Partials.


def test_partials_come_when_the_text_changes_and_only_then() -> None:
    life = Life(replace(OPENING, latency_ms=80)).receive(*(audio([voice]) for voice in [*HELLO, 0, 0, 0]))
    texts = [event.text for event in life.seen if isinstance(event, Partial)]
    assert texts == ["v1", "v1a", "v1a v2", "v1a v2c"]
    assert [e.stable_words for e in life.seen if isinstance(e, Partial)] == [0, 0, 1, 1]


def test_without_interim_there_are_no_partials_until_they_are_switched_on() -> None:
    life = Life(replace(OPENING, interim=False)).receive(audio(HELLO))
    assert not [e for e in life.seen if isinstance(e, Partial)]
    life.receive(Configure(interim=True), audio(HELLO))
    assert [e.text for e in life.seen if isinstance(e, Partial)] != []


# Endpoints.

SPOKEN = replace(OPENING, endpointing=Endpointing(silence_ms=400))


def test_silence_after_speech_ends_a_segment_by_itself() -> None:
    life = Life(SPOKEN).receive(audio(HELLO), silence(10), audio(HELLO), Close())
    assert life.texts() == [("endpoint", "v1a v2c"), ("close", "v1a v2c")]
    assert [final.segment for final in life.finals()] == [0, 1]
    assert life.finals()[1].start > life.finals()[0].end


def test_the_silence_that_close_adds_is_no_endpoint() -> None:
    life = Life(SPOKEN, replace(SETTINGS, tail_ms=4000)).receive(audio(HELLO), Close())
    assert life.texts() == [("close", "v1a v2c")]


def test_endpointing_values_can_be_changed_on_the_way() -> None:
    life = Life(SPOKEN).receive(Configure(endpointing=False), audio(HELLO), silence(10))
    assert life.texts() == []
    life.receive(Configure(endpointing=True, endpoint_silence_ms=80), silence(4))
    assert life.texts() == [("endpoint", "v1a v2c")]


def test_an_end_of_utterance_token_ends_the_segment_where_the_model_has_one() -> None:
    life = Life(replace(OPENING, endpointing=Endpointing()), eou=True)
    life.engine._model.due = [(3, ID["\u2581v1"]), (3, ID["<EOU>"]), (3, ID["\u2581v2"])]
    life.receive(silence(8), Close())
    assert life.texts() == [("endpoint", "v1"), ("close", "v2")]


# Finalize.


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
    assert sum(isinstance(action, Fork) for action in life.actions) == 4
    life.run()
    assert [reason for reason, _ in life.texts()] == ["finalize"] * 9
    assert [text for _, text in life.texts() if text] == ["v1a v2c"]
    assert life.receive(Close()).texts()[-1] == ("close", "")


def test_finalizes_that_still_wait_at_close_are_answered_before_its_final() -> None:
    life = Life().receive(audio(HELLO), *[Finalize()] * 6, Close(), run=False).run()
    assert [reason for reason, _ in life.texts()] == ["finalize"] * 6 + ["close"]
    assert [text for _, text in life.texts() if text] == ["v1a v2c"]


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


# Silence on the wire.


def test_when_audio_stops_arriving_pending_words_are_finalised_once() -> None:
    life = Life(replace(OPENING, latency_ms=560)).receive(audio(HELLO[:7])).wait(0.9)
    assert life.texts() == []
    life.wait(0.2).wait(5).wait(5)
    assert life.texts() == [("stall", "v1a v2c")]


def test_after_a_stall_audio_may_come_again() -> None:
    life = Life(replace(OPENING, latency_ms=560)).receive(audio(HELLO[:7])).wait(2).receive(audio([0, 3, 3, 0]))
    assert life.wait(2).texts() == [("stall", "v1a v2c"), ("stall", "v3c")]
    assert life.receive(Close()).texts()[-1] == ("close", "")


def test_a_stall_without_words_says_nothing() -> None:
    life = Life().wait(2).receive(silence(5)).wait(2).wait(2)
    assert life.texts() == []
    assert sum(isinstance(action, Fork) for action in life.actions) == 1


# Limits and faults.


def test_neither_audio_nor_keepalive_ends_the_stream_with_its_words() -> None:
    life = Life().receive(audio(HELLO))
    for _ in range(5):
        life.wait(50).receive(KeepAlive())
    assert life.hangup is None
    life.wait(60)
    assert life.errors() == ["idle_timeout"]
    assert life.texts() == [("stall", "v1a v2c"), ("limit", "")]
    assert life.hangup == Hangup(code=1008, reason="limit")


@pytest.mark.parametrize("seconds", [0.0, 1.0])
def test_the_longest_session_ends_with_a_final_on_the_wall_and_on_the_audio_clock(seconds: float) -> None:
    life = Life(session=replace(SETTINGS, max_session_s=0.6)).receive(audio(HELLO[: 8 if not seconds else 7]))
    life.wait(seconds)
    assert life.texts() == [("limit", "v1a v2c")]
    assert [type(event) for event in life.seen[-3:]] == [Final, Error, Closed]
    assert life.errors() == ["session_limit"]


def test_a_refused_message_is_said_and_the_stream_lives_on() -> None:
    wrong = Malformed(refusal=Refusal("type", "x", "y", code="bad_message"))
    life = Life().receive(audio(HELLO), wrong, Close())
    assert life.errors() == ["bad_message"]
    assert life.texts() == [("close", "v1a v2c")]


def test_too_many_refused_messages_end_the_stream_with_its_words() -> None:
    wrong = Malformed(refusal=Refusal("type", "x", "y", code="bad_message"))
    life = Life(session=replace(SETTINGS, max_errors=3)).receive(audio(HELLO), *[wrong] * 9)
    assert life.errors() == ["bad_message"] * 3 + ["too_many_errors"]
    assert life.texts() == [("error", "v1a v2c")]
    assert life.hangup == Hangup(code=1008, reason="error")


def test_bytes_that_are_no_audio_end_the_stream_with_what_was_heard_before() -> None:
    life = Life().receive(audio(HELLO), Audio(pcm=np.full(100, np.nan, np.float32).tobytes()))
    assert life.errors() == ["bad_audio"]
    assert life.texts() == [("error", "v1a v2c")]
    assert life.hangup == Hangup(code=1003, reason="error")


@pytest.mark.parametrize("header", [b"RIFF\x24\x08\x00\x00WAVEfmt ", b"fLaC\x00"])
def test_a_file_header_is_said_even_when_the_file_ends_with_it(header: bytes) -> None:
    life = Life(replace(OPENING, encoding="pcm_s16le")).receive(Audio(pcm=header), Close())
    assert life.errors() == ["bad_audio"]
    assert life.texts() == [("error", "")]
    assert life.hangup == Hangup(code=1003, reason="error")


def test_shutdown_finishes_what_is_in_flight() -> None:
    life = Life(replace(OPENING, latency_ms=560)).receive(audio(HELLO))
    life.do(life.session.shutdown(life.now))
    life.run()
    assert life.texts() == [("shutdown", "v1a v2c")]
    assert life.hangup == Hangup(code=1001, reason="shutdown")
    assert life.session.shutdown(life.now) == []


def test_shutdown_after_close_changes_nothing() -> None:
    life = Life().receive(audio(HELLO), Close(), run=False)
    assert life.session.shutdown(0.0) == []
    assert life.run().texts() == [("close", "v1a v2c")]


@pytest.mark.parametrize("closed", [False, True])
def test_a_failed_engine_is_said_with_a_final_of_what_was_heard(closed: bool) -> None:
    life = Life().receive(audio([*HELLO, 0, 0, 3, 3]), Finalize(), run=False).run(4)
    if closed:
        life.receive(Close(), run=False)
    life.do(life.session.failed("internal", "step: got an exception, expected tokens", life.now))
    assert [type(event) for event in life.seen[-3:]] == [Error, Final, Closed]
    assert life.finals()[-1].reason == "error"
    assert life.hangup == Hangup(code=1011, reason="error")
    assert life.session.failed("internal", "again", life.now) == []
    assert life.session.tick(1e9) == []


def test_an_engine_that_never_finishes_does_not_hold_the_client_for_ever() -> None:
    life = Life().receive(audio(HELLO)).receive(Close(), run=False)
    life.now += 59
    assert life.session.tick(life.now) == []
    life.now += 1
    life.do(life.session.tick(life.now))
    assert life.errors() == ["internal"]
    assert life.texts() == [("error", "v1a v2c")]
    assert life.session.done


def test_a_fork_that_was_never_asked_for_is_a_bug() -> None:
    life = Life().receive(audio(HELLO), Finalize(), run=False)
    answer = life.engine._answers[0]
    with pytest.raises(AssertionError, match="expected one of"):
        life.session.heard(replace(answer, mark=99), 0.0)


def test_words_come_out_as_their_tokens_spell_them() -> None:
    assert Pieces().decode([token("\u2581v1", 0).id, token("a", 0).id, token("\u2581v2", 0).id]) == "v1a v2"
