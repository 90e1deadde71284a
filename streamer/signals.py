"""How the process is told to stop. Knows nothing of what stops."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable

ECHO_S = 0.5  # process managers signal a process and its group: that is one signal, not two


class Signals(contextlib.AbstractContextManager[None]):
    """SIGTERM and SIGINT stop the daemon; a second one ends the process at once."""

    KINDS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self, loop: asyncio.AbstractEventLoop, stop: Callable[[], None]) -> None:
        self._loop, self._stop = loop, stop
        self._first: float | None = None

    def __enter__(self) -> None:
        for kind in self.KINDS:
            with contextlib.suppress(ValueError, NotImplementedError, RuntimeError):  # not the main thread
                self._loop.add_signal_handler(kind, self._signalled, kind)

    def __exit__(self, *_: object) -> None:
        for kind in self.KINDS:
            with contextlib.suppress(ValueError, NotImplementedError, RuntimeError):
                self._loop.remove_signal_handler(kind)

    def _signalled(self, kind: signal.Signals) -> None:
        now = time.monotonic()
        if self._first is None:
            self._first = now
            self._stop()
        elif now - self._first > ECHO_S:
            os._exit(128 + kind)
