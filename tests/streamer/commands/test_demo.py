"""Claims about `streamer demo`: its words are on a page, too, and whether a browser opens is no reason to fail."""

from __future__ import annotations

import asyncio
import os
import re
import sys
import webbrowser
from pathlib import Path

import aiohttp
import pytest

from streamer.commands import browser
from tests.conftest import ROOT

CLIP = str(ROOT / "tests" / "golden" / "clips" / "speech.wav")
PAGE = "http://127.0.0.1:9000/watch/demo"


class Browser(webbrowser.BaseBrowser):
    """One that remembers what it was asked to open."""

    def __init__(self, works: bool | Exception) -> None:
        super().__init__("test")
        self.works, self.asked = works, [""]

    def open(self, url: str, new: int = 0, autoraise: bool = True) -> bool:  # noqa: ARG002
        self.asked.append(url)
        if isinstance(self.works, Exception):
            raise self.works
        return self.works


async def test_whoever_opens_the_page_of_the_demo_sees_the_words_that_it_prints(hybrid: Path) -> None:
    """A viewer who comes while it runs; the daemon is gone after it."""
    demo = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "streamer", "demo", "--model", str(hybrid), CLIP,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert demo.stdout is not None
    assert demo.stderr is not None
    try:
        async with asyncio.timeout(90), aiohttp.ClientSession() as http:
            line = ""
            while not line.startswith("captions"):
                line = (await demo.stderr.readline()).decode()
                assert line, "the demo ended before it named its page"
            found = re.match(
                r"captions  (http://127\.0\.0\.1:\d+)/watch/demo \(not opened: this is no terminal\)$", line
            )
            assert found is not None, line
            async with http.get(f"{found[1]}/watch/demo") as page:
                assert (page.status, page.content_type) == (200, "text/html")
            said = []
            async with http.ws_connect(f"{found[1]}/v1/watch/demo") as viewer:
                async for message in viewer:
                    said.append(message.json())
            printed = (await demo.stdout.read()).decode().splitlines()
            assert await demo.wait() == 0, (await demo.stderr.read()).decode()
        assert said[-1]["type"] == "away"
        words = [message["text"] for message in said if message["type"] == "final" and message["text"]]
        assert words == [line[18:] for line in printed]
        assert words
        with pytest.raises(OSError, match="onnect"):
            await asyncio.open_connection("127.0.0.1", int(found[1].rpartition(":")[2]))
    finally:
        if demo.returncode is None:
            demo.terminate()
            await demo.wait()


@pytest.mark.parametrize(
    ("terminal", "display", "works", "outcome"),
    [
        (True, True, True, "opened in your browser"),
        (True, True, False, "not opened: the browser would not"),
        (True, True, OSError("no such file"), "not opened: there is no browser"),
        (True, True, webbrowser.Error("none"), "not opened: there is no browser"),
        (True, False, True, "not opened: there is no display here"),
        (False, True, True, "not opened: this is no terminal"),
    ],
)
def test_a_browser_is_asked_only_where_somebody_can_see_it(
    terminal: bool, display: bool, works: bool | Exception, outcome: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Browser(works)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    monkeypatch.setattr(webbrowser, "get", lambda: own)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setenv("DISPLAY", ":0" if display else "")
    assert browser.show(PAGE) == outcome
    assert own.asked[1:] == ([PAGE] if terminal and display else [])


def test_a_browser_that_lives_in_the_terminal_is_not_let_into_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(webbrowser, "get", lambda: webbrowser.GenericBrowser("/gone/lynx"))
    assert browser.show(PAGE) == "not opened: there is only a browser for terminals"
