"""A progress bar for a person at a terminal, nothing anywhere else. Knows nothing of what is in progress."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from streamer.commands import is_terminal


class Tick(Protocol):
    """One more is done."""

    def __call__(self) -> None: ...


@contextmanager
def progress(what: str, total: int | None, whole_lines: bool = False) -> Iterator[Tick]:
    """Draws on stderr; a single item, or no terminal, draws nothing.

    On one terminal rich writes the results above the bar, wrapped at its width. Lines that must stay whole (JSON) get
    no bar there: they show the progress themselves.
    """
    results = sys.stdout.isatty()
    if not is_terminal() or total == 1 or (results and whole_lines):
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    # Results go on to a file or a pipe as they are.
    with Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=results) as bar:
        task = bar.add_task(what, total=total)
        yield lambda: bar.advance(task)
