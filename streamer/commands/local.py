"""The daemon inside this process, for one stream of our own. Knows nothing of what is said to it.

Same engine, same sessions, same words as `streamer serve`; the port is a free one on loopback, its key is made up anew,
so that nobody else comes in.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from streamer.backends import load_backend
from streamer.commands import CommandError
from streamer.config import Config, load
from streamer.server import Daemon

SLOTS = 2  # one stream, and the spare one that a finalize takes
START_S, STOP_S = 120.0, 10.0
OPTIONS = (
    "server.host=127.0.0.1",
    "server.port=0",
    "server.shutdown_s=2",  # whoever leaves early does not wait for words
    f"engine.slots={SLOTS}",
    "session.max_session_s=604800",
    "engine.max_load=100",  # nobody else is there whom a slow machine would disturb
)


class LocalDaemon:
    """Listens while the context lasts, in a thread with an event loop of its own."""

    def __init__(self, backend: str, model: Path, threads: int) -> None:
        self.key = secrets.token_urlsafe(24)
        self.url = ""
        self._config = load(env={}, overrides=[*OPTIONS, f"server.key={self.key}"])
        self._backend = load_backend(backend, str(model), SLOTS, threads)
        self._started = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="daemon", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._started.wait(START_S):
            raise CommandError(f"the model was not ready after {START_S:.0f} s")
        if self._failure is not None:
            raise self._failure
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(RuntimeError):  # it has ended by itself
            self._loop.call_soon_threadsafe(self._daemon.stop)
        self._thread.join(STOP_S)

    def check(self) -> None:
        """Raises CommandError when it has ended, which it does when the model cannot go on."""
        if not self._thread.is_alive():
            raise CommandError("the model in this process has ended, expected it to hear on")

    def _run(self) -> None:
        try:
            asyncio.run(self._serve(self._config))
        except BaseException as failure:
            self._failure = failure
        finally:
            self._started.set()

    async def _serve(self, config: Config) -> None:
        self._loop = asyncio.get_running_loop()
        self._daemon = Daemon(config, self._backend)
        await self._daemon.start()
        self.url = f"ws://127.0.0.1:{self._daemon.port}"
        self._started.set()
        await self._daemon.run()
