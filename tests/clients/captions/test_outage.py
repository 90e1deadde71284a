"""Connections that are lost and come back: what was settled stays, what was not heard is marked, the clock goes on."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.async_api import Page

from streamer.backends.fake import FakeBackend
from tests.clients.captions.cable import cable
from tests.clients.captions.conftest import Opener
from tests.clients.captions.page import download, escape, overheard, paragraphs, play, start, status, stop, words
from tests.streamer.house import House, house, until

pytestmark = pytest.mark.asyncio(loop_scope="session")

LOST = re.compile(r"\d+\.\d s not heard")


async def time_passes(page: Page) -> None:
    """Wait until the page's clock has gone on."""
    before = await page.inner_text("#clock")
    await page.wait_for_function(f"() => document.getElementById('clock').textContent !== '{before}'")


async def gap(page: Page) -> dict[str, float]:
    """The one gap of the transcript."""
    (found,) = [entry for entry in json.loads(await download(page, "json"))["entries"] if entry["type"] == "gap"]
    await escape(page)
    return found


async def test_losing_and_regaining_the_connection_loses_no_settled_word_and_marks_the_outage(
    home: House, opened: Opener
) -> None:
    async with cable(home.port) as network:
        page = await opened(network.http)
        await start(page)
        before = await words(page, least=3)
        network.cut()
        await page.wait_for_selector(".gap:not(.lasting)")
        await status(page, "listening")
        after = await words(page, least=len(before) + 3)
        await stop(page)
        assert after[: len(before)] == before
        lines = await paragraphs(page)
        (at,) = [i for i, line in enumerate(lines) if LOST.fullmatch(line)]
        assert lines[at - 1].endswith(" cut off")
        lost = await gap(page)
        entries = json.loads(await download(page, "json"))["entries"]
        assert lines[at] == f"{lost['end'] - lost['start']:.1f} s not heard"
        assert [entry["cut"] for entry in entries if entry["type"] == "segment"][at - 1] is True
        times = [entry["start"] for entry in entries]
        assert times == sorted(times)
        assert all(word["start"] >= lost["end"] for entry in entries[at + 1 :] for word in entry["words"])


async def test_a_connection_that_is_dead_though_nobody_closed_it_is_noticed(home: House, opened: Opener) -> None:
    page = await opened(home.http)
    await start(page)
    before = await words(page, least=2)
    await page.context.set_offline(True)
    await status(page, "reconnecting")
    assert "Trying again" in await page.inner_text("#notice-text")
    assert re.fullmatch(r"in [1-3] s|now", await page.inner_text("#countdown"))
    await page.wait_for_selector(".gap.lasting")
    await time_passes(page)
    await page.context.set_offline(False)
    await status(page, "listening")
    assert await page.is_hidden("#notice")
    await words(page, least=len(before) + 2)
    assert (await words(page))[: len(before)] == before
    assert (await gap(page))["end"] > (await gap(page))["start"]


async def test_a_network_that_dies_without_a_word_is_noticed_while_somebody_speaks(home: House, opened: Opener) -> None:
    async with cable(home.port) as network:
        page = await opened(network.http)
        await start(page)
        before = await words(page, least=2)
        network.freeze()
        await status(page, "reconnecting")
        network.thaw()
        await page.wait_for_selector(".gap:not(.lasting)")
        await words(page, least=len(before) + 2)
        assert (await gap(page))["end"] - (await gap(page))["start"] > 1


async def test_a_server_that_restarts_says_its_last_words_and_is_found_again(opened: Opener) -> None:
    async with house() as home:
        port = home.port
        page = await opened(home.http)
        await start(page)
        await words(page, least=3)
    await status(page, "reconnecting")
    before = await paragraphs(page)
    assert not before[-2].endswith("cut off"), "the daemon made it final before it went"
    async with house(f"server.port={port}"):
        await status(page, "listening")
        await words(page, least=len(" ".join(before[:-1]).split()) + 2)
        assert (await paragraphs(page))[: len(before) - 1] == before[:-1]
        await stop(page)


async def test_stopping_during_an_outage_ends_it_and_keeps_what_was_heard(home: House, opened: Opener) -> None:
    page = await opened(home.http)
    await start(page)
    before = await words(page, least=2)
    await page.context.set_offline(True)
    await status(page, "reconnecting")
    await time_passes(page)
    await stop(page)
    assert (await words(page))[: len(before)] == before
    assert LOST.fullmatch((await paragraphs(page))[-1])


async def test_a_file_waits_for_the_connection_and_nothing_of_it_is_lost(
    home: House, opened: Opener, spelled: Callable[[str], Path]
) -> None:
    async with cable(home.port) as network:
        page = await opened(network.http)
        async with overheard(page) as told:
            await play(page, spelled("one two three four five six seven eight nine ten"))
            await words(page, least=2)
            network.cut()
            await status(page, "reconnecting")
            await status(page, "idle")
        assert len({message["session_id"] for message in told if message["type"] == "ready"}) == 2
        first, *rest = json.loads(await download(page, "json"))["entries"]
        assert [entry["type"] for entry in rest] == ["segment"] * len(rest), "no gap"
        (heard,) = [message["audio_seconds"] for message in told if message["type"] == "closed"]
        assert heard == pytest.approx(48 * 0.08 - 0.0675 - first["end"], abs=0.05)


async def test_a_full_server_is_tried_again_until_it_has_room(opened: Opener) -> None:
    async with house(backend=FakeBackend(2)) as home:
        async with home.client() as first:
            await until(first, "ready")
            page = await opened(home.http)
            await page.click("#start")
            await status(page, "reconnecting")
            assert await page.inner_text("#notice-text") == "The server is full. Trying again…"
            await page.wait_for_function("() => document.querySelector('#clock').textContent !== '0:00'")
            await page.click("#retry")
        await status(page, "listening")
        assert await page.is_hidden("#retry")
        await words(page, least=1)
        assert LOST.fullmatch((await paragraphs(page))[0])
