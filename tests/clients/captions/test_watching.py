"""Rooms in the browser: one speaks, many read along, on the viewer's page and in the overlay."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.async_api import Page, WebSocketRoute

from tests.clients.captions.cable import cable
from tests.clients.captions.conftest import Opener
from tests.clients.captions.page import Message, download, paragraphs, play, said, start, status, stop, words
from tests.streamer.house import House, house, until

pytestmark = pytest.mark.asyncio(loop_scope="session")

STORY = "one two three" + " " * 7 + "four five" + " " * 7 + "six"
LINES = ["one two three", "four five", "six"]
PAUSES = "endpoint.silence_ms=400"


async def read(page: Page, lines: list[str]) -> None:
    """Wait until exactly these lines are settled on the page."""
    settled = "[...document.querySelectorAll('.segment.settled')].map((line) => line.textContent)"
    await page.wait_for_function(f"() => JSON.stringify({settled}) === '{json.dumps(lines, separators=(',', ':'))}'")


async def test_two_viewers_see_the_speakers_words_and_one_who_comes_late_too(
    home: House, opened: Opener, room: str, spelled: Callable[[str], Path]
) -> None:
    viewers = [await opened(f"{home.http}/watch/{room}") for _ in range(2)]
    await status(viewers[0], "waiting")
    speaker = await opened(f"{home.http}/?room={room}")
    await play(speaker, spelled(STORY))
    await status(viewers[0], "live")
    for viewer in viewers:
        await read(viewer, LINES)
    await status(speaker, "idle")
    late = await opened(f"{home.http}/watch/{room}")
    await read(late, LINES)
    await status(late, "away")
    own = json.loads(await download(speaker, "json"))["entries"]
    for viewer in [*viewers, late]:
        assert json.loads(await download(viewer, "json"))["entries"] == own


async def test_a_viewer_sees_partial_words_while_they_are_spoken(home: House, opened: Opener, room: str) -> None:
    viewer, speaker = await opened(f"{home.http}/watch/{room}"), await opened(f"{home.http}/?room={room}")
    await start(speaker)
    await viewer.wait_for_selector(".word.tentative")


async def test_a_viewer_who_loses_the_connection_is_told_nothing_twice(
    home: House, opened: Opener, room: str, spelled: Callable[[str], Path]
) -> None:
    viewer, speaker = await opened(f"{home.http}/watch/{room}"), await opened(f"{home.http}/?room={room}")
    await play(speaker, spelled(STORY))
    await words(viewer, least=1)
    await viewer.context.set_offline(True)
    await status(viewer, "reconnecting")
    await status(speaker, "idle")
    await viewer.context.set_offline(False)
    await status(viewer, "away")
    await read(viewer, LINES)


async def test_a_speaker_who_comes_back_goes_on_in_the_same_room(
    home: House, opened: Opener, room: str, spelled: Callable[[str], Path]
) -> None:
    viewer, speaker = await opened(f"{home.http}/watch/{room}"), await opened(f"{home.http}/?room={room}&pace=fast")
    for _ in range(2):
        await play(speaker, spelled("one two"))
        await status(speaker, "idle")
    await read(viewer, ["one two", "one two"])
    entries = json.loads(await download(viewer, "json"))["entries"]
    assert [entry["type"] for entry in entries if entry["type"] == "segment"] == ["segment", "segment"]
    starts = [entry["start"] for entry in entries]
    assert starts == sorted(starts)


async def test_a_room_in_which_somebody_speaks_is_refused_in_plain_words(
    home: House, opened: Opener, room: str
) -> None:
    async with home.client(f"room={room}") as other:
        await until(other, "ready")
        page = await opened(f"{home.http}/?room={room}")
        await page.click("#start")
        await status(page, "trouble")
        assert "Somebody else is speaking in this room" in await page.inner_text("#notice-text")


def live(session: str, at: float, away: float | None) -> Message:
    """A stream begins in a room."""
    stream = {"session_id": session, "model": "m", "latency_ms": 80}
    return {"type": "live", **stream, "at_seconds": at, "away_seconds": away}


async def told(page: Page, *messages: Message) -> Callable[[Message], None]:
    """The test plays the daemon: a viewer who comes is told this; the value tells it more."""
    routes: list[WebSocketRoute] = []

    def greet(route: WebSocketRoute) -> None:
        routes.append(route)
        for message in messages:
            route.send(json.dumps(message))

    await page.route_web_socket("**/v1/watch/*", greet)
    return lambda message: routes[-1].send(json.dumps(message))


@pytest.mark.parametrize("view", ["watch/cut", "overlay?room=cut"])
async def test_viewers_see_what_was_cut_off_and_for_how_long_nothing_was_heard(
    home: House, opened: Opener, view: str
) -> None:
    page = await opened(home.http)
    room = {"type": "room", "room": "cut", "live": True}
    tell = await told(page, room, live("a", 0.0, None), said("final", 0, "one two"), said("partial", 1, "three fo", 1))
    await page.goto(f"{home.http}/{view}")
    await words(page, least=3)
    tell({"type": "away", "session_id": "a", "audio_seconds": 12.5})
    await page.wait_for_selector(".cut")
    assert await paragraphs(page) == ["one two", "three fo cut off"]
    tell(live("b", 32.3, 19.8))
    tell(said("final", 0, "five"))
    await words(page, least=5)
    assert await paragraphs(page) == ["one two", "three fo cut off", "19.8 s not heard", "five"]
    if view == "watch/cut":
        entries = json.loads(await download(page, "json"))["entries"]
        assert [(entry["type"], entry["start"]) for entry in entries[2:]] == [("gap", 12.5), ("segment", 32.3)]
        assert entries[1]["cut"] is True


async def test_a_viewers_clock_is_the_speakers_after_an_outage(home: House, opened: Opener, room: str) -> None:
    async with cable(home.port) as network:
        viewer, speaker = await opened(f"{home.http}/watch/{room}"), await opened(f"{network.http}/?room={room}")
        await start(speaker)
        await words(viewer, least=3)
        network.cut()
        await viewer.wait_for_selector(".gap")
        await speaker.wait_for_selector(".gap:not(.lasting)")
        await stop(speaker)
        await status(viewer, "away")
    own, seen = [json.loads(await download(page, "json"))["entries"] for page in (speaker, viewer)]
    assert [entry["type"] for entry in own] == [entry["type"] for entry in seen]
    offsets = [there["end"] - here["end"] for here, there in zip(own, seen, strict=True)]
    assert offsets == pytest.approx([offsets[0]] * len(offsets), abs=1.0), "the wire takes time, no more"


async def test_who_comes_too_late_for_the_oldest_captions_is_told_how_many(home: House, opened: Opener) -> None:
    page = await opened(home.http)
    await told(page, {"type": "room", "room": "long", "live": True, "left_out": 31}, live("a", 0.0, None))
    await page.goto(f"{home.http}/watch/long")
    await status(page, "live")
    assert await page.inner_text("#left-out") == "31 earlier captions are not shown."


async def test_of_a_long_history_the_latest_is_on_the_stage_and_all_of_it_in_the_transcript(
    home: House, opened: Opener
) -> None:
    page = await opened(home.http)
    history = [said("final", segment, f"number {segment}") for segment in range(600)]
    await told(page, {"type": "room", "room": "long", "live": True}, live("a", 0.0, None), *history)
    await page.goto(f"{home.http}/watch/long")
    await page.wait_for_function("() => document.getElementById('captions').textContent.includes('number 599')")
    lines = await paragraphs(page)
    assert lines == [f"number {segment}" for segment in range(400, 600)]
    await page.click("#open-transcript")
    await page.wait_for_function("() => document.querySelectorAll('#transcript li').length === 600")


async def test_the_settings_give_out_the_rooms_links(home: House, opened: Opener) -> None:
    page = await opened(home.http)
    await page.click("#open-settings")
    await page.fill("#room", "Main stage")
    await page.press("#room", "Tab")
    links = await page.evaluate("[...document.querySelectorAll('.links a')].map((link) => link.href)")
    assert links == [f"{home.http}/watch/Main-stage", f"{home.http}/overlay?room=Main-stage"]
    assert page.url == f"{home.http}/?room=Main-stage"
    await page.fill("#room", "no/such?room")
    await page.press("#room", "Tab")
    assert await page.get_attribute("#room", "aria-invalid") == "true"
    assert page.url == f"{home.http}/?room=Main-stage"


async def test_the_overlay_shows_a_rooms_last_two_lines_over_whatever_lies_behind(
    home: House, opened: Opener, room: str, spelled: Callable[[str], Path]
) -> None:
    overlay = await opened(f"{home.http}/overlay?room={room}", viewport={"width": 1280, "height": 360})
    speaker = await opened(f"{home.http}/?room={room}")
    await play(speaker, spelled(STORY))
    await read(overlay, LINES)
    for element in ("html", "body"):
        colour = await overlay.evaluate(f"getComputedStyle(document.querySelector('{element}')).backgroundColor")
        assert colour == "rgba(0, 0, 0, 0)"
    seen = await overlay.evaluate(
        """() => {
          const box = document.getElementById('lines').getBoundingClientRect();
          const inside = (at) => at.top >= box.top - 1 && at.bottom <= box.bottom + 1;
          return [...document.querySelectorAll('.segment')].filter((line) => inside(line.getBoundingClientRect()))
            .map((line) => line.textContent);
        }"""
    )
    assert seen == LINES[-2:]


async def test_the_overlay_starts_its_own_microphone_where_it_is_told_to(home: House, opened: Opener) -> None:
    overlay = await opened(f"{home.http}/overlay?start=1")
    await words(overlay, least=2)
    assert await overlay.is_hidden("#start")
    repaired = await opened(f"{home.http}/overlay?start=1&latency=77&language=xx")
    await words(repaired, least=1)
    assert repaired.url == f"{home.http}/overlay?start=1"
    asked = await opened(f"{home.http}/overlay")
    assert await asked.is_visible("#start")
    await asked.click("#start")
    await words(asked, least=1)


async def test_an_overlay_of_a_room_that_cannot_be_says_so(home: House, opened: Opener) -> None:
    overlay = await opened(f"{home.http}/overlay?room=no/such&start=1")
    assert "letters, digits, - and _ only" in await overlay.inner_text("#status")
    assert await overlay.is_hidden("#start")


async def test_an_overlay_without_the_key_says_where_it_goes_and_takes_it_there(opened: Opener) -> None:
    async with house("server.key=sesame") as home:
        overlay = await opened(f"{home.http}/overlay?room=stage")
        await overlay.wait_for_function("() => document.getElementById('status').textContent.includes('#key=')")
        async with overlay.expect_event("websocket"):
            await overlay.goto(f"{home.http}/overlay?room=stage#key=sesame")
        await overlay.wait_for_function("() => document.getElementById('status').hidden")
        speaker = await opened(f"{home.http}/?room=stage#key=sesame")
        await speaker.click("#open-settings")
        hint = await speaker.inner_text("#room-hint")
        assert "Only this computer can open these links" in hint
        assert "add #key=… to its link" in hint
