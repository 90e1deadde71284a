"""Captions on a terminal: the partial in place, finals above it with their times. Knows nothing of connections.

Where nobody watches (a pipe, TERM=dumb) only finals are written, one line each. NO_COLOR is respected by rich.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

from streamer.commands import say
from streamer.protocols.events import Error, Final, Partial

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.live import Live
    from rich.text import Text

    from streamer.protocols.events import ServerEvent

WIDE, NARROW = 60, 30  # columns; below the first the end of a line's time is left out, below the second its time

Footer = Callable[[int, bool], "Text"]  # columns, whether only ASCII can be shown -> one line


class Captions:
    """Shows events; a context manager, so that the terminal is left as it was. `in_place=False` rewrites nothing.

    `title` says in errors whose captions these are; `footer` is asked for the line below the partial again and again.
    """

    def __init__(self, in_place: bool = True, title: str = "", footer: Footer | None = None) -> None:
        self._in_place = in_place
        self._title = f"{title}: " if title else ""
        self._view = _View(footer)
        self._live: Live | None = None

    def __enter__(self) -> Self:
        if self._in_place and sys.stdout.isatty() and os.environ.get("TERM") != "dumb":
            from rich.console import Console
            from rich.live import Live

            console = Console(highlight=False)
            self._live = Live(self._view, console=console, transient=True, auto_refresh=False)
            self._live.start(refresh=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Leave the terminal as it was; what is shown later is written plainly."""
        live, self._live = self._live, None
        if live is not None:
            live.stop()

    def show(self, event: ServerEvent) -> None:
        """One event, if it is something to see."""
        match event:
            case Partial():
                self._view.partial = event
                self.refresh()
            case Final(words=(_, *_)):
                self.line(event.start, event.end, event.text)
            case Error():
                say(f"streamer: {self._title}{event.message} ({event.code})")
            case _:
                pass

    def refresh(self) -> None:
        """Draw anew what is rewritten: the footer says something else by now, or the terminal has another size."""
        if self._live is None:
            return
        if wrapped := self._view.wrapped(self._live.console.width):
            from rich.control import Control
            from rich.segment import ControlType

            up = ((ControlType.CURSOR_UP, 1), (ControlType.ERASE_IN_LINE, 2))
            self._live.console.control(Control(ControlType.CARRIAGE_RETURN, (ControlType.ERASE_IN_LINE, 2)))
            self._live.console.control(Control(*up * wrapped))
        self._live.refresh()

    def line(self, start_s: float, end_s: float, text: str) -> None:
        """What was said from here to there, for good; the partial that stood for it goes."""
        self._view.partial = None
        if self._live is None:
            print(f"{_times(start_s, end_s)}{text}", flush=True)
            return
        from rich.text import Text

        self.refresh()  # a size that has changed is seen to before anything is written above
        console = self._live.console
        lines = _hung(Text(text), _lead(start_s, end_s, console.width), console, console.width)
        console.print(Text("\n").join(lines))


class _View:
    """The lines that are rewritten: as many of the partial's last ones as there is room for, then the footer."""

    def __init__(self, footer: Footer | None) -> None:
        self.partial: Partial | None = None
        self._footer = footer
        self._drawn: list[int] = []  # columns of each line as it stands on the terminal

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width, partial, lines = options.max_width, self.partial, []
        if partial is not None:
            room = max(1, console.height - 1 - (self._footer is not None))
            lines = _hung(_styled(partial), " " * len(_lead(0, 0, width)), console, width)[-room:]
        if self._footer is not None:
            lines.append(self._footer(width, options.ascii_only))
        self._drawn = [line.cell_len for line in lines]
        yield from lines

    def wrapped(self, width: int) -> int:
        """How many lines more the terminal made of what was drawn, if it has only so many columns now."""
        return sum(max(0, columns - 1) // width for columns in self._drawn)


def _times(start_s: float, end_s: float) -> str:
    return f"{start_s:7.2f} - {end_s:6.2f}  "


def _lead(start_s: float, end_s: float, width: int) -> str:
    if width >= WIDE:
        return _times(start_s, end_s)
    return f"{start_s:7.2f}  " if width >= NARROW else ""


def _hung(text: Text, lead: str, console: Console, width: int) -> list[Text]:
    """Lines of the text: the first one behind its lead, the others below its beginning."""
    from rich.text import Text

    lines = text.wrap(console, width - len(lead))
    for line in lines:
        line.rstrip()
    return [Text(" " * len(lead) if at else lead) + line for at, line in enumerate(lines)]


def _styled(partial: Partial) -> Text:
    """Stable words as they are, the rest dimmed: it may still change."""
    from rich.text import Text

    stable = " ".join(word.word for word in partial.words[: partial.stable_words])
    rest = " ".join(word.word for word in partial.words[partial.stable_words :])
    return Text.assemble(stable, " " if stable else "", (rest, "dim"))
