"""Rooms in the browser: one speaks, many read along, on the viewer's page and in the overlay."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.async_api import Page, WebSocketRoute

from tests.clients.captions.conftest import Opener
from tests.clients.captions.page import download, paragraphs, play, start, status, words
from tests.streamer.house import House, until

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
        assert [e for e in json.loads(await download(viewer, "json"))["entries"] if e["type"] == "segment"] == own
        assert "away" in (await paragraphs(viewer))[-1]


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
        assert "Somebody else is speaking in this room" in await page.inner_text("#notice")


async def test_who_comes_too_late_for_the_oldest_captions_is_told_how_many(home: House, opened: Opener) -> None:
    page = await opened(home.http)

    def room(route: WebSocketRoute) -> None:
        route.send(json.dumps({"type": "room", "room": "long", "live": True, "left_out": 31}))
        route.send(
            json.dumps({"type": "live", "session_id": "a", "model": "m", "latency_ms": 80, "away_seconds": None})
        )

    await page.route_web_socket("**/v1/watch/*", room)
    await page.goto(f"{home.http}/watch/long")
    await status(page, "live")
    assert await page.inner_text("#left-out") == "31 earlier captions are not shown."


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
    asked = await opened(f"{home.http}/overlay")
    assert await asked.is_visible("#start")
    await asked.click("#start")
    await words(asked, least=1)
