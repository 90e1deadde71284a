"""Everybody can use it: axe's rules in every view and colour, small screens, the keyboard alone, the address."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from axe_playwright_python.base import AXE_FILE_PATH
from playwright.async_api import Page

from tests.clients.captions.conftest import Opener
from tests.clients.captions.page import escape, play, query, status, words
from tests.streamer.house import House, wire

pytestmark = pytest.mark.asyncio(loop_scope="session")

LOOKS = [(theme, contrast) for theme in ("light", "dark") for contrast in ("normal", "high")]
STORY = "one two three" + " " * 7 + "four five"


async def violations(page: Page) -> list[str]:
    """What axe finds: rule and element."""
    await page.evaluate(Path(AXE_FILE_PATH).read_text("utf-8") + ";undefined")
    found = await page.evaluate("axe.run()")
    nodes = [(rule["id"], node) for rule in found["violations"] for node in rule["nodes"]]
    return [f"{rule}: {node['html'][:100]}: {node['failureSummary']}" for rule, node in nodes]


async def violations_in_any_look(page: Page) -> list[str]:
    """What axe finds in light and dark, in normal and high contrast."""
    found = []
    for theme, contrast in LOOKS:
        look = {"theme": theme, "contrast": contrast}
        await page.evaluate("(look) => Object.assign(document.documentElement.dataset, look)", look)
        found += [f"{theme}, {contrast}: {one}" for one in await violations(page)]
    return found


async def test_axe_finds_nothing_wrong_on_the_speakers_page(
    home: House, opened: Opener, spelled: Callable[[str], Path]
) -> None:
    page = await opened(f"{home.http}/?pace=fast&confidence=1&room=axe", reduced_motion="reduce")
    assert await violations_in_any_look(page) == [], "before a word was said"
    await play(page, spelled(STORY))
    await status(page, "idle")
    assert await violations_in_any_look(page) == [], "with captions"
    for panel in ("transcript", "settings", "keys"):
        await page.click(f"#open-{panel}")
        assert await violations_in_any_look(page) == [], panel
        await escape(page)
    await page.evaluate("() => { navigator.mediaDevices.getUserMedia = async () => { throw new Error(); }; }")
    await page.check("[value=microphone]", force=True)
    await page.click("#start")
    await status(page, "trouble")
    assert await violations_in_any_look(page) == [], "without a microphone"


async def test_axe_finds_nothing_wrong_for_viewers(home: House, opened: Opener) -> None:
    async with home.client("room=axe-viewers") as speaker:
        await speaker.send(wire("one two three four "))
        page = await opened(f"{home.http}/watch/axe-viewers?times=1", reduced_motion="reduce")
        await words(page, least=2)
        assert await violations_in_any_look(page) == []


@pytest.mark.parametrize(("theme", "behind"), [("dark", "#e0e0e0"), ("light", "#404040")])
async def test_axe_finds_nothing_wrong_with_the_overlay(home: House, opened: Opener, theme: str, behind: str) -> None:
    async with home.client(f"room=axe-{theme}") as speaker:
        await speaker.send(wire("one two three four "))
        for contrast in ("normal", "high"):
            look = f"theme={theme}&contrast={contrast}"
            page = await opened(f"{home.http}/overlay?room=axe-{theme}&{look}", reduced_motion="reduce")
            await words(page, least=2)
            await page.evaluate("(colour) => { document.body.style.background = colour; }", behind)  # a picture
            assert await violations(page) == []


async def test_all_of_it_can_be_reached_at_360_pixels(
    home: House, opened: Opener, spelled: Callable[[str], Path]
) -> None:
    small = {"viewport": {"width": 360, "height": 640}, "has_touch": True, "is_mobile": True}
    long = "a-room-with-a-rather-long-name-that-goes-on"
    page = await opened(f"{home.http}/?pace=fast&room={long}", reduced_motion="reduce", **small)
    outside = """() => [...document.querySelectorAll('button, select, input, a, h1, h2, output')]
      .filter((e) => e.checkVisibility() && e.closest('.unseen, .panel:not([open])') === null)
      .map((e) => [e.id || e.textContent, e.getBoundingClientRect()])
      .filter(([, at]) => at.left < 0 || at.right > innerWidth).map(([name]) => name)"""
    await play(page, spelled(STORY + " abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyz"))
    await status(page, "idle")
    for panel in ("transcript", "settings", "keys", None):
        if panel is not None:
            await page.click(f"#open-{panel}")
        assert await page.evaluate(outside) == []
        assert await page.evaluate("document.documentElement.scrollWidth") == 360
        await escape(page)
    assert await page.evaluate("document.getElementById('stage').scrollWidth") <= 360
    assert await page.evaluate("document.getElementById('start').getBoundingClientRect().bottom") <= 640
    assert await page.evaluate("document.getElementById('start').getBoundingClientRect().height") >= 44


async def test_the_keyboard_is_enough(home: House, opened: Opener) -> None:
    page = await opened(home.http)
    await page.focus("[value=microphone]")
    await page.keyboard.press("s")
    await words(page, least=2)
    await page.keyboard.press("s")
    await status(page, "idle")
    for key in "+", "+", "-", "d", "h", "c", "w":
        await page.keyboard.press(key)
    await query(page, "theme=dark&contrast=high&size=110&confidence=1&times=1")
    await page.keyboard.press("t")
    assert await page.evaluate("document.getElementById('transcript').open")
    await page.keyboard.press("s")
    assert await page.get_attribute("#status", "data-name") == "idle", "a panel is open"
    await escape(page)
    await page.keyboard.press("o")
    await page.focus("#room")
    await page.keyboard.type("show")
    await escape(page)
    await page.wait_for_function("() => location.search.includes('room=show')")
    assert await page.get_attribute("#status", "data-name") == "idle", "what is typed is no shortcut"
    await page.focus("#stage")
    for _ in range(2):
        await page.keyboard.press("ArrowLeft")
    last = (await words(page))[-2]
    assert (await page.inner_text("#tip")).startswith(f"{last} 0:")
    assert "% sure" in await page.inner_text("#tip")


async def nameless(page: Page) -> list[str]:
    """Controls that a screen reader has no name for."""
    session = await page.context.new_cdp_session(page)
    nodes = (await session.send("Accessibility.getFullAXTree"))["nodes"]
    controls = {"button", "checkbox", "combobox", "link", "radio", "slider", "textbox"}
    seen = [node for node in nodes if not node["ignored"] and node["role"]["value"] in controls]
    assert seen
    return [str(node) for node in seen if node["name"]["value"].strip() == ""]


async def test_every_control_has_a_visible_focus_and_a_name(home: House, opened: Opener) -> None:
    page = await opened(f"{home.http}/?room=names")
    assert await nameless(page) == []
    assert await page.get_by_role("slider", name="Latency", exact=True).count() == 1
    await page.click("#open-settings")
    assert await nameless(page) == []
    assert await page.get_by_role("slider", name="Text size", exact=True).count() == 1
    await escape(page)
    stops = []
    for _ in range(12):
        await page.keyboard.press("Tab")
        stops.append(
            await page.evaluate(
                """() => {
                  const on = document.activeElement, shown = on.matches('#sources input') ? on.nextSibling : on;
                  const ring = getComputedStyle(shown).outlineStyle !== 'none' || on.id === 'stage';
                  return [on.id || on.value || on.tagName, ring];
                }"""
            )
        )
    names = [name for name, _ in stops]
    expected = ("stage", "start", "microphone", "device", "latency", "open-transcript", "open-settings", "full")
    assert set(expected) <= set(names)
    assert all(ring for name, ring in stops if name != "BODY")


async def test_single_keys_can_be_turned_off_and_the_help_brings_them_back(home: House, opened: Opener) -> None:
    page = await opened(f"{home.http}/?keys=0")
    await page.keyboard.press("d")
    assert await page.evaluate("location.search") == "?keys=0"
    await page.keyboard.press("?")
    await page.check("#keys input")
    await escape(page)
    await page.keyboard.press("d")
    await query(page, "theme=dark")


async def test_the_address_brings_everything_back(home: House, opened: Opener) -> None:
    query = "source=tab&pace=fast&latency=160&theme=dark&contrast=high&size=150&confidence=1"
    page = await opened(f"{home.http}/?{query}")
    await page.wait_for_function("() => !document.getElementById('latency-field').hidden")
    assert await page.inner_text("#latency-text") == "160 ms"
    assert await page.is_checked("[value=tab]")
    assert await page.evaluate("({...document.documentElement.dataset})") == {"theme": "dark", "contrast": "high"}
    assert page.url == f"{home.http}/?{query}"
    await page.focus("#latency")
    await page.keyboard.press("Home")
    assert "latency" not in await page.evaluate("location.search"), "80 ms is this server's own"


async def test_nothing_moves_for_who_wants_no_motion(home: House, opened: Opener) -> None:
    for motion, moving in (("reduce", 0), ("no-preference", 1)):
        page = await opened(home.http, reduced_motion=motion)
        await page.click("#start")
        await status(page, "listening")
        assert await page.evaluate("document.querySelector('#status .dot').getAnimations().length") == moving
