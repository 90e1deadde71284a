"""Containers that PyAV takes apart: WebM, Ogg, MP4. Knows nothing of what is heard, and opens no file but its source.

What a demuxer passes over in silence it does tell its log: an error there is damage here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NoReturn, TypeVar

import av
import av.error

from streamer.codecs.boxes import Boxes
from streamer.codecs.complaints import Complaints
from streamer.codecs.pages import Pages
from streamer.codecs.piece import Broken, Readable, SeekableFile, Source, plain
from streamer.codecs.sound import DECODERS, STRICT, Sound, check_decoder, reason

if TYPE_CHECKING:
    from av.container import InputContainer

    from streamer.codecs.piece import Samples
    from streamer.codecs.sound import AudioPacket

T = TypeVar("T")

BUFFER_BYTES = 1 << 12  # read at once: how much closer than this an error cannot say where
FORMATS = {"webm": "matroska,webm", "ogg": "ogg", "mp4": "mov,mp4,m4a,3gp,3g2,mj2", "wav": "wav"}
WHATS = {"webm": "WebM or Matroska", "ogg": "Ogg", "mp4": "MP4", "wav": "WAV"}


def read_demuxed(source: Source, container: str) -> Iterator[tuple[Samples, int]]:
    """(samples, rate) as the packets come; raises Broken."""
    match container:
        case "ogg":
            pages = Pages(source)
            while pages.another():
                yield from _read(_Tap(pages, source, container), source, container, pages.began)
        case "mp4" if (file := source.seekable()) is not None:  # the index of a recording is written last
            yield from _read(_SeekingTap(file, source, container), source, container, 0)
        case "mp4":
            yield from _read(_Tap(Boxes(source), source, container), source, container, 0)
        case _:
            yield from _read(_Tap(source, source, container), source, container, 0)


def _read(tap: _Tap, source: Source, container: str, began: int) -> Iterator[tuple[Samples, int]]:
    """One recording, begun at this byte of `source`."""
    opened = tap.call(lambda: _open(tap, container))
    assert opened is not None
    with opened:
        if not opened.streams.audio:
            raise Broken("no audio stream", f"{WHATS[container]} with sound", source.at)
        stream = opened.streams.audio[0]
        check_decoder(stream.codec_context, source.at)
        stream.codec_context.options = STRICT
        stream.codec_context.thread_count = 1
        sound = Sound(stream.codec_context, source)
        packets = opened.demux(stream)
        while (packet := tap.call(lambda: _next(packets))) is not None:
            yield from sound.decode(packet, source.at if packet.pos is None else began + packet.pos)
        yield from sound.end()


def _open(tap: _Tap, container: str) -> InputContainer:
    allowed = {
        "format_whitelist": FORMATS[container],
        "codec_whitelist": ",".join(DECODERS),
        "protocol_whitelist": "none",
    }
    return av.open(
        tap,
        "r",
        format=FORMATS[container].split(",")[0],
        container_options=allowed,
        metadata_errors="ignore",
        buffer_size=BUFFER_BYTES,
        io_open=_refuse_file,
    )


def _refuse_file(url: str, flags: int, options: dict[str, str]) -> NoReturn:  # noqa: ARG001
    """A container that names other files or addresses gets none of them."""
    raise PermissionError(f"other file: got {plain(url)}, expected none")


def _next(packets: Iterator[AudioPacket]) -> AudioPacket | None:
    """The next packet with something in it, None at the end."""
    return next((packet for packet in packets if packet.size), None)


class _Tap:
    """What the demuxer reads from. What it raises, or logs while more bytes come, is damage; that they end is none."""

    def __init__(self, inner: Readable, source: Source, container: str) -> None:
        self._inner, self._source, self._container = inner, source, container
        self._complaints = Complaints()
        self._broken: Broken | None = None
        self._opened = self._ended = False

    def read(self, size: int) -> bytes:
        """Bytes for the demuxer; none once it has complained, or it would search all that comes for a new start.

        PyAV drops what is raised in here; `call` raises it.
        """
        self._judge()
        if self._broken is not None:
            return b""
        try:
            data = self._inner.read(size)
        except Broken as broken:
            self._broken = broken
            return b""
        self._ended = not data
        return data

    def call(self, work: Callable[[], T]) -> T | None:
        """Do something with the demuxer; None if the bytes ended amid it. Raises Broken."""
        done, failed = None, None
        try:
            with self._complaints:
                done = work()
        except (av.error.FFmpegError, MemoryError, OSError, ValueError) as error:
            failed = error
        self._judge()
        if failed is not None and self._broken is None and not (self._opened and self._ended):
            got = self._complaints.first(FORMATS[self._container]) or reason(failed)
            self._broken = Broken(plain(got), WHATS[self._container], self._source.at)
        if self._broken is not None:  # what the demuxer found behind it is not given out
            raise self._broken
        self._opened = True
        return done

    def _judge(self) -> None:
        said = self._complaints.first(FORMATS[self._container])
        if said is not None and self._broken is None and not self._ended:
            self._broken = Broken(plain(said), WHATS[self._container], self._source.at)


class _SeekingTap(_Tap):
    """Of a file in which the demuxer may go where it likes."""

    def __init__(self, file: SeekableFile, source: Source, container: str) -> None:
        super().__init__(file, source, container)
        self._file = file

    def read(self, size: int) -> bytes:
        data = super().read(size)
        self._source.at = self._file.tell()
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()
