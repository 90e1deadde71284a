"""Whatever happens to a session in whatever order: it never breaks, and it ends with a final, closed and a hangup."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
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
)
from tests.streamer.life import SETTINGS, Life, audio

WRONG = Malformed(refusal=Refusal("type", "x", "y", code="bad_message"))
Step = tuple[
    str, Any
]  # ("audio", voices), ("bytes", data), ("say", event), ("run", steps), ("wait", seconds), ("end", how)

configure = st.builds(
    Configure,
    interim=st.none() | st.booleans(),
    endpointing=st.none() | st.booleans(),
    endpoint_silence_ms=st.none() | st.integers(80, 2000),
    endpoint_max_ms=st.none() | st.integers(1000, 5000),
)
events = st.one_of(st.just(Finalize()), st.just(Finalize()), st.just(KeepAlive()), st.just(WRONG), configure)
voices = st.lists(st.integers(0, 6), max_size=12).map(lambda voices: [v for v in voices for _ in "ab"])
audio_steps = st.tuples(st.just("audio"), voices)
steps: st.SearchStrategy[Step] = st.one_of(
    audio_steps,
    audio_steps,
    st.tuples(st.just("bytes"), st.binary(max_size=20)),
    st.tuples(st.just("say"), events),
    st.tuples(st.just("run"), st.integers(1, 4)),
    st.tuples(st.just("wait"), st.floats(0, 3)),
)
endings = st.tuples(st.just("end"), st.sampled_from(["close", "shutdown", "failed", "idle"]))


def take(life: Life, step: Step) -> None:
    """One thing happens to the session."""
    match step:
        case "audio", list(spoken):
            life.receive(audio(spoken), run=False)
        case "bytes", bytes(data):
            life.receive(Audio(pcm=data), run=False)
        case "say", event:
            life.receive(event, run=False)
        case "run", int(count):
            life.run(count)
        case "wait", float(seconds):
            life.wait(seconds)
        case "end", "close":
            life.receive(Close(), run=False)
        case "end", "shutdown":
            life.do(life.session.shutdown(life.now))
        case "end", "failed":
            life.do(life.session.failed("internal", "step: got a fault, expected tokens", life.now))
        case _:
            life.wait(61.0)


openings = st.builds(
    Opening,
    sample_rate=st.sampled_from([8000, 16000, 44100]),
    encoding=st.sampled_from(["pcm_f32le", "pcm_s16le", "mulaw"]),
    channels=st.integers(1, 2),
    latency_ms=st.sampled_from([80, 160, 560]),
    interim=st.booleans(),
    endpointing=st.builds(Endpointing, silence_ms=st.integers(80, 800), max_ms=st.integers(1000, 3000)),
)


@settings(deadline=None, max_examples=200)
@given(openings, st.lists(steps, max_size=25), st.lists(endings, min_size=1, max_size=3), st.integers(0, 3))
def test_any_life_ends_with_one_final_then_closed_then_the_hangup(
    opening: Opening, middle: list[Step], ends: list[Step], delay: int
) -> None:
    life = Life(opening, SETTINGS, delay=delay)
    for step in [*middle, *ends]:
        if life.hangup is None:
            take(life, step)
    life.run()
    assert life.hangup is not None
    assert life.session.done
    said = [event for event in life.seen if not isinstance(event, Error)]
    assert isinstance(said[-2], Final)
    assert [type(event) for event in life.seen[-2:]] == [Final, Closed], "an error came between the last words"
    assert life.seen[-1] == said[-1] == Closed(audio_seconds=life.session.audio_seconds)
    assert said[-2].reason == life.hangup.reason
    assert [final.segment for final in life.finals()] == list(range(len(life.finals())))
    spoken = [time for final in life.finals() for word in final.words for time in (word.start, word.end)]
    assert spoken == sorted(spoken)
    assert all(time <= round(life.session.audio_seconds, 3) for time in spoken)


@settings(deadline=None, max_examples=200)
@given(openings, st.lists(steps, max_size=25))
def test_every_finalize_is_answered_once(opening: Opening, middle: list[Step]) -> None:
    life, asked = Life(opening), 0
    for step in middle:
        asked += step == ("say", Finalize()) and not life.session.done
        if life.hangup is None:
            take(life, step)
    if not life.session.ending:
        life.receive(Close(), run=False)
    life.run()
    assert sum(final.reason == "finalize" for final in life.finals()) == asked
