"""The process that decodes one stream of strangers' bytes, and the small server that forks one for each stream.

Bytes come in bare; frames go out: pieces of samples, how many bytes are used up, damage, the end. Knows nothing of
the daemon: it starts from a fresh interpreter, so that no socket, key or word of another client is in its memory.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import importlib.util
import io
import json
import os
import signal
import socket
import struct
import sys
import traceback
from collections.abc import Callable
from typing import Protocol

from streamer.codecs import Damaged, Piece, Source, pieces

try:
    import resource
except ImportError:  # Windows: no limits there
    resource = None  # type: ignore[assignment]

# A frame: kind, channels, hertz, and a number: bytes that follow (samples, damage) or bytes used up so far (used).
HEADER = struct.Struct("<BxHIQ")
SAMPLES, USED, DAMAGE, END = range(4)
MOST_SAMPLES_BYTES = 1 << 18  # in one frame; a longer piece is cut
REQUEST = struct.Struct("8s")  # the container's name; two sockets come with it: the bytes, and the life
READ_BYTES = 1 << 16
MEMORY_MIB = 256  # above what the process has when it starts
CPU_S = 10  # to the next byte asked for or sample given
NICE = 5
OPEN_FILES = 3  # the socket and two times nothing: no other can be opened
ENDS_GRACEFULLY = ("SIGTERM", "SIGINT", "SIGHUP")  # a terminal or service manager means the daemon, which closes us


class Wire(Protocol):
    """Where the bytes come from and the frames go to."""

    def read(self, size: int, /) -> bytes:
        """At least one byte, b"" at the end."""

    def write(self, data: bytes, /) -> object:
        """All of it."""


def decode(wire: Wire, container: str, lives: Callable[[], None] = lambda: None) -> None:
    """One stream, to its end or its damage; `lives` is called whenever the work goes on."""
    inlet = _Inlet(wire, lives)
    try:
        for piece in pieces(inlet, container):
            lives()
            _send(wire, piece)
            inlet.seconds += len(piece.samples) / piece.sample_rate
        while inlet.read(READ_BYTES):  # what may lie behind the sound is used up too
            pass
    except Damaged as damaged:
        _send_damage(wire, damaged)
    except MemoryError:
        expected = f"what {MEMORY_MIB} MiB of memory are enough for"
        _send_damage(wire, Damaged("bytes that want more", expected, inlet.used, inlet.seconds))
    else:
        wire.write(HEADER.pack(END, 0, 0, 0))
    while wire.read(READ_BYTES):  # a socket closed before its bytes are read takes back what was written to it
        pass


def _send(wire: Wire, piece: Piece) -> None:
    channels = piece.samples.shape[1]
    step = MOST_SAMPLES_BYTES // (4 * channels)
    for at in range(0, len(piece.samples), step):
        data = piece.samples[at : at + step].astype("<f4", copy=False).tobytes()
        wire.write(HEADER.pack(SAMPLES, channels, piece.sample_rate, len(data)) + data)


def _send_damage(wire: Wire, damaged: Damaged) -> None:
    fields = [damaged.got, damaged.expected, damaged.at_byte, damaged.at_s]
    data = json.dumps(fields).encode()
    wire.write(HEADER.pack(DAMAGE, 0, 0, len(data)) + data)


class _Inlet:
    """Says how much is used up before it waits for more: all samples of it have been sent then."""

    def __init__(self, wire: Wire, lives: Callable[[], None]) -> None:
        self._wire, self._lives = wire, lives
        self.used = self._said = 0
        self.seconds = 0.0

    def read(self, size: int) -> bytes:
        if self.used > self._said:
            self._said = self.used
            self._wire.write(HEADER.pack(USED, 0, 0, self.used))
        self._lives()
        data = self._wire.read(size)
        self.used += len(data)
        return data


# What holds for a process that decodes.


def confine() -> None:
    """Memory, files, processes and rank are bounded from here on, where the system can."""
    with contextlib.suppress(OSError, AttributeError):
        os.nice(NICE)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("500")  # when memory runs out, we go before the daemon
    if resource is None:
        return
    limits = {"RLIMIT_CORE": 0, "RLIMIT_FSIZE": 0, "RLIMIT_NPROC": 0, "RLIMIT_NOFILE": OPEN_FILES}
    with contextlib.suppress(OSError), open("/proc/self/statm") as file:
        limits["RLIMIT_AS"] = int(file.read().split()[0]) * resource.getpagesize() + (MEMORY_MIB << 20)
    for name, most in limits.items():
        with contextlib.suppress(OSError, ValueError, AttributeError):
            resource.setrlimit(getattr(resource, name), (most, most))


class CpuBudget:
    """The kernel ends a process that computes for long without asking for bytes or giving samples."""

    def __init__(self) -> None:
        self._until = 0.0

    def __call__(self) -> None:
        if resource is None:
            return
        usage = resource.getrusage(resource.RUSAGE_SELF)
        used = usage.ru_utime + usage.ru_stime
        if used + CPU_S / 2 > self._until:
            self._until = used + CPU_S
            with contextlib.suppress(OSError, ValueError):
                hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
                resource.setrlimit(resource.RLIMIT_CPU, (int(self._until) + 1, hard))


class _SocketWire:
    def __init__(self, sock: socket.socket) -> None:
        self.read, self.write = sock.recv, sock.sendall


class _PipeWire:
    def read(self, size: int) -> bytes:
        return os.read(0, size)

    def write(self, data: bytes) -> None:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()


def spawned(container: str) -> None:
    """The whole life of a process that was started for one stream: standard input to standard output."""
    for name in ENDS_GRACEFULLY:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    load()
    os.chdir(os.path.abspath(os.sep))
    confine()
    with contextlib.suppress(BrokenPipeError):
        decode(_PipeWire(), container, CpuBudget())


def load() -> None:
    """Import all that decoding can need, also what PyAV imports late: afterwards no file can be opened."""
    import streamer.audio
    import streamer.codecs.wav

    if importlib.util.find_spec("av") is None:
        return
    import streamer.codecs.demuxed
    import streamer.codecs.flac
    import streamer.codecs.mp3

    for kind in ("audio", "video", "subtitles", "attachments", "data"):
        with contextlib.suppress(ImportError):
            importlib.import_module(f"av.{kind}.stream")
    fmt = struct.pack("<IHHIIHH", 16, 1, 1, 8000, 16000, 2, 16)
    rehearsal = b"RIFF\xff\xff\xff\xffWAVEfmt " + fmt + b"data" + struct.pack("<I", 320) + bytes(320)
    for _ in streamer.codecs.demuxed.read_demuxed(Source(io.BytesIO(rehearsal)), "wav"):
        pass


class ForkServer:
    """Forks a process for each request on `control`, tells its life, and ends it when its life's socket is closed.

    When `control` closes, all ends.
    """

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._lives: dict[int, socket.socket] = {}  # by process id
        self._die_with_us = _parent_death_signal()

    def run(self) -> None:
        """Until the daemon is gone."""
        import selectors

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
        try:
            pid = os.fork()
        except OSError as error:
            with contextlib.suppress(OSError):
                life.send(f"no process: {error.strerror}\n".encode())
            data.close()
            life.close()
            return 0
        if pid == 0:
            self._child(data.fileno(), REQUEST.unpack(message)[0].rstrip(b"\0").decode())
        data.close()
        life.setblocking(False)
        self._lives[pid] = life
        with contextlib.suppress(OSError):
            life.send(b"%d\n" % pid)
        return pid

    def _child(self, data: int, container: str) -> None:
        """Never returns: what runs here is a copy of the server that must not go on as one."""
        try:
            self._die_with_us()
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.dup2(data, 0)
            nothing = os.open(os.devnull, os.O_RDWR)
            os.dup2(nothing, 1)
            os.dup2(nothing, 2)
            os.closerange(3, os.sysconf("SC_OPEN_MAX"))
            confine()
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                decode(_SocketWire(socket.socket(fileno=0)), container, CpuBudget())
            os._exit(0)
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


def _parent_death_signal() -> Callable[[], None]:
    """Linux ends the children when the server is killed; elsewhere the end of their bytes does."""
    if not sys.platform.startswith("linux"):
        return lambda: None
    import ctypes

    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def serve(fd: int) -> None:
    """The fork server's whole life."""
    for name in ENDS_GRACEFULLY:
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    load()
    os.chdir("/")
    gc.collect()
    gc.freeze()  # a collection would touch, and so copy, every page that the children share
    try:
        ForkServer(socket.socket(fileno=fd)).run()
    except Exception:
        traceback.print_exc()
        os._exit(1)
