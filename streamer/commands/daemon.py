"""A daemon of our own as a child process, for the demo and for benchmarks. Knows nothing of what is said to it.

It ends with us, whatever ends us: our context's end and SIGTERM stop it as an operator would; where we are killed
outright, Linux signals it.
"""

from __future__ import annotations

import ctypes
import http
import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType, TracebackType
from typing import NoReturn, Self

from streamer.commands import CommandError

START_S = 120.0  # a first start measures the machine; a large model takes its time to load
STOP_S = 30.0
# Before the caller's options: what the user's environment says of a daemon for others is not for ours.
PRIVATE = ("server.host=127.0.0.1", "server.key=", "server.tls_cert=", "server.tls_key=")
_LAST_LINES = 5
_ENDS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
_PR_SET_PDEATHSIG = 1  # prctl(2)


class Daemon:
    """Runs `streamer serve` on a free port while the context lasts; stops it as an operator would, with SIGTERM."""

    def __init__(self, *options: str) -> None:
        self.port = _free_port()
        self.url = f"ws://127.0.0.1:{self.port}"
        self._options = (*PRIVATE, f"server.port={self.port}", *options)

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._log = stack.enter_context(tempfile.TemporaryFile("w+"))
            stack.enter_context(_unwound())
            # -P: the folder we were started in is not ours to import from.
            command = [sys.executable, "-P", "-m", "streamer", "serve", *self._options]
            self._process = subprocess.Popen(
                command, stdout=self._log, stderr=self._log, preexec_fn=signalled_with_parent()
            )
            stack.callback(self._stop)
            self._wait_until_ready()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stack:
            code = self._stop()
            if code and kind is None:
                raise CommandError(f"the daemon ended with code {code}: {self._tail()}")

    @property
    def pid(self) -> int:
        return self._process.pid

    def _stop(self) -> int:
        """The exit code; a second call only repeats it."""
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def _wait_until_ready(self) -> None:
        deadline = time.perf_counter() + START_S
        while time.perf_counter() < deadline:
            if (code := self._process.poll()) is not None:
                raise CommandError(f"the daemon did not start (code {code}): {self._tail()}")
            if (reason := why_not_ready(self.port)) is None:
                return
            time.sleep(0.05)
        raise CommandError(f"the daemon was not ready after {START_S:.0f} s ({reason}): {self._tail()}")

    def _tail(self) -> str:
        self._log.seek(0)
        return " | ".join(self._log.read().splitlines()[-_LAST_LINES:]) or "it said nothing"


def why_not_ready(port: int) -> str | None:
    """What the daemon on this port says it lacks; None when it takes streams. No proxy is asked, unlike by urllib."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        said = answer.read().decode("utf-8", "replace").strip()
    except (OSError, http.client.HTTPException):
        return "it does not answer"
    finally:
        connection.close()
    return None if answer.status == http.HTTPStatus.OK else said or f"it answers {answer.status}"


@contextmanager
def _unwound() -> Iterator[None]:
    """While it lasts, signals that would end us at once let us leave our contexts first."""
    if threading.current_thread() is not threading.main_thread():  # only there Python hears of signals
        yield
        return
    before = {kind: signal.getsignal(kind) for kind in _ENDS}
    heeded = [kind for kind in _ENDS if before[kind] is not signal.SIG_IGN]  # nohup's wish holds
    for kind in heeded:
        signal.signal(kind, _leave)
    try:
        yield
    finally:
        for kind in heeded:
            signal.signal(kind, before[kind] or signal.SIG_DFL)


def _leave(kind: int, _: FrameType | None) -> NoReturn:
    raise SystemExit(128 + kind)


def signalled_with_parent() -> Callable[[], None] | None:
    """What the child does first: it asks Linux for SIGTERM when we die, which SIGKILL gives us no time to send."""
    if not sys.platform.startswith("linux"):
        return None
    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # we died before it asked
            os._exit(1)

    return ask


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
