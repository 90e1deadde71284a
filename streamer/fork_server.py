"""The server that forks a decoding process for each stream; all is loaded once, before the first stranger's byte.

Linux's way to start one in milliseconds and three megabytes. Knows nothing of bytes and samples.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import selectors
import signal
import socket
import struct
import traceback

from streamer.decoder_process import CpuBudget, confine, decode, load, outlast_signals

PR_SET_PDEATHSIG = 1  # Linux: the signal that a child gets when its parent is killed
REQUEST = struct.Struct("8s")  # the container's name; two sockets come with it: the bytes, and the life


class ForkServer:
    """Forks a process for each request on `control`, tells its life, and ends it when its life's socket is closed.

    When `control` closes, all ends.
    """

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._lives: dict[int, socket.socket] = {}  # by process id
        self._prctl = ctypes.CDLL(None).prctl

    def run(self) -> None:
        """Until the daemon is gone."""
        woken, wake = socket.socketpair()
        for end in (woken, wake):
            end.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake.fileno())
        selector = selectors.DefaultSelector()
        selector.register(self._control, selectors.EVENT_READ, "control")
        selector.register(woken, selectors.EVENT_READ, "woken")
        while True:
            for key, _ in selector.select():
                if key.data == "control":
                    pid = self._fork()
                    if pid is None:
                        return self._end_all()
                    if pid:
                        selector.register(self._lives[pid], selectors.EVENT_READ, pid)
                elif key.data == "woken":
                    with contextlib.suppress(BlockingIOError):
                        while woken.recv(4096):
                            pass
                elif key.data in self._lives:  # closed by the daemon
                    selector.unregister(key.fileobj)
                    os.kill(key.data, signal.SIGKILL)
            for pid, status in self._reap():
                life = self._lives.pop(pid)
                with contextlib.suppress(KeyError):
                    selector.unregister(life)
                with contextlib.suppress(OSError):
                    life.send(b"%d\n" % os.waitstatus_to_exitcode(status))
                life.close()

    def _fork(self) -> int | None:
        """The process id of a new child; None if the daemon is gone, 0 if it could not be forked."""
        message, fds, _, _ = socket.recv_fds(self._control, REQUEST.size, 2)
        if len(message) < REQUEST.size or len(fds) != 2:
            return None
        data, life = (socket.socket(fileno=fd) for fd in fds)
        server = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:
            with contextlib.suppress(OSError):
                life.send(f"no process: {error.strerror}\n".encode())
            data.close()
            life.close()
            return 0
        if pid == 0:
            self._child(server, data.fileno(), REQUEST.unpack(message)[0].rstrip(b"\0").decode())
        data.close()
        life.setblocking(False)
        self._lives[pid] = life
        with contextlib.suppress(OSError):
            life.send(b"%d\n" % pid)
        return pid

    def _child(self, server: int, data: int, container: str) -> None:
        """Never returns: what runs here is a copy of the server that must not go on as one."""
        try:
            self._prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != server:  # it was killed in between
                os._exit(1)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.dup2(data, 0)
            os.dup2(os.open(os.devnull, os.O_RDWR), 1)
            for name in os.listdir("/proc/self/fd"):  # but the daemon's error output, for our last words
                if int(name) > 2:
                    with contextlib.suppress(OSError):
                        os.close(int(name))
            confine()
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                decode(_SocketWire(socket.socket(fileno=0)), container, CpuBudget())
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)

    def _reap(self) -> list[tuple[int, int]]:
        ended = []
        with contextlib.suppress(ChildProcessError):
            while (found := os.waitpid(-1, os.WNOHANG))[0]:
                ended.append(found)
        return ended

    def _end_all(self) -> None:
        for pid in self._lives:
            os.kill(pid, signal.SIGKILL)


class _SocketWire:
    def __init__(self, sock: socket.socket) -> None:
        self.read, self.write = sock.recv, sock.sendall


def serve(fd: int) -> None:
    """The fork server's whole life."""
    outlast_signals()
    load()
    os.chdir("/")
    gc.collect()
    gc.freeze()  # a collection would touch, and so copy, every page that the children share
    try:
        ForkServer(socket.socket(fileno=fd)).run()
    except Exception:
        traceback.print_exc()
        os._exit(1)
