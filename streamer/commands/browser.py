"""A page in the user's browser, where somebody can see it. Knows nothing of what the page shows."""

from __future__ import annotations

import os
import sys
import webbrowser


def show(url: str) -> str:
    """Try to open it; what came of that, in words. Never raises: a page that stays closed is no reason to stop."""
    if not sys.stdout.isatty():
        return "not opened: this is no terminal"
    if not _display():
        return "not opened: there is no display here"
    try:
        browser = webbrowser.get()
        if type(browser) is webbrowser.GenericBrowser:  # lynx and the like would take our terminal, and wait
            return "not opened: there is only a browser for terminals"
        return "opened in your browser" if browser.open(url) else "not opened: the browser would not"
    except (webbrowser.Error, OSError):
        return "not opened: there is no browser"


def _display() -> bool:
    if sys.platform in ("darwin", "win32"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
