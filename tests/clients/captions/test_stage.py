"""The stage: what is new stays in sight, who reads back is left in peace. The test plays the daemon's part."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from playwright.async_api import Page, WebSocketRoute

from tests.clients.captions.conftest import Opener
from tests.clients.captions.page import paragraphs, said
from tests.streamer.house import House

pytestmark = pytest.mark.asyncio(loop_scope="session")

TEXT = "it was a bright cold day and all the clocks were striking as the people went along the street"


class Played:
    """A page whose daemon says what the test wants."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self._route: asyncio.Future[WebSocketRoute] = asyncio.get_running_loop().create_future()

    async def start(self) -> None:
        await self.page.route_web_socket("**/v1/stream*", self._open)
        await self.page.click("#start")
        await self._route

    def _open(self, route: WebSocketRoute) -> None:
        route.on_message(lambda _: None)
        route.send(json.dumps({"type": "ready", "session_id": "a", "model": "m", "latency_ms": 80}))
        self._route.set_result(route)

    def say(self, *messages: dict[str, Any]) -> None:
        for message in messages:
            self._route.result().send(json.dumps(message))


async def test_words_from_outside_are_text_and_never_markup(home: House, opened: Opener) -> None:
    played = Played(await opened(home.http))
    await played.start()
    played.say(said("final", 0, "<img/src=x> <b>bold</b>"))
    await played.page.wait_for_selector(".segment.settled")
    assert await paragraphs(played.page) == ["<img/src=x> <b>bold</b>"]
    assert await played.page.evaluate("document.querySelectorAll('#captions img, #captions b').length") == 0


@pytest.mark.parametrize("size", [50, 250])
async def test_the_newest_words_are_in_sight_at_any_size(home: House, opened: Opener, size: int) -> None:
    page = await opened(f"{home.http}/?size={size}", viewport={"width": 900, "height": 600})
    played = Played(page)
    await played.start()
    for segment in range(12):
        words = TEXT.split()
        for count in range(3, len(words), 5):
            played.say(said("partial", segment, " ".join(words[:count]), count - 1))
        played.say(said("final", segment, TEXT))
    await page.wait_for_function("() => document.querySelectorAll('.segment.settled').length === 12")
    below = "document.querySelector('.segment:last-child').getBoundingClientRect().bottom"
    await page.wait_for_function(f"() => {below} <= document.getElementById('stage').getBoundingClientRect().bottom")
    assert await page.is_hidden("#latest")


async def test_who_reads_back_is_not_moved_and_finds_the_way_to_the_newest_words(home: House, opened: Opener) -> None:
    page = await opened(home.http, reduced_motion="reduce")
    played = Played(page)
    await played.start()
    played.say(*(said("final", segment, f"number {segment} {TEXT}") for segment in range(200)))
    await page.wait_for_function("() => document.querySelectorAll('.segment.settled').length === 200")
    await page.hover("#stage")
    await page.mouse.wheel(0, -4000)
    await page.wait_for_selector("#latest:not([hidden])")
    seen = """() => {
      const at = document.getElementById('stage').getBoundingClientRect();
      window.watched ??= [...document.querySelectorAll('.segment')].find((p) => p.getBoundingClientRect().top > at.top);
      return [watched.textContent, Math.round(watched.getBoundingClientRect().top)];
    }"""
    before = await page.evaluate(seen)
    played.say(*(said("final", segment, f"number {segment} {TEXT}") for segment in range(200, 210)))
    await page.wait_for_function("() => document.getElementById('captions').textContent.includes('number 209')")
    assert await page.evaluate("document.querySelectorAll('.segment').length") == 200, "the oldest give way"
    await page.evaluate("() => new Promise(requestAnimationFrame)")
    assert await page.evaluate(seen) == before
    await page.click("#latest")
    await page.wait_for_selector("#latest", state="hidden")
    last = await page.evaluate("document.querySelector('.segment:last-child').getBoundingClientRect().bottom")
    assert last <= await page.evaluate("document.getElementById('stage').getBoundingClientRect().bottom")
