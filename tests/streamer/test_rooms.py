"""Rooms without sockets: who may speak, what viewers and late joiners are told, what is forgotten and when."""

from __future__ import annotations

import json
from typing import Any

import pytest

from streamer import rooms
from streamer.actions import Hangup
from streamer.config import RoomOptions
from streamer.errors import Refusal
from streamer.protocols.events import Closed, Error, Final, Partial, Ready, Word
from streamer.rooms import Rooms, Speech, Viewer

HIGH = 256
LATENCY_MS = 560


def ready(session_id: str = "s1") -> Ready:
    return Ready(session_id=session_id, model="m", latency_ms=LATENCY_MS, sample_rate=16000)


def word(text: str) -> Word:
    return Word(word=text, start=0.0, end=0.5, confidence=0.9)


def partial(text: str, segment: int = 0, channel: int = 0) -> Partial:
    return Partial(channel=channel, segment=segment, start=0.0, text=text, words=(word(text),), stable_words=0)


def final(text: str, segment: int = 0, channel: int = 0) -> Final:
    words = (word(text),) if text else ()
    return Final(channel=channel, segment=segment, start=0.0, end=0.5, text=text, words=words, reason="endpoint")


def house(high: int = HIGH, **options: Any) -> Rooms:
    return Rooms(RoomOptions(**options), high)


def speaking(own: Rooms, name: str = "demo", session_id: str = "s1", now: float = 0.0) -> Speech:
    """A stream that is ready in this room."""
    speech = own.speak(name, session_id)
    speech.say(ready(session_id), now)
    return speech


async def told(viewer: Viewer) -> list[dict[str, Any]]:
    """All that waits for a viewer, in its order; a hang-up as its code."""
    said = [json.loads(message) for message in viewer.greeting]
    viewer.greeting = ()
    while len(viewer.outbox):
        letter = await viewer.outbox.get()
        if isinstance(letter.event, Hangup):
            said.append({"type": "hangup", "code": letter.event.code})
        else:
            assert letter.text is not None
            said.append(json.loads(letter.text))
    return said


def brief(said: list[dict[str, Any]]) -> list[str]:
    """Types, with the text where there is one."""
    return [" ".join(filter(None, (message["type"], message.get("text")))) for message in said]


async def test_a_viewer_who_was_there_first_is_told_everything_in_order() -> None:
    own = house()
    viewer = own.watch("demo")
    assert await told(viewer) == [{"type": "room", "room": "demo", "live": False}]
    speech = speaking(own)
    (live,) = await told(viewer)
    assert live == {
        "type": "live",
        "session_id": "s1",
        "model": "m",
        "latency_ms": LATENCY_MS,
        "away_seconds": None,
        "at_seconds": 0.0,
    }
    speech.say(partial("one"), 1.0)
    assert brief(await told(viewer)) == ["partial one"]
    speech.say(final("one"), 2.0)
    speech.say(Closed(audio_seconds=2.5), 3.0)
    assert brief(await told(viewer)) == ["final one", "away"]


async def test_what_a_viewer_is_told_is_what_the_speaker_is_told() -> None:
    own = house()
    viewer = own.watch("demo")
    speech = speaking(own)
    await told(viewer)
    speech.say(partial("one", 3, 1), 1.0)
    speech.say(final("one", 3, 1), 1.0)
    words = [{"word": "one", "start": 0.0, "end": 0.5, "confidence": 0.9}]
    assert await told(viewer) == [
        {"type": "partial", "channel": 1, "segment": 3, "start": 0.0, "text": "one", "words": words, "stable_words": 0},
        {
            "type": "final", "channel": 1, "segment": 3, "start": 0.0, "end": 0.5, "text": "one", "words": words,
            "reason": "endpoint",
        },
    ]  # fmt: skip


async def test_a_late_joiner_gets_the_settled_text_and_what_each_channel_is_saying() -> None:
    own = house()
    speech = speaking(own)
    for event in (
        partial("one"),
        final("one"),
        partial("left", 1, 0),
        partial("right", 0, 1),
        final("two", 0, 2),
        partial("left2", 1, 0),
    ):
        speech.say(event, 1.0)
    late = await told(own.watch("demo"))
    assert late[0] == {"type": "room", "room": "demo", "live": True}
    assert brief(late[1:]) == ["live", "final one", "final two", "partial left2", "partial right"]
    speech.say(final("left3", 1, 0), 2.0)
    speech.say(final("right2", 0, 1), 2.0)
    assert brief(await told(own.watch("demo"))) == [
        "room", "live", "final one", "final two", "final left3", "final right2",
    ]  # fmt: skip


async def test_a_final_without_words_is_told_only_where_it_takes_back_a_partial_and_is_not_kept() -> None:
    own = house(high=4)
    viewer = own.watch("demo")
    speech = speaking(own)
    for number in range(1000):  # answers to finalizes sent in one go
        speech.say(final("", number), 1.0)
    speech.say(partial("he", 1000), 1.0)
    speech.say(final("", 1000, channel=1), 1.0)
    assert brief(await told(viewer)) == ["room", "live", "partial he"]
    speech.say(final("", 1000), 2.0)
    assert brief(await told(viewer)) == ["final"]
    assert brief(await told(own.watch("demo"))) == ["room", "live"]


async def test_an_error_is_the_speakers_own() -> None:
    own = house()
    speech = speaking(own)
    viewer = own.watch("demo")
    speech.say(Error(code="bad_message", message="x=1: expected 2"), 1.0)
    assert brief(await told(viewer)) == ["room", "live"]


async def test_the_next_stream_tells_how_long_the_speaker_was_away() -> None:
    own = house()
    viewer = own.watch("demo")
    first = speaking(own, now=10.0)
    first.heard(10.5)
    first.say(final("before"), 11.0)
    first.heard(11.5)
    first.say(partial("cut", 1), 12.0)
    first.end(1.5, 12.5)
    second = speaking(own, session_id="s2", now=16.75)
    second.say(final("after"), 17.0)
    said = await told(viewer)
    assert brief(said) == ["room", "live", "final before", "partial cut", "away", "live", "final after"]
    assert said[-3] == {"type": "away", "session_id": "s1", "audio_seconds": 1.5}
    assert (said[-2]["session_id"], said[-2]["away_seconds"], said[-2]["at_seconds"]) == ("s2", 5.25, 6.75)
    assert brief(await told(own.watch("demo"))) == ["room", "live", "final before", "away", "live", "final after"]


async def test_the_rooms_clock_is_the_same_for_who_came_late_whatever_is_forgotten() -> None:
    own = house()
    early = own.watch("demo")
    for session_id, began, word in (("s1", 0.0, "one"), ("s2", 3.0, None), ("s3", 6.0, "three")):
        speech = speaking(own, session_id=session_id, now=began)
        speech.heard(began + 1.0)
        if word:
            speech.say(final(word), began + 1.5)
        speech.end(1.0, began + 2.0)
    speaking(own, session_id="s4", now=10.0)
    begun = [message for message in await told(early) if message["type"] == "live"]
    assert [(live["away_seconds"], live["at_seconds"]) for live in begun] == [(None, 0), (2, 3), (2, 6), (3, 10)]
    late = [message["at_seconds"] for message in await told(own.watch("demo")) if message["type"] == "live"]
    assert late == [0, 6, 10]


async def test_a_stream_in_which_nothing_was_said_is_no_history_of_the_next() -> None:
    own = house()
    for number in range(1000):
        speaking(own, session_id=f"s{number}", now=float(number)).end(0.0, number + 0.5)
    assert brief(await told(own.watch("demo"))) == ["room", "live", "away"]
    speaking(own, session_id="last", now=1000.0)
    said = await told(own.watch("demo"))
    assert brief(said) == ["room", "live"]
    assert (said[1]["session_id"], said[1]["away_seconds"]) == ("last", 1.0)


# Who speaks.


@pytest.mark.parametrize("other", ["demo", "Demo", "DEMO"])
def test_one_speaker_at_a_time_and_names_that_differ_in_case_are_one_room(other: str) -> None:
    own = house()
    first = speaking(own)
    with pytest.raises(Refusal, match=f"room={other}: expected one without a speaker") as refused:
        own.speak(other, "s2")
    assert refused.value.code == "room_taken"
    assert own.speaker(other) == "s1"
    first.end(1.0, 1.0)
    assert own.speaker(other) is None
    speaking(own, other, "s2")
    assert own.speaker("demo") == "s2"


async def test_a_viewer_sees_the_name_as_it_wrote_it() -> None:
    own = house()
    speaking(own, "Main-Stage")
    (entered, _) = await told(own.watch("MAIN-stage"))
    assert entered == {"type": "room", "room": "MAIN-stage", "live": True}


async def test_a_stream_that_has_ended_cannot_speak_into_the_room_of_the_next() -> None:
    own = house()
    first = speaking(own)
    first.say(Closed(audio_seconds=1.0), 1.0)
    speaking(own, session_id="s2", now=2.0)
    viewer = own.watch("demo")
    for late in (partial("ghost"), final("ghost"), Closed(audio_seconds=9.0)):
        first.say(late, 3.0)
    first.end(9.0, 3.0)
    assert brief(await told(viewer)) == ["room", "live"]
    assert own.speaker("demo") == "s2"


async def test_a_stream_that_never_was_ready_leaves_no_trace() -> None:
    own = house()
    own.speak("demo", "s1").end(0.0, 0.0)
    own.tick(0.1)
    assert (len(own), own.opened) == (0, 0)
    speaking(own, session_id="s2", now=1.0).end(1.0, 2.0)
    viewer = own.watch("demo")
    await told(viewer)
    own.speak("demo", "s3").end(0.0, 3.0)
    assert await told(viewer) == []
    speaking(own, session_id="s4", now=5.0)
    (live,) = await told(viewer)
    assert live["away_seconds"] == 4.0, "since it began: no audio came"


@pytest.mark.parametrize("name", ["", "a b", "a/b", "café", "a" * 65, "a\n", "..", "\u017f"])
def test_a_wrong_name_is_refused_in_a_sentence(name: str) -> None:
    own = house()
    for enter in (own.watch, lambda name: own.speak(name, "s1")):
        with pytest.raises(Refusal, match="expected 1 to 64 of A-Z a-z 0-9 _ -") as refused:
            enter(name)
        assert refused.value.code == "bad_request"
    assert len(own) == 0


# What is bounded.


def test_no_more_rooms_than_the_options_say_and_those_that_are_away_count() -> None:
    own = house(most=2, linger_s=10.0)
    speaking(own, "a").end(1.0, 0.0)
    speaking(own, "b", "s2")
    own.watch("waiting")  # nobody has spoken there: it takes no speaker's place
    with pytest.raises(Refusal, match="rooms=2: expected at most 2 at once") as refused:
        own.speak("c", "s3")
    assert refused.value.code == "at_capacity"
    speaking(own, "a", "s4", now=1.0).end(1.0, 2.0)
    own.tick(12.0)
    speaking(own, "c", "s3", now=12.0)
    assert own.opened == 2


def test_no_more_viewers_than_the_options_say() -> None:
    own = house(most_viewers=2)
    first, _ = own.watch("a"), own.watch("b")
    with pytest.raises(Refusal, match="viewers=2: expected at most 2 at once") as refused:
        own.watch("c")
    assert refused.value.code == "at_capacity"
    own.leave(first)
    own.watch("c")
    assert own.viewers == 2


async def test_the_latest_finals_are_kept_and_those_left_out_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rooms, "MOST_FINALS", 3)
    own = house()
    first = speaking(own)
    for number in range(4):
        first.say(final(f"a{number}", number), 1.0)
    first.end(1.0, 2.0)
    assert brief(await told(own.watch("demo"))) == ["room", "live", "final a1", "final a2", "final a3", "away"]
    second = speaking(own, session_id="s2", now=3.0)
    for number in range(2):
        second.say(final(f"b{number}", number), 4.0)
    said = await told(own.watch("demo"))
    assert brief(said) == ["room", "live", "final a3", "away", "live", "final b0", "final b1"]
    assert said[0] == {"type": "room", "room": "demo", "live": True, "left_out": 3}
    for number in range(2, 9):
        second.say(final(f"b{number}", number), 4.0)
    assert brief(await told(own.watch("demo"))) == ["room", "live", "final b6", "final b7", "final b8"]


async def test_the_history_is_bounded_in_characters_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rooms, "MOST_CHARACTERS", 5000)
    own = house()
    speech = speaking(own)
    for number in range(20):
        speech.say(final("x" * 400, number), 1.0)
    viewer = own.watch("demo")
    assert sum(map(len, viewer.greeting)) < 5000 + 300
    said = await told(viewer)
    assert said[0]["left_out"] == 20 - (len(said) - 2) > 0
    speech.say(final("y" * 6000, 20), 1.0)
    said = await told(own.watch("demo"))
    assert (brief(said), said[0]["left_out"]) == (["room", "live"], 21)


async def test_a_room_is_closed_when_its_speaker_does_not_come_back() -> None:
    own = house(linger_s=5.0)
    viewer = own.watch("demo")
    speaking(own, now=0.0).end(1.25, 10.0)
    own.tick(14.9)
    speaking(own, session_id="s2", now=14.9).end(2.5, 20.0)
    own.tick(24.9)
    assert brief(await told(viewer)) == ["room", "live", "away", "live", "away"]
    own.tick(25.0)
    assert await told(viewer) == [{"type": "closed", "audio_seconds": 3.75}, {"type": "hangup", "code": 1000}]
    assert (len(own), own.viewers) == (0, 1)
    assert await told(own.watch("demo")) == [{"type": "room", "room": "demo", "live": False}]
    own.leave(viewer)
    assert (len(own), own.viewers) == (1, 1)


def test_a_speaker_who_speaks_on_keeps_the_room_for_ever() -> None:
    own = house(linger_s=0.0)
    speech = speaking(own)
    own.tick(1e6)
    assert own.speaker("demo") == "s1"
    speech.end(1.0, 1e6)
    own.tick(1e6)
    assert len(own) == 0


def test_ten_thousand_viewers_coming_and_going_leave_nothing_behind() -> None:
    own = house(most_viewers=500)
    speech = speaking(own)
    for round_ in range(20):
        viewers = [own.watch(f"room{number % 7}" if number % 2 else "demo") for number in range(500)]
        speech.say(final("all", round_), float(round_))
        for viewer in viewers:
            own.leave(viewer)
        assert (own.viewers, len(own)) == (0, 1)
    speech.end(1.0, 20.0)
    own.tick(1000.0)
    assert (len(own), own.opened) == (0, 0)


# Slow viewers.


async def test_a_viewer_that_reads_nothing_is_let_go_and_nobody_else_notices() -> None:
    own = house(high=4)
    slow, quick = own.watch("demo"), own.watch("demo")
    speech = speaking(own)
    seen = brief(await told(quick))
    for number in range(100):
        speech.say(partial(f"p{number}", number), 1.0)
        speech.say(final(f"f{number}", number), 1.0)
        seen += brief(await told(quick))
    assert [text for text in seen if text.startswith("final")] == [f"final f{number}" for number in range(100)]
    assert slow.outbox.given_up
    assert not quick.outbox.given_up
    assert len(slow.outbox) == 5
    assert brief(await told(slow))[-1] == "hangup"


async def test_unread_partials_give_way_to_newer_ones() -> None:
    own = house(high=4)
    viewer = own.watch("demo")
    speech = speaking(own)
    for number in range(1000):
        speech.say(partial(f"p{number}"), 1.0)
        speech.say(partial(f"q{number}", 0, 1), 1.0)
    assert brief(await told(viewer)) == ["room", "live", "partial p999", "partial q999"]
    assert not viewer.outbox.given_up
