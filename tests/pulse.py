"""A sound server of our own whose only microphone is a pipe: what is written into it is captured, bit for bit."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes.util import find_library
from pathlib import Path

RATE = 16000
PIECE_BYTES = 640  # 20 ms
START_S = 20.0


def missing() -> str | None:
    """Why there can be none here."""
    for program in ("pulseaudio", "pactl"):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    if find_library("portaudio") is None:
        return "libportaudio2 is not installed"
    return None if list(Path("/usr/lib").glob("**/libasound_module_pcm_pulse.so")) else "no ALSA plug-in for PulseAudio"


class Pulse:
    """The server, and the voice in front of its microphone: silence, unless something is said."""

    def __init__(self, folder: Path) -> None:
        self._home = folder
        self._fifo = folder / "mic.fifo"
        self._socket = folder / "native.sock"
        self.env = {**os.environ, "XDG_RUNTIME_DIR": str(folder), "PULSE_SERVER": f"unix:{self._socket}"}
        self._said: deque[bytes] = deque()
        self._quiet = threading.Event()
        self._over = threading.Event()
        self._voice = threading.Thread(target=self._speak, daemon=True)

    def start(self) -> None:
        """Until its microphone is there."""
        protocol = f"module-native-protocol-unix socket={self._socket} auth-anonymous=1"
        self._server = subprocess.Popen(
            ["pulseaudio", "-n", "--daemonize=no", "--use-pid-file=no", "--exit-idle-time=-1", "--disable-shm=yes",
             "--log-target=stderr", "-L", protocol],
            env={**self.env, "HOME": str(self._home)}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        deadline = time.monotonic() + START_S
        while self._pactl("info", check=False):
            assert time.monotonic() < deadline, "pulseaudio did not start"
            time.sleep(0.05)
        settings = f"file={self._fifo} format=s16le rate={RATE} channels=1"
        self._pactl("load-module", "module-pipe-source", "source_name=mic", *settings.split())
        self._pactl("set-default-source", "mic")
        self._pipe = os.open(self._fifo, os.O_RDWR | os.O_NONBLOCK)
        self._voice.start()

    def say(self, pcm: bytes) -> None:
        """16 bit mono samples at 16 kHz, at the pace of speech; returns when all of them are said."""
        pcm = pcm.ljust(-(-len(pcm) // PIECE_BYTES) * PIECE_BYTES, b"\0")
        self._said.extend(pcm[at : at + PIECE_BYTES] for at in range(0, len(pcm), PIECE_BYTES))
        self._quiet.clear()  # only now: a silence that just ends may still be setting it
        assert self._quiet.wait(len(pcm) / 2 / RATE + 60)

    def unplug(self) -> None:
        """The microphone goes, the server stays."""
        self._pactl("unload-module", "module-pipe-source")

    def kill(self) -> None:
        """The server goes, and nobody says good-bye."""
        self._server.kill()
        self._server.wait()

    def stop(self) -> None:
        """Everything ends."""
        self._over.set()
        if self._voice.is_alive():
            self._voice.join()
            os.close(self._pipe)
        self._quiet.set()
        self.kill()

    def _speak(self) -> None:
        began, count = time.monotonic(), 0
        while not self._over.is_set():
            piece = self._said.popleft() if self._said else bytes(PIECE_BYTES)
            while piece and not self._over.is_set():
                try:
                    piece = piece[os.write(self._pipe, piece) :]
                except BlockingIOError:  # nobody captures: the pipe is full of what was said to nobody
                    self._over.wait(0.02)
            if not self._said:
                self._quiet.set()
            count += 1
            self._over.wait(max(0.0, began + count * PIECE_BYTES / 2 / RATE - time.monotonic()))

    def _pactl(self, *argv: str, check: bool = True) -> int:
        return subprocess.run(["pactl", *argv], env=self.env, capture_output=True, timeout=30, check=check).returncode


@contextmanager
def pulse() -> Iterator[Pulse]:
    """A server that lasts as long as the context; in a short path, for sockets have no long ones."""
    with tempfile.TemporaryDirectory(prefix="pulse") as folder:
        server = Pulse(Path(folder))
        try:
            server.start()
            yield server
        finally:
            server.stop()
