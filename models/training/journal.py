"""What a run says while it learns: lines, a bar for a person at a terminal, numbers for TensorBoard.

Knows nothing of what the numbers mean.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any


class Journal:
    """The first process writes; the others say nothing."""

    def __init__(self, folder: Path, tensorboard: bool = False, silent: bool = False) -> None:
        self._silent = silent
        self._events = _events(folder) if tensorboard and not silent else None
        self._bar: Any = None  # drawn from the first progress on

    def line(self, text: str) -> None:
        """One line with the time of day, above the bar where there is one."""
        if not self._silent:
            print(time.strftime("%H:%M:%S"), text, flush=True)

    def progress(self, share: float, text: str) -> None:
        """How much of the run is done, 0 to 1, and what it is at."""
        if self._bar is None and sys.stdout.isatty() and not self._silent:
            self._bar = _bar()
        if self._bar:
            self._bar.update(self._bar.task_ids[0], completed=share, description=text)

    def numbers(self, step: int, numbers: Mapping[str, float]) -> None:
        """Values after so many updates, by name."""
        if self._events:
            for name, value in numbers.items():
                self._events.add_scalar(name, value, step)

    def close(self) -> None:
        if self._bar:
            self._bar.stop()
        if self._events:
            self._events.close()


def _events(folder: Path) -> Any:
    if find_spec("tensorboard") is None:
        raise ValueError("settings.tensorboard: got true, expected false: the package tensorboard is not installed")
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(folder)


def _bar() -> Any:
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    bar = Progress(*columns)
    bar.add_task("", total=1.0)
    bar.start()
    return bar
