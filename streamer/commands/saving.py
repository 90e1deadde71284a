"""What a microphone leaves behind: the audio as WAV, the words as text, subtitles or JSON lines. Knows no device.

Every file is whole and readable after each write, whatever ends the program. One that takes no more (a full disk) is
said and given up; the others go on.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from streamer.commands import USAGE, CommandError, say
from streamer.protocols.events import Word
from streamer.subtitles.spoken import Spoken
from streamer.subtitles.writers import KINDS, open_writer

if TYPE_CHECKING:
    from streamer.protocols.events import Final, Partial

ALL = ("wav", *KINDS)
FOR_PEOPLE = ("txt", "srt", "vtt")
GAP_S = 4.0  # what says of a gap is shown at most so long
WAV_BYTES = (1 << 32) - 4096  # what the length field of a WAV file can say, its header included
FLUSH_S = 1.0
_SAMPLE_BYTES = 2


class Wav:
    """16 bit mono WAV that grows; its header says after each flush how much there is."""

    def __init__(self, path: Path, rate: int, *, overwrite: bool) -> None:
        self._file = path.open("wb" if overwrite else "xb")
        self._rate, self._written, self._unflushed = rate, 0, b""
        self._flush_bytes = round(FLUSH_S * rate) * _SAMPLE_BYTES
        self._flush()

    def add(self, pcm: bytes) -> None:
        """More samples, little-endian."""
        if self._written + len(self._unflushed) + len(pcm) > WAV_BYTES:
            raise OSError(errno.EFBIG, "a WAV file ends at 4 GiB")
        self._unflushed += pcm
        if len(self._unflushed) >= self._flush_bytes:
            self._flush()

    def close(self) -> None:
        """The rest, then the file."""
        try:
            self._flush()
        finally:
            self._file.close()

    def _flush(self) -> None:
        """The samples first, then the header that counts them."""
        pcm, self._unflushed = self._unflushed, b""
        self._file.seek(0, os.SEEK_END)
        if self._file.tell() == 0:
            self._file.write(self._header())
        self._file.write(pcm)
        self._file.flush()
        self._written += len(pcm)
        self._file.seek(0)
        self._file.write(self._header())
        self._file.flush()

    def _header(self) -> bytes:
        form = (16, 1, 1, self._rate, self._rate * _SAMPLE_BYTES, _SAMPLE_BYTES, 8 * _SAMPLE_BYTES)  # PCM, mono
        riff = struct.pack("<4sI4s", b"RIFF", 36 + self._written, b"WAVE")
        return riff + struct.pack("<4sIHHIIHH", b"fmt ", *form) + struct.pack("<4sI", b"data", self._written)


class Saves:
    """The files that were asked for, by their suffixes; they are made when the context begins."""

    def __init__(self, paths: Sequence[str], rate: int, *, overwrite: bool = False) -> None:
        """Raises CommandError where one is there already, is asked for twice, or is of no kind."""
        self.failed = False
        self._paths, self._rate, self._overwrite = [Path(path) for path in paths], rate, overwrite
        self._files: dict[Path, Wav | Spoken] = {}
        _check(self._paths, overwrite)

    def __enter__(self) -> Self:
        try:
            recording = next((path for path in self._paths if _kind(path) == "wav"), None)
            for path in self._paths:
                self._files[path] = _opened(path, recording, self._rate, self._overwrite)
        except OSError as error:
            self.close()
            raise CommandError(f"--save {error.filename}: {error.strerror}") from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def audio(self, pcm: bytes) -> None:
        """What was captured, bit for bit."""
        self._each(lambda file: file.add(pcm) if isinstance(file, Wav) else None)

    def partial(self, partial: Partial) -> None:
        """Words of which the first ones stay as they are."""
        self._each(lambda file: file.partial(partial) if isinstance(file, Spoken) else None)

    def final(self, final: Final) -> None:
        """Words that stay as they are."""
        self._each(lambda file: file.final(final) if isinstance(file, Spoken) else None)

    def unheard(self, start_s: float, end_s: float, text: str) -> None:
        """A gap, said in the files that are for people; in the others the times show it."""
        parts = text.split()
        step_s = min(end_s - start_s, GAP_S) / len(parts)
        words = [
            Word(word=part, start=start_s + at * step_s, end=start_s + (at + 1) * step_s, confidence=0.0)
            for at, part in enumerate(parts)
        ]
        self._each(lambda file: file.writer.add(words) if isinstance(file, Spoken) else None, FOR_PEOPLE)

    def close(self) -> None:
        """All that was waiting is written."""
        self._each(_close)
        self._files.clear()

    def _each(self, act: Callable[[Wav | Spoken], None], kinds: Sequence[str] = ALL) -> None:
        for path, file in [(path, file) for path, file in self._files.items() if _kind(path) in kinds]:
            try:
                act(file)
            except OSError as error:
                say(f"streamer: --save {path}: {error.strerror or error}; what came before is there")
                self.failed = True
                del self._files[path]
                with contextlib.suppress(OSError):
                    _close(file)


def _close(file: Wav | Spoken) -> None:
    file.close() if isinstance(file, Wav) else file.writer.close()


def _check(paths: Sequence[Path], overwrite: bool) -> None:
    for at, path in enumerate(paths):
        if _kind(path) not in ALL:
            expected = ", ".join(f".{kind}" for kind in ALL)
            raise CommandError(f"--save {path}: expected a name that ends in one of {expected}", USAGE)
        if path in paths[:at]:
            raise CommandError(f"--save {path}: got it twice, expected it once", USAGE)
        if path.exists() and not overwrite:
            raise CommandError(f"--save {path}: it is there already; --force writes over it", USAGE)


def _opened(path: Path, recording: Path | None, rate: int, overwrite: bool) -> Wav | Spoken:
    if _kind(path) == "wav":
        return Wav(path, rate, overwrite=overwrite)
    name = str(recording) if recording else "" if _kind(path) == "jsonl" else None
    return Spoken(open_writer(path, _kind(path), name=name, overwrite=overwrite))


def _kind(path: Path) -> str:
    return path.suffix.lower().removeprefix(".")
