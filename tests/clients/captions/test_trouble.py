"""What goes wrong is said in plain words: the key, the microphone, files that are no sound, servers that are away."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.async_api import Route

from tests.clients.captions.conftest import Opener
from tests.clients.captions.page import escape, play, start, status, words
from tests.streamer.house import House, house

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_a_wrong_key_is_said_and_the_right_one_helps(opened: Opener) -> None:
    async with house("server.key=sesame") as home:
        page = await opened(f"{home.http}/#key=wrong")
        await page.click("#start")
        await status(page, "trouble")
        assert "key is missing or wrong" in await page.inner_text("#notice-text")
        await page.click("#open-settings")
        await page.fill("#key", "sesame")
        await page.press("#key", "Tab")
        await escape(page)
        await start(page)


async def test_a_key_in_the_address_works_and_is_not_left_there(opened: Opener) -> None:
    async with house("server.key=sesame") as home:
        page = await opened(f"{home.http}/?size=120#key=sesame")
        assert page.url == f"{home.http}/?size=120"
        await start(page)
        kept = await page.evaluate("[Object.values(sessionStorage), Object.values(localStorage), document.cookie]")
        assert kept == [["sesame"], [], ""]


async def test_who_has_no_key_is_asked_for_it(opened: Opener) -> None:
    async with house("server.key=sesame") as home:
        page = await opened(home.http)
        await page.wait_for_function("() => !document.getElementById('key-section').hidden")
        await page.click("#start")
        assert await page.evaluate("document.activeElement.id") == "key"
        await page.keyboard.type("sesame")
        await page.keyboard.press("Enter")
        await status(page, "listening")
        viewer = await opened(f"{home.http}/watch/stage")
        await viewer.wait_for_function("() => document.activeElement.id === 'key'")
        await viewer.fill("#key", "sesame")
        await viewer.press("#key", "Tab")
        await status(viewer, "waiting")


async def test_a_public_room_asks_viewers_for_no_key(opened: Opener) -> None:
    async with house("server.key=sesame", "rooms.public=true") as home:
        await status(await opened(f"{home.http}/watch/stage"), "waiting")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("NotFoundError", "No microphone was found"),
        ("NotAllowedError", "The microphone is blocked"),
        ("NotReadableError", "in use by another program"),
    ],
)
async def test_without_a_microphone_the_page_says_why(home: House, opened: Opener, name: str, said: str) -> None:
    page = await opened(home.http)
    refuse = f"async () => {{ throw new DOMException('', '{name}'); }}"
    await page.evaluate(f"() => {{ navigator.mediaDevices.getUserMedia = {refuse}; }}")
    await page.click("#start")
    await status(page, "trouble")
    assert said in await page.inner_text("#notice-text")
    assert await page.inner_text("#start") == "Start"


async def test_a_microphone_that_is_unplugged_ends_the_captions_with_their_last_words(
    home: House, opened: Opener
) -> None:
    page = await opened(home.http)
    await page.evaluate(
        """() => {
          const open = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
          navigator.mediaDevices.getUserMedia = async (wanted) => (window.track = await open(wanted));
        }"""
    )
    await start(page)
    await words(page, least=2)
    await page.evaluate("track.getTracks()[0].dispatchEvent(new Event('ended'))")
    await status(page, "trouble")
    assert await page.inner_text("#notice-text") == "The microphone was disconnected."
    assert await page.evaluate("document.querySelectorAll('.tentative, .cut').length") == 0


async def test_a_file_that_is_no_sound_is_refused_and_the_page_goes_on(
    home: House, opened: Opener, tmp_path: Path
) -> None:
    page = await opened(home.http)
    (tmp_path / "letter.wav").write_text("Dear all,", "utf-8")
    await play(page, tmp_path / "letter.wav")
    await status(page, "trouble")
    assert "could not be read as sound" in await page.inner_text("#notice-text")
    await page.check("[value=microphone]", force=True)
    await start(page)


async def test_a_server_that_is_away_is_said_to_be(opened: Opener) -> None:
    async with house() as home:
        page = await opened(home.http)
    await page.click("#start")
    await status(page, "trouble")
    assert await page.inner_text("#notice-text") == "The server cannot be reached."
    async with house(f"server.port={home.port}"):
        await start(page)
        assert await page.is_hidden("#notice")


@pytest.mark.parametrize("query", ["start=1&room=theirs", "start=1"])
async def test_a_link_from_elsewhere_starts_no_microphone_before_a_click(
    home: House, opened: Opener, query: str
) -> None:
    page = await opened(home.http)
    await page.route(
        "http://elsewhere.test/",
        lambda route: route.fulfill(content_type="text/html", body=f"<a href='{home.http}/?{query}'>captions</a>"),
    )
    await page.goto("http://elsewhere.test/")
    await page.click("a")
    await page.wait_for_function("() => !document.getElementById('notice')?.hidden")
    assert "Press Start if you want that" in await page.inner_text("#notice-text")
    assert await page.get_attribute("#status", "data-name") == "idle"
    await page.keyboard.press("Enter")
    await status(page, "listening")


async def test_a_bookmark_that_publishes_nothing_starts_the_microphone(home: House, opened: Opener) -> None:
    await status(await opened(f"{home.http}/?start=1"), "listening")


async def test_what_the_server_offers_is_asked_for_again(home: House, opened: Opener) -> None:
    page = await opened(home.http)
    tries = 0

    async def fail_once(route: Route) -> None:
        nonlocal tries
        tries += 1
        await (route.abort() if tries == 1 else route.continue_())

    await page.route("**/v1/info", fail_once)
    await page.reload()
    await page.wait_for_selector("#latency-field:not([hidden])")
    assert tries == 2
