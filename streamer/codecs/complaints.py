"""What FFmpeg writes into its log as an error, kept from the terminal and read as a sentence. Knows no container."""

from __future__ import annotations

import av.logging


class Complaints:
    """Around calls into PyAV on one thread, never across a `yield`; the first complaint since `clear` is `first`."""

    def __init__(self) -> None:
        self._capture = av.logging.Capture()
        self._logs: list[tuple[int, str, str]] = []

    def __enter__(self) -> None:
        av.logging.set_level(av.logging.ERROR)
        av.logging.set_skip_repeated(False)
        self._capture = av.logging.Capture()
        self._logs = self._capture.__enter__()

    def __exit__(self, *error: object) -> None:
        self._capture.__exit__(None, None, None)

    def first(self, name: str) -> str | None:
        """What the part of FFmpeg with this name said first, inside the last `with`."""
        return next((text.split(" at PTS")[0].strip() for _, said_by, text in self._logs if said_by == name), None)
