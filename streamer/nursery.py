"""Processes that decode: forked by a small server that has everything loaded, or started one by one without fork.

Knows how a process begins and ends, and nothing of what it says.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from typing import Protocol

from streamer.fork_server import REQUEST

START_S = 60.0  # the server's first fork waits for its imports; a busy machine takes its time
ENDED_S = 10.0  # from the end of what a process says to the word of how it ended
# What a process of ours gets of the environment: no key that lies there is given on.
KEPT = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "LANG", "LC_ALL", "TMPDIR", "SYSTEMROOT")
BOOT = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from streamer."


class Child(Protocol):
    """A process that decodes one stream."""

    pid: int
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def ended(self) -> int | None:
        """Once it says nothing more: the exit code, a signal as a negative number, None if nobody knows."""

    def kill(self) -> None:
        """End it now, and let go of what belongs to it. Idempotent."""


def can_fork() -> bool:
    """True where a fork server works: Linux. (macOS has fork, but its system libraries do not like it.)"""
    return sys.platform.startswith("linux")


async def start(container: str, *, fork: bool | None = None) -> Child:
    """A process for one stream. Raises OSError where none can be had."""
    if can_fork() if fork is None else fork:
        return await _server.start(container)
    return await Spawned.start(container)


class Forked:
    """Forked by the server; its life is a socket: what we close, the server ends."""

    def __init__(
        self,
        pid: int,
        data: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        life: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        self.pid = pid
        self.reader, self.writer = data
        self._life_reader, self._life_writer = life

    async def ended(self) -> int | None:
        with contextlib.suppress(OSError, ValueError, TimeoutError):
            async with asyncio.timeout(ENDED_S):
                return int(await self._life_reader.readline())
        return None

    def kill(self) -> None:
        for writer in (self._life_writer, self.writer):
            writer.transport.abort()


class ForkServer:
    """Started with the first stream, again if it was lost; ends with us."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    @property
    def pid(self) -> int | None:
        """The server's process id while it runs."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    async def start(self, container: str) -> Child:
        """A child of the server's."""
        control = self._running()
        try:
            return await self._start(control, container)
        except (ConnectionError, TimeoutError) as error:  # killed, or hanging; another stream may have started the next
            if self._control is control:
                self.close()
            if isinstance(error, TimeoutError):
                raise OSError(f"decoder: got no process in {START_S:g} s, expected one") from None
        try:
            return await self._start(self._running(), container)
        except ConnectionError:  # not a client's: who speaks of connections above us means those
            raise OSError("decoder: got a fork server that ends at once, expected one that forks") from None

    async def _start(self, control: socket.socket, container: str) -> Child:
        data, its_data = socket.socketpair()
        life, its_life = socket.socketpair()
        try:
            with its_data, its_life:
                socket.send_fds(control, [REQUEST.pack(container.encode())], [its_data.fileno(), its_life.fileno()])
            life_streams = await asyncio.open_unix_connection(sock=life)
        except BaseException:
            data.close()
            life.close()
            raise
        try:
            async with asyncio.timeout(START_S):
                said = await life_streams[0].readline()
                if not said:
                    raise ConnectionResetError("decoder: the fork server is gone")
                if not said.strip().isdigit():
                    raise OSError(f"decoder: got {said.decode().strip()}")
                return Forked(int(said), await asyncio.open_unix_connection(sock=data), life_streams)
        except BaseException:
            life_streams[1].transport.abort()
            data.close()
            raise

    def _running(self) -> socket.socket:
        if self._control is None or self.pid is None:
            self.close()
            self._control, its_control = socket.socketpair()
            with its_control:
                self._process = subprocess.Popen(
                    _command(f"fork_server import serve; serve({its_control.fileno()})"),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    env=_environment(),
                    pass_fds=[its_control.fileno()],
                    start_new_session=True,  # Ctrl-C means the daemon
                )
        return self._control

    def close(self) -> None:
        """End the server, and with it all of its children."""
        if self._control is not None:
            self._control.close()
        if self._process is not None:
            try:
                self._process.wait(1.0)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._control = self._process = None


class Spawned:
    """Started for itself alone, from a fresh interpreter: slower and larger, but everywhere."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        self.pid, self.reader, self.writer = process.pid, process.stdout, process.stdin

    @classmethod
    async def start(cls, container: str) -> Child:
        return cls(
            await asyncio.create_subprocess_exec(
                *_command("decoder_process import spawned; spawned(sys.argv[2])"),
                container,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=_environment(),
                start_new_session=True,
            )
        )

    async def ended(self) -> int | None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ENDED_S):
                return await self._process.wait()
        return None

    def kill(self) -> None:
        # Kills, and closes the pipes too; the public Process.kill leaves them open while nobody reads.
        self._process._transport.close()  # type: ignore[attr-defined]


def _command(run: str) -> list[str]:
    return [sys.executable, "-I", "-c", BOOT + run, json.dumps(sys.path)]


def _environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    return {**kept, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


def name_of(code: int | None) -> str:
    """How a process ended, in words."""
    if code is None:
        return "no word of how"
    if code < 0:
        with contextlib.suppress(ValueError):
            return signal.Signals(-code).name
        return f"signal {-code}"
    return f"exit code {code}"


_server = ForkServer()
atexit.register(_server.close)


def server_pid() -> int | None:
    """The fork server's process id while there is one."""
    return _server.pid


def close() -> None:
    """End the fork server and its children; the next stream starts another."""
    _server.close()
