"""What a person does on the captions page, and what they see there."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from playwright.async_api import Page, WebSocket

Message = dict[str, Any]


def said(kind: str, segment: int, text: str, stable: int = 0) -> Message:
    """A partial or final of these words."""
    words = [
        {"word": word, "start": 10.0 * segment + 0.3 * i, "end": 10.0 * segment + 0.3 * i + 0.2, "confidence": 0.9}
        for i, word in enumerate(text.split())
    ]
    return {
        "type": kind,
        "segment": segment,
        "start": 10.0 * segment,
        "text": text,
        "words": words,
        "stable_words": stable,
    }


async def frame(page: Page) -> None:
    """Wait until what the page knows is written on it."""
    await page.evaluate("() => new Promise(requestAnimationFrame)")


async def status(page: Page, name: str) -> None:
    """Wait until the page says that this is its state, and shows what belongs to it."""
    await page.wait_for_function(f"() => document.getElementById('status').dataset.name === '{name}'")
    await frame(page)


async def start(page: Page) -> None:
    """Press Start, and wait until the daemon listens."""
    await page.click("#start")
    await status(page, "listening")


async def stop(page: Page) -> None:
    """Press Stop, and wait for the last words."""
    await page.click("#start")
    await status(page, "idle")


async def query(page: Page, text: str) -> None:
    """Wait until this is what follows the question mark in the page's address."""
    await page.wait_for_function(f"() => location.search === '{text and '?' + text}'")


async def escape(page: Page) -> None:
    """Close the panel that is open."""
    await page.keyboard.press("Escape")
    await page.wait_for_function("() => document.querySelector('dialog[open]') === null")


async def play(page: Page, path: Path) -> None:
    """Give the page a sound file, which starts it."""
    await page.set_input_files("#file", path)


async def clock(page: Page, seconds: float) -> None:
    """Wait until the page has taken so much sound."""
    await page.wait_for_function(
        """(seconds) => document.getElementById('clock').textContent.split(':')
          .reduce((sum, part) => 60 * sum + parseInt(part), 0) >= seconds""",
        arg=seconds,
        timeout=60_000,
    )


async def words(page: Page, least: int = 1) -> list[str]:
    """The words that do not change any more, once there are so many."""
    settled = "document.querySelectorAll('.word:not(.tentative)')"
    await page.wait_for_function(f"() => {settled}.length >= {least}", timeout=60_000)
    found: list[str] = await page.evaluate(f"[...{settled}].map((word) => word.textContent)")
    return found


async def paragraphs(page: Page) -> list[str]:
    """What is written on the stage, line by line: segments and gaps."""
    await frame(page)
    lines = "[...document.getElementById('captions').children].map((line) => line.textContent)"
    found: list[str] = await page.evaluate(lines)
    return found


async def download(page: Page, ending: str) -> str:
    """The text of a file that the transcript's panel gives out."""
    if not await page.evaluate("document.getElementById('transcript').open"):
        await page.click("#open-transcript")
    async with page.expect_download() as info:
        await page.click(f"[aria-label='Download {ending.upper()}']")
    return Path(await (await info.value).path()).read_text("utf-8")


@asynccontextmanager
async def overheard(page: Page) -> AsyncIterator[list[Message]]:
    """All that daemons say to this page's streams, as they say it."""
    said: list[Message] = []

    def listen(socket: WebSocket) -> None:
        socket.on("framereceived", lambda payload: said.append(json.loads(payload)))

    page.on("websocket", listen)
    yield said
    page.remove_listener("websocket", listen)


@asynccontextmanager
async def tapped(page: Page) -> AsyncIterator[tuple[list[str], bytearray]]:
    """The addresses of this page's streams, and all sound that it sends to them."""
    addresses: list[str] = []
    sound = bytearray()

    def listen(socket: WebSocket) -> None:
        addresses.append(socket.url)
        socket.on("framesent", lambda payload: sound.extend(payload) if isinstance(payload, bytes) else None)

    page.on("websocket", listen)
    yield addresses, sound
    page.remove_listener("websocket", listen)
