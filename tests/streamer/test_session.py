"""One client's life, with a toy engine in place of the real one: no socket, no clock, no weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from streamer.actions import Finish, Fork, Hangup
from streamer.errors import Refusal
from streamer.protocols.events import (
    Audio,
    Close,
    Closed,
    Configure,
    Endpointing,
    Error,
    Final,
    Finalize,
    KeepAlive,
    Malformed,
    Partial,
    Ready,
    Word,
)
from tests.streamer.life import HELLO, OPENING, SETTINGS, Life, audio, silence
from tests.streamer.toy import ID, pcm_of

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
    life.receive(audio(HELLO), Close(), run=False).run()
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


def test_a_stall_after_a_finalize_that_said_it_all_says_nothing_and_counts_no_segment() -> None:
    life = Life(replace(OPENING, latency_ms=560)).receive(audio(HELLO), Finalize()).wait(2).receive(Close())
    assert life.texts() == [("finalize", "v1a v2c"), ("close", "")]
    assert [final.segment for final in life.finals()] == [0, 1]


# Limits and faults.


def test_neither_audio_nor_keepalive_ends_the_stream_with_its_words() -> None:
    life = Life().receive(audio(HELLO))
    for _ in range(5):
        life.wait(50).receive(KeepAlive())
    assert life.hangup is None
    life.wait(60)
    assert life.errors() == ["idle_timeout"]
    assert life.texts() == [("stall", "v1a v2c"), ("limit", "")]
    assert [type(event) for event in life.seen[-3:]] == [Error, Final, Closed]
    assert life.hangup == Hangup(code=1008, reason="limit")


def test_while_nobody_listens_the_clients_silence_is_none_of_its_own() -> None:
    life = Life(replace(OPENING, latency_ms=560)).receive(audio(HELLO[:7]))
    for _ in range(70):
        life.now += 1
        life.do(life.session.tick(life.now, listening=False))
    life.run()
    assert (life.texts(), life.errors()) == ([], [])
    assert life.wait(0.9).texts() == []
    assert life.wait(0.2).texts() == [("stall", "v1a v2c")]
    assert life.wait(59).errors() == ["idle_timeout"]


def test_the_longest_session_ends_although_nobody_listens() -> None:
    life = Life(session=replace(SETTINGS, max_session_s=0.6)).receive(audio(HELLO))
    life.do(life.session.tick(life.now, listening=False))
    assert life.run().errors() == ["session_limit"]


def test_empty_messages_are_no_audio_for_the_stall() -> None:
    life = Life(replace(OPENING, latency_ms=560)).receive(audio(HELLO[:7]))
    for _ in range(3):
        life.wait(0.4).receive(Audio(pcm=b""))
    assert life.texts() == [("stall", "v1a v2c")]
    for _ in range(99):
        life.wait(1).receive(Audio(pcm=b""))
    assert life.errors() == [], "a message is a sign of life all the same"


@pytest.mark.parametrize("seconds", [0.0, 1.0])
def test_the_longest_session_ends_with_a_final_on_the_wall_and_on_the_audio_clock(seconds: float) -> None:
    life = Life(session=replace(SETTINGS, max_session_s=0.6)).receive(audio(HELLO[: 8 if not seconds else 7]))
    life.wait(seconds)
    assert life.texts() == [("limit", "v1a v2c")]
    said = [type(event) for event in life.seen if not isinstance(event, Partial)]
    assert said[-3:] == [Error, Final, Closed]
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


@pytest.mark.parametrize("messages", [1, 2])
def test_bytes_that_are_no_audio_end_the_stream_with_what_was_heard_before(messages: int) -> None:
    good, bad = audio(HELLO).pcm, np.full(100, np.nan, np.float32).tobytes()
    life = Life().receive(*(Audio(pcm=data) for data in ((good + bad,) if messages == 1 else (good, bad))))
    assert life.errors() == ["bad_audio"]
    assert life.texts() == [("error", "v1a v2c")]
    assert life.seen[-1] == Closed(audio_seconds=0.64)
    assert life.hangup == Hangup(code=1003, reason="error")


def test_a_first_message_of_one_wrong_sample_is_no_audio_either() -> None:
    life = Life().receive(Audio(pcm=np.array([0.1, np.nan], np.float32).tobytes()), Close())
    assert life.errors() == ["bad_audio"]
    assert life.hangup == Hangup(code=1003, reason="error")


def test_a_message_that_is_too_long_ends_the_stream_with_what_was_heard_before() -> None:
    life = Life(session=replace(SETTINGS, max_message_bytes=50_000)).receive(audio(HELLO), Audio(pcm=bytes(50_001)))
    (error,) = [event for event in life.seen if isinstance(event, Error)]
    assert error == Error(code="bad_audio", message="audio='50001 bytes': expected at most 50000 bytes a message")
    assert life.texts() == [("error", "v1a v2c")]
    assert life.hangup == Hangup(code=1009, reason="error")


@pytest.mark.parametrize("header", [b"RIFF\x24\x08\x00\x00WAVEfmt ", b"fLaC\x00"])
def test_a_file_header_is_said_even_when_the_file_ends_with_it(header: bytes) -> None:
    life = Life(replace(OPENING, encoding="pcm_s16le")).receive(Audio(pcm=header), Close())
    assert life.errors() == ["bad_audio"]
    assert life.texts() == [("error", "")]
    assert life.hangup == Hangup(code=1003, reason="error")


def test_words_of_a_fork_lie_within_the_audio_that_a_failing_stream_reports() -> None:
    life = Life(replace(OPENING, sample_rate=8000)).receive(Audio(pcm=pcm_of([1, 1]).tobytes()), Finalize())
    life.do(life.session.failed("internal", "step: got a fault, expected tokens", life.now))
    assert life.seen[-1] == Closed(audio_seconds=0.32)
    assert life.finals()[0].end <= 0.32


def test_wrong_bytes_after_resampled_audio_lose_none_of_it() -> None:
    sound, nan = np.repeat(pcm_of(HELLO), 3), np.full(100, np.nan, np.float32)
    life = Life(replace(OPENING, sample_rate=48000)).receive(Audio(pcm=sound.tobytes()), Audio(pcm=nan.tobytes()))
    assert life.texts() == [("error", "v1a v2c")]
    assert life.seen[-1] == Closed(audio_seconds=0.64)


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
    with pytest.raises(AssertionError, match="got 99, expected that of"):
        life.session.heard(answer._replace(mark=99), 0.0)
