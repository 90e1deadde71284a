"""Standard input as blocks of 16 kHz samples, as they come: bare samples, or any container that is told by its header.

Ctrl-C and SIGTERM end it as the end of the input does: what was heard becomes final. Knows nothing of models or words.
"""

from __future__ import annotations

import io
import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from streamer.artefacts import how_to_add
from streamer.audio import BadAudio, DecodedAudio, WireAudio, bytes_to_tell, container
from streamer.codecs import Damaged, NoCodecs, pieces
from streamer.codecs.piece import Broken, Source
from streamer.codecs.wav import read_header
from streamer.commands import TERMINATED
from streamer.signals import ECHO_S

Samples = NDArray[np.float32]  # [channels that are heard, n]
NAME = "standard input"
READ_BYTES = 1 << 16
STALL_S = 1.0  # as session.stall_ms of the daemon
HEADER_BYTES = 1 << 12  # of a WAV file, kept to know what it promised


class Binary(Protocol):
    """A buffered stream of bytes."""

    def read1(self, size: int, /) -> bytes:
        """What is there, at most `size` bytes; waits if nothing is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the bytes are, and what is heard of them."""

    encoding: str = "auto"
    sample_rate: int = 16_000
    """Hertz, of bare samples."""
    channels: int = 1
    """Of bare samples."""
    apart: bool = False
    """Each channel by itself."""


class Incoming:
    """Iterate for blocks; `error` says afterwards what ended them too early. A context manager, for signals."""

    KINDS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self, stream: Binary, wanted: Wanted, on_stall: Callable[[], None] = lambda: None) -> None:
        """`on_stall` is called each STALL_S in which nothing comes, where the system can tell (POSIX)."""
        self.error: str | None = None
        self._wanted = wanted
        self._bytes = _Bytes(stream, on_stall)
        self._before: list[Any] = []

    def __enter__(self) -> Self:
        with suppress(ValueError):  # not in the main thread, which alone gets signals
            self._before = [signal.signal(kind, self._bytes.interrupt) for kind in self.KINDS]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in zip(self.KINDS, self._before, strict=False):
            signal.signal(number, handler)

    @property
    def terminated(self) -> bool:
        """SIGTERM ended it."""
        return self._bytes.ended_by == signal.SIGTERM

    def __iter__(self) -> Iterator[Samples]:
        yield from self._blocks()
        if self._bytes.fault is not None:
            raise self._bytes.fault

    def _blocks(self) -> Iterator[Samples]:
        head = self._bytes.peek()
        if not head:
            self.error = f"{NAME}: holds no samples"
            return
        try:
            if self._wanted.encoding == "auto" and (kind := container(head)):
                yield from self._decoded(kind)
            else:
                yield from self._bare()
        except BadAudio as bad:
            self.error = f"{NAME}: {bad}"
            yield bad.before

    def _bare(self) -> Iterator[Samples]:
        wanted = self._wanted
        encoding = "pcm_s16le" if wanted.encoding == "auto" else wanted.encoding
        audio = WireAudio(wanted.sample_rate, encoding, wanted.channels, wanted.apart)
        while data := self._bytes.read(READ_BYTES):
            yield audio.feed(data)
        yield audio.flush()

    def _decoded(self, kind: str) -> Iterator[Samples]:
        audio: DecodedAudio | None = None
        try:
            for piece in pieces(self._bytes, kind):
                if audio is None:
                    audio = DecodedAudio(piece.samples.shape[1], self._wanted.apart)
                yield audio.feed(piece.samples, piece.sample_rate)
        except Damaged as damaged:
            self.error = f"{NAME}: {damaged}"
        except NoCodecs:
            self.error = f"{NAME}: {kind} needs PyAV, which is not installed: {how_to_add('codecs')}"
        if audio is not None:
            yield audio.flush()
        if self.error is None and kind == "wav":
            self.error = self._bytes.missing()


class _Bytes:
    """The stream's bytes, its first ones once more, and a signal as their end."""

    def __init__(self, stream: Binary, on_stall: Callable[[], None]) -> None:
        self._stream, self._on_stall = stream, on_stall
        self._file = _selectable(stream)
        self._head = self._ahead = b""
        self._count = 0  # bytes that came
        self._reading = False
        self.ended_by: int | None = None
        """The signal that ended them."""
        self._ended_at = 0.0
        self.fault: Exception | None = None
        """What `on_stall` raised; the bytes end then. A decoder that reads them would take it for its own."""

    def peek(self) -> bytes:
        """The first bytes, as many as it takes to tell a container, fewer at the end."""
        while len(self._ahead) < bytes_to_tell(self._ahead) and (data := self._read(READ_BYTES)):
            self._ahead += data
        return self._ahead

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes and at least one, b"" at the end."""
        data = self._ahead[:size] or self._read(size)
        self._ahead = self._ahead[len(data) :]
        return data

    def missing(self) -> str | None:
        """What a WAV header promised that did not come, if nobody stopped it."""
        with suppress(Broken):
            source = Source(io.BytesIO(self._head))
            form, size, _ = read_header(source)
            missing = source.at + (size or 0) - self._count
            if form.native and missing > 0 and self.ended_by is None:
                missing_s = missing / (form.width * form.channels * form.rate)
                return f"{NAME}: ends {missing_s:.2f} s before its header says (cut off?)"
        return None

    def interrupt(self, number: int, frame: FrameType | None) -> None:
        """A read ends at once, work is finished first; a second signal means it."""
        del frame
        if self.ended_by is None:
            self.ended_by, self._ended_at = number, time.monotonic()
            if self._reading:
                raise KeyboardInterrupt
        elif number == signal.SIGINT:
            raise KeyboardInterrupt
        elif time.monotonic() - self._ended_at > ECHO_S:
            raise SystemExit(TERMINATED)

    def _read(self, size: int) -> bytes:
        data = None
        while data is None:
            if self.ended_by is not None or self.fault is not None:
                return b""
            self._reading = True
            try:
                data = self._stream.read1(size) if self._come() else None
            except KeyboardInterrupt:
                return b""
            finally:
                self._reading = False
            if data is None:
                self._stalled()
        self._count += len(data)
        if len(self._head) < HEADER_BYTES:
            self._head += data[: HEADER_BYTES - len(self._head)]
        return data

    def _come(self) -> bool:
        """Whether bytes, or the end, come within STALL_S."""
        return self._file is None or bool(select.select([self._file], [], [], STALL_S)[0])

    def _stalled(self) -> None:
        try:
            self._on_stall()
        except Exception as error:
            self.fault = error


def _selectable(stream: Binary) -> int | None:
    """The descriptor to wait for, where waiting does not need a read."""
    if os.name != "posix" or not hasattr(stream, "fileno"):
        return None
    try:
        return int(stream.fileno())
    except OSError:
        return None
