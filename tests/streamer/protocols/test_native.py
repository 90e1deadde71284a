"""Our dialect: what is understood, what is refused, and that a refusal moves nothing."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
    Opening,
    Partial,
    Ready,
    Word,
)
from streamer.protocols.native import NAMES, TRANSITIONS, Native, Offer, State, parse_query, read_server, write

OFFER = Offer(latencies_ms=(1120, 560, 80), latency_ms=560)
SPOKEN = Offer(latencies_ms=(80,), latency_ms=80, languages=("en-US", "de-DE", "auto"), language="auto")
READY = Ready(session_id="s", model="m", latency_ms=80, sample_rate=16000)
WORDS = (Word(word="hi", start=0.1, end=0.25, confidence=0.5),)
SERVER_EVENTS = [
    READY,
    Partial(segment=0, start=0.1, text="hi", words=WORDS, stable_words=0),
    Final(segment=0, start=0.1, end=0.25, text="hi", words=WORDS, reason="close"),
    Closed(audio_seconds=1.5),
    Error(code="bad_state", message="no"),
]
CLIENT_TEXTS = [
    ('{"type":"finalize"}', Finalize()),
    ('{"type":"close"}', Close()),
    ('{"type":"keepalive"}', KeepAlive()),
    ('{"type":"configure"}', Configure()),
    (
        '{"type":"configure","interim":false,"endpointing":true,"endpoint_silence_ms":400,"endpoint_start_ms":3000,'
        '"endpoint_max_ms":9000}',
        Configure(
            interim=False, endpointing=True, endpoint_silence_ms=400, endpoint_start_ms=3000, endpoint_max_ms=9000
        ),
    ),
]


def streaming() -> Native:
    native = Native()
    native.send(READY)
    return native


def refused(native: Native, message: bytes | str) -> str:
    event = native.receive(message)
    assert isinstance(event, Malformed)
    return str(event.refusal)


# The query.


def test_an_empty_query_gives_the_defaults() -> None:
    assert parse_query([], OFFER) == Opening(latency_ms=560)


def test_every_parameter_is_read() -> None:
    query = {
        "sample_rate": "48000",
        "encoding": "pcm_f32le",
        "channels": "2",
        "latency": "80",
        "interim": "false",
        "language": "de-DE",
        "endpointing": "false",
        "endpoint_silence_ms": "500",
        "endpoint_start_ms": "2000",
        "endpoint_max_ms": "20000",
    }
    endpointing = Endpointing(enabled=False, silence_ms=500, start_ms=2000, max_ms=20000)
    assert parse_query(query.items(), SPOKEN) == Opening(
        sample_rate=48000,
        encoding="pcm_f32le",
        channels=2,
        latency_ms=80,
        interim=False,
        language="de-DE",
        endpointing=endpointing,
    )


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ([("sample_rate", "7000")], "sample_rate=7000: expected a whole number, 8000 to 192000 Hz"),
        ([("sample_rate", "16e3")], "sample_rate=16e3: expected a whole number, 8000 to 192000 Hz"),
        ([("endpoint_max_ms", "1" * 12)], "endpoint_max_ms=111111111111: expected a whole number, 1000 to 300000 ms"),
        ([("latency", "low")], "latency=low: expected one of the model's, in ms: 80, 560, 1120"),
        ([("sample_rate", "\u0661")], "sample_rate='\u0661'"),
        ([("channels", "0")], "channels=0: expected a whole number, 1 to 8"),
        ([("encoding", "opus")], "encoding=opus: expected one of pcm_s16le, pcm_f32le, mulaw, alaw"),
        ([("latency", "100")], "latency=100: expected one of the model's, in ms: 80, 560, 1120"),
        ([("interim", "1")], "interim=1: expected true or false"),
        ([("language", "de-DE")], "language=de-DE: expected no language"),
        ([("endpoint_silence_ms", "10")], "endpoint_silence_ms=10: expected a whole number, 80 to 60000 ms"),
        ([("samplerate", "16000")], "did you mean sample_rate?"),
        ([("channels", "1"), ("channels", "2")], "channels=2: expected one value; the first was 1"),
    ],
)
def test_a_wrong_query_is_refused_in_a_sentence(query: list[tuple[str, str]], sentence: str) -> None:
    with pytest.raises(Refusal) as refusal:
        parse_query(query, OFFER)
    assert sentence in str(refusal.value)
    assert refusal.value.code == "bad_request"


def test_an_unknown_language_is_answered_with_the_known_ones() -> None:
    with pytest.raises(Refusal, match=r"one of en-US, de-DE, auto \(did you mean de-DE\?\)"):
        parse_query([("language", "de-De")], SPOKEN)


# Messages.


@pytest.mark.parametrize(("text", "event"), CLIENT_TEXTS)
def test_each_client_message_is_understood_and_written_back(text: str, event: object) -> None:
    assert streaming().receive(text) == event
    assert json.loads(write(event)) == json.loads(text)  # type: ignore[arg-type]


@pytest.mark.parametrize("event", SERVER_EVENTS, ids=lambda event: type(event).__name__)
def test_each_server_event_is_read_back_as_it_was_said(event: object) -> None:
    assert read_server(write(event)) == event  # type: ignore[arg-type]


def test_server_messages_have_exactly_the_documented_fields() -> None:
    partial, final = json.loads(write(SERVER_EVENTS[1])), json.loads(write(SERVER_EVENTS[2]))  # type: ignore[arg-type]
    assert list(partial) == ["type", "channel", "segment", "start", "text", "words", "stable_words"]
    assert list(final) == ["type", "channel", "segment", "start", "end", "text", "words", "reason"]
    assert partial["words"] == [{"word": "hi", "start": 0.1, "end": 0.25, "confidence": 0.5}]
    assert json.loads(write(READY)) == {
        "type": "ready",
        "session_id": "s",
        "model": "m",
        "latency_ms": 80,
        "sample_rate": 16000,
    }


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 6), st.integers(0, 6), st.booleans()), max_size=12))
def test_partials_are_written_as_any_event_whatever_was_written_before(said: list[tuple[int, int, int, bool]]) -> None:
    native = streaming()
    for segment, count, stable, corrected in said:
        spelled = [f'w{i}\u00e9"' for i in range(count)]
        words = tuple(Word(word=w, start=i, end=i + corrected, confidence=0.5) for i, w in enumerate(spelled))
        text, sure = " ".join(spelled), min(stable, count)
        partial = Partial(segment=segment, start=0.0, text=text, words=words, stable_words=sure)
        assert native.send(partial) == write(partial)


@pytest.mark.parametrize("depth", [900, 1900])
def test_json_nested_as_deep_as_fits_is_refused_in_words(depth: int) -> None:
    for size in (*range(depth, depth + 100), depth * 2):
        deep = "[" * size + "]" * size
        assert "expected" in refused(streaming(), '{"type":"configure","interim":' + deep + "}")
        assert "expected" in refused(streaming(), '{"type":' + deep + "}")


def test_binary_messages_are_audio_of_any_length() -> None:
    assert streaming().receive(b"") == Audio(pcm=b"")
    assert streaming().receive(b"\x00\x01\x02") == Audio(pcm=b"\x00\x01\x02")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("hello", "message=hello: expected a JSON object"),
        ("[1]", "expected a JSON object"),
        ("{}", "type=null: expected one of finalize, close, keepalive, configure"),
        ('{"type":7}', "type=7: expected one of"),
        ('{"type":"ready"}', "type=ready: expected one of finalize"),
        ('{"type":"finalise"}', "did you mean finalize?"),
        ('{"type":"close","now":true}', "close field=now: expected no field beside type"),
        ('{"type":"configure","interm":true}', "did you mean interim?"),
        ('{"type":"configure","interim":null}', "configure.interim=null: expected a value"),
        ('{"type":"configure","interim":true,"interim":false}', "each key once"),
        ('{"type":"configure","interim":"yes"}', "configure.interim=yes: expected true or false"),
        ('{"type":"configure","endpoint_silence_ms":NaN}', "NaN is not JSON"),
        ('{"type":"configure","endpoint_silence_ms":1e999}', "configure.endpoint_silence_ms=inf: expected a whole"),
        ('{"type":"configure","language":"de-DE"}', "in the query of the connection only"),
        ("[" * 4000, "expected a JSON object"),
        ("x" * 4097, "message='4097 characters': expected at most 4096"),
    ],
)
def test_a_wrong_message_is_said_and_the_talk_goes_on(text: str, sentence: str) -> None:
    native = streaming()
    assert sentence in refused(native, text)
    assert native.state is State.STREAMING
    assert native.receive(b"ab") == Audio(pcm=b"ab")


@given(st.text(max_size=200) | st.binary(max_size=50).map(lambda b: b.decode("latin-1")))
def test_any_text_is_an_event_or_a_refusal_that_can_be_said(text: str) -> None:
    event = streaming().receive(text)
    if isinstance(event, Malformed):
        write(Error(code=event.refusal.code, message=str(event.refusal))).encode()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)
FIELDS = ["type", "interim", "endpoint_max_ms", "words", "text", "segment", "start", "end", "reason", "code", "message"]


@given(st.dictionaries(st.sampled_from(FIELDS), json_values | st.sampled_from(sorted(NAMES.values()))))
def test_any_object_is_an_event_or_a_refusal(message: dict[str, object]) -> None:
    text = json.dumps(message)
    event = streaming().receive(text)
    if isinstance(event, Malformed):
        write(Error(code=event.refusal.code, message=str(event.refusal))).encode()
    with contextlib.suppress(Refusal):
        read_server(text)


# States.


def test_audio_before_ready_and_after_close_is_refused_and_moves_nothing() -> None:
    native = Native()
    assert refused(native, b"ab") == "state=opening: expected streaming, for audio to be said"
    assert native.state is State.OPENING
    native.send(READY)
    native.receive('{"type":"close"}')
    assert refused(native, b"ab") == "state=closing: expected streaming, for audio to be said"
    assert native.receive('{"type":"keepalive"}') == KeepAlive()
    assert native.state is State.CLOSING


@pytest.mark.parametrize("state", list(State), ids=lambda state: state.value)
@pytest.mark.parametrize(("text", "event"), CLIENT_TEXTS[:4], ids=lambda value: str(value)[:24])
def test_every_client_message_in_every_state_does_what_the_table_says(state: State, text: str, event: object) -> None:
    native = Native()
    native.state = state
    got = native.receive(text)
    if type(event) in TRANSITIONS[state]:
        assert got == event
        assert native.state is TRANSITIONS[state][type(event)]
    else:
        assert isinstance(got, Malformed)
        assert got.refusal.code == "bad_state"
        assert native.state is state


@pytest.mark.parametrize("state", list(State), ids=lambda state: state.value)
@pytest.mark.parametrize("event", SERVER_EVENTS, ids=lambda event: type(event).__name__)
def test_the_server_cannot_speak_out_of_turn(state: State, event: object) -> None:
    native = Native()
    native.state = state
    if type(event) in TRANSITIONS[state]:
        native.send(event)  # type: ignore[arg-type]
        assert native.state is TRANSITIONS[state][type(event)]
    else:
        with pytest.raises(AssertionError, match=f"state={state.value}"):
            native.send(event)  # type: ignore[arg-type]
        assert native.state is state
