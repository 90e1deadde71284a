"""The process that decodes one stream of strangers' bytes, and what it may not do.

Bytes come in bare; frames go out: pieces of samples, how many bytes are used up, damage, the end. Knows nothing of
the daemon: it comes from a fresh interpreter, so that no socket, key or word of another client is in its memory.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import json
import os
import signal
import struct
import sys
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
READ_BYTES = 1 << 16
MEMORY_MIB = 256  # above what the process has when it starts
CPU_S = 10  # to the next byte asked for or sample given
NICE = 5
OPEN_FILES = 3  # the bytes, nothing, and the daemon's error output: no other can be opened


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
        _send_damage(wire, damaged, inlet.used)
    except MemoryError:
        expected = f"what {MEMORY_MIB} MiB of memory are enough for"
        _send_damage(wire, Damaged("bytes that want more", expected, inlet.used, inlet.seconds), inlet.used)
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


def _send_damage(wire: Wire, damaged: Damaged, used: int) -> None:
    at_byte = min(max(0, damaged.at_byte), used)  # a container may lie about places too
    fields = [damaged.got, damaged.expected, at_byte, damaged.at_s]
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


class _PipeWire:
    def read(self, size: int) -> bytes:
        return os.read(0, size)

    def write(self, data: bytes) -> None:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()


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


def outlast_signals() -> None:
    """Let the signals pass that a terminal or service manager means for the daemon: it closes us when it ends."""
    for name in ("SIGTERM", "SIGINT", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


def spawned(container: str) -> None:
    """The whole life of a process that was started for one stream: standard input to standard output."""
    outlast_signals()
    load()
    os.chdir(os.path.abspath(os.sep))
    confine()
    with contextlib.suppress(BrokenPipeError):
        decode(_PipeWire(), container, CpuBudget())
