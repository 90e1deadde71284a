"""Captions on a terminal: the partial in place, finals above it with their times. Knows nothing of connections.

Where nobody watches (a pipe, TERM=dumb) only finals are written, one line each. NO_COLOR is respected by rich.
"""

from __future__ import annotations

import os
import sys
from types import TracebackType
from typing import TYPE_CHECKING, Self

from streamer.commands import say
from streamer.protocols.events import Error, Final, Partial

if TYPE_CHECKING:
    from rich.live import Live
    from rich.text import Text

    from streamer.protocols.events import ServerEvent


class Captions:
    """Shows events; a context manager, so that the terminal is left as it was. `in_place=False` rewrites nothing.

    `title` says in errors whose captions these are.
    """

    def __init__(self, in_place: bool = True, title: str = "") -> None:
        self._in_place = in_place
        self._title = f"{title}: " if title else ""
        self._live: Live | None = None

    def __enter__(self) -> Self:
        if self._in_place and sys.stdout.isatty() and os.environ.get("TERM") != "dumb":
            from rich.console import Console
            from rich.live import Live

            self._live = Live(console=Console(highlight=False), transient=True, refresh_per_second=12)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, event: ServerEvent) -> None:
        """One event, if it is something to see."""
        match event:
            case Partial() if self._live is not None:
                self._live.update(_styled(event))
            case Final(words=(_, *_)):
                self._line(f"{event.start:7.2f} - {event.end:6.2f}  {event.text}")
            case Error():
                say(f"streamer: {self._title}{event.message} ({event.code})")
            case _:
                pass

    def _line(self, text: str) -> None:
        if self._live is None:
            print(text, flush=True)
            return
        from rich.text import Text

        self._live.update(Text(""))
        self._live.console.print(Text(text))


def _styled(partial: Partial) -> Text:
    """Stable words as they are, the rest dimmed: it may still change."""
    from rich.text import Text

    stable = " ".join(word.word for word in partial.words[: partial.stable_words])
    rest = " ".join(word.word for word in partial.words[partial.stable_words :])
    return Text.assemble(" " * 18, stable, " " if stable else "", (rest, "dim"))
