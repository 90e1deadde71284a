"""One Chromium for all tests of the page, its microphone fed with the bundled recording, over and over."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
import soundfile
import soxr
from playwright.async_api import Browser, Page, async_playwright

from streamer.backends.fake import spell
from tests.conftest import ROOT
from tests.streamer.house import House, house

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
)
SILENCE_S = 1.0  # what plays before the page listens is lost, and the fake device stutters at its start
WAIT_MS = 20_000  # for anything that should come at once: the machine may be busy

Opener = Callable[..., Awaitable[Page]]


@pytest.fixture(scope="session")
def recording() -> np.ndarray:
    """(samples,) float32 at 16 kHz: one turn of what the fake microphone says."""
    pcm, rate = soundfile.read(ROOT / "clients" / "samples" / "shepherd.opus", dtype="float32")
    pcm = soxr.resample(pcm, rate, 16000)
    quiet = np.zeros(round(SILENCE_S * 16000), np.float32)
    return np.concatenate([quiet, pcm, quiet])


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser(recording: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Browser]:
    """Launched once; a test has a context of its own."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")
    spoken = tmp_path_factory.mktemp("microphone") / "spoken.wav"
    soundfile.write(spoken, recording, 16000, subtype="PCM_16")
    async with async_playwright() as playwright:
        flags = [*FLAGS, f"--use-file-for-fake-audio-capture={spoken}"]
        launched = await playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield launched
        await launched.close()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def home() -> AsyncIterator[House]:
    """A daemon on the toy backend, shared by a file's tests."""
    async with house("endpoint.silence_ms=400") as own:
        yield own


@pytest_asyncio.fixture(loop_scope="session")
async def opened(browser: Browser) -> AsyncIterator[Opener]:
    """`await opened(url, **options of the context)` is a page; a fault in any of them fails the test at its end."""
    contexts, faults = [], []

    async def opener(url: str, **options: Any) -> Page:
        context = await browser.new_context(**{"viewport": {"width": 1280, "height": 760}, **options})
        contexts.append(context)
        context.set_default_timeout(WAIT_MS)
        page = await context.new_page()
        page.on("pageerror", lambda error: faults.append(f"{page.url}: {error}"))
        page.on("console", lambda said: faults.append(said.text) if "Security Policy" in said.text else None)
        await page.goto(url)
        await page.wait_for_function("() => document.documentElement.dataset.theme !== undefined")
        return page

    yield opener
    for context in contexts:
        await context.close()
    assert not faults, "\n".join(faults)


@pytest.fixture
def room(request: pytest.FixtureRequest) -> str:
    """The name of a room that no other test uses."""
    name: str = request.node.name
    return name[:60].translate(str.maketrans("[]", "__"))


@pytest.fixture
def spelled(tmp_path: Path) -> Callable[[str], Path]:
    """A sound file that the toy backend hears as this text."""

    def write(text: str) -> Path:
        path = tmp_path / "spelled.wav"
        soundfile.write(path, spell(text), 16000, subtype="PCM_16")
        return path

    return write
