"""A daemon of our own as a child process, for the demo and for benchmarks. Knows nothing of what is said to it."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from streamer.commands import CommandError

START_S = 120.0  # a first start measures the machine; a large model takes its time to load
STOP_S = 30.0
_LAST_LINES = 5


class Daemon:
    """Runs `streamer serve` on a free port while the context lasts; stops it as an operator would, with SIGTERM."""

    def __init__(self, *options: str) -> None:
        self.port = _free_port()
        self.url = f"ws://127.0.0.1:{self.port}"
        self._options = options
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._log = self._stack.enter_context(tempfile.TemporaryFile("w+"))
        command = [sys.executable, "-m", "streamer", "serve", f"server.port={self.port}", *self._options]
        self._process = subprocess.Popen(command, stdout=self._log, stderr=self._log)
        try:
            self._wait_until_ready()
        except BaseException:
            self._process.kill()
            self._process.wait()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            code = self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        with self._stack:
            if code and kind is None:
                raise CommandError(f"the daemon ended with code {code}: {self._tail()}")

    @property
    def pid(self) -> int:
        return self._process.pid

    def _wait_until_ready(self) -> None:
        deadline = time.perf_counter() + START_S
        while time.perf_counter() < deadline:
            if (code := self._process.poll()) is not None:
                raise CommandError(f"the daemon did not start (code {code}): {self._tail()}")
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=1):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.05)
        raise CommandError(f"the daemon was not ready after {START_S:.0f} s: {self._tail()}")

    def _tail(self) -> str:
        self._log.seek(0)
        return " | ".join(self._log.read().splitlines()[-_LAST_LINES:]) or "it said nothing"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
