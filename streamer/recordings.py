"""Recordings on disk as 16 kHz mono samples: any file libsndfile reads, and members of a tar (`a.tar!member`).

Also the manifests that list them. Knows nothing of streams, models or the command line.
"""

from __future__ import annotations

import io
import json
import math
import os
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from models.config import SAMPLE_RATE
from streamer.audio import LOUDEST

MEMBER = "!"  # what parts a tar from its member in a manifest
ROUNDED_S = 0.05  # a duration that near to the file's own is the file's, rounded
_DAMAGED = (OSError, EOFError, zlib.error, tarfile.TarError)  # what a tar cut off or packed wrongly raises


class Unreadable(Exception):
    """A file cannot be used; the text is one sentence that says which and why."""


@dataclass(frozen=True, slots=True)
class Part:
    """Where in a file a recording lies, in seconds; a duration of 0 reaches to the end."""

    offset_s: float = 0.0
    duration_s: float = 0.0


WHOLE = Part()


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a manifest."""

    audio_filepath: str
    part: Part
    text: str
    source: str
    fields: dict[str, Any]  # all of the line, as it was


@dataclass(slots=True)
class Recordings:
    """Reads recordings below `root`; keeps the tars it met open."""

    root: Path = Path()
    _tars: dict[Path, tarfile.TarFile] = field(default_factory=dict)

    def read(self, name: str, part: Part = WHOLE) -> NDArray[np.float32]:
        """The samples of `name`, mixed to mono at 16 kHz."""
        tar, mark, member = name.partition(MEMBER)
        path = self.root / name
        if mark and not os.path.exists(path):
            return decode(io.BytesIO(self._member(self.root / tar, member)), name, part)
        if not os.path.isfile(path):  # unlike Path's, these take any name for an answer
            raise Unreadable(f"{path}: {_what_it_is(path)}")
        return decode(path, name, part)

    def _member(self, tar: Path, member: str) -> bytes:
        try:
            if tar not in self._tars:
                self._tars[tar] = tarfile.TarFile.open(tar)
            stream = self._tars[tar].extractfile(member)
            if stream is not None:
                return stream.read()
        except _DAMAGED as error:
            raise Unreadable(f"{tar}: not a tar that can be read ({error})") from None
        except KeyError:
            raise Unreadable(f"{tar}: no member {member}") from None
        raise Unreadable(f"{tar}: {member} is not a file")

    def close(self) -> None:
        """Close the tars."""
        for tar in self._tars.values():
            tar.close()
        self._tars.clear()


def decode(source: Path | io.BytesIO, name: str, part: Part = WHOLE) -> NDArray[np.float32]:
    """Mono float32 at 16 kHz; raises Unreadable for what is not audio."""
    try:
        with soundfile.SoundFile(source) as file:
            rate: int = file.samplerate
            start, end = _span(part, file.frames, rate, name)
            if file.format == "MP3":  # after a seek libsndfile's MP3 is wrong for a quarter of a second
                samples = file.read(dtype="float32", always_2d=True)[start:end]
            else:
                if start:
                    file.seek(start)
                samples = file.read(end - start, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError, TypeError) as error:  # TypeError: *.raw, which says nothing of itself
        reason = getattr(error, "error_string", "") or getattr(error, "strerror", "") or str(error)
        raise Unreadable(f"{name}: not audio that libsndfile reads ({reason.rstrip('.')})") from None
    mono = samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1, dtype=np.float32)
    if not np.isfinite(mono).all():
        raise Unreadable(f"{name}: holds samples that are not numbers (NaN or infinite)")
    if (peak := float(np.abs(samples).max(initial=0.0))) > LOUDEST:
        raise Unreadable(f"{name}: got samples up to {peak:.3g}, expected floats within -1..1 (is it 16-bit audio?)")
    if rate != SAMPLE_RATE:
        mono = soxr.resample(mono, rate, SAMPLE_RATE, quality="HQ")
    return np.ascontiguousarray(mono, np.float32)


def _span(part: Part, length: int, rate: int, name: str) -> tuple[int, int]:
    """First frame of a part, and the first one behind it."""
    if part.offset_s and part.offset_s * rate >= length:
        raise Unreadable(f"{name}: offset {part.offset_s:g} s lies behind its end at {length / rate:.2f} s")
    start = round(part.offset_s * rate)
    left_s = (length - start) / rate
    whole = not part.duration_s or part.duration_s >= left_s
    if not part.offset_s:  # most manifests give the file's own duration, rounded
        whole |= part.duration_s >= left_s - ROUNDED_S
    return start, length if whole else start + round(part.duration_s * rate)


def manifest(path: Path) -> Iterator[Entry]:
    """The lines of a JSON-lines manifest."""
    try:
        lines = path.read_text("utf-8").split("\n")  # a text may hold other ends of lines, like U+2028
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise Unreadable(f"{path}: a manifest that cannot be read ({reason})") from None
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield _entry(line, f"{path} line {number}")


def _entry(line: str, where: str) -> Entry:
    try:
        fields = json.loads(line)
    except json.JSONDecodeError as error:
        raise Unreadable(f"{where}: not JSON ({error.msg})") from None
    if not isinstance(fields, dict):
        raise Unreadable(f"{where}: got {line.strip()[:40]}, expected an object")
    for key in ("audio_filepath", "text"):
        if not isinstance(fields.get(key), str):
            got = json.dumps(fields[key])[:40] if key in fields else "nothing"
            raise Unreadable(f"{where}: {key}: got {got}, expected a text")
    part = Part(_seconds(fields, "offset", where), _seconds(fields, "duration", where))
    return Entry(fields["audio_filepath"], part, fields["text"], str(fields.get("source") or "all"), fields)


def _seconds(fields: dict[str, Any], key: str, where: str) -> float:
    value = fields.get(key)
    if value is None:
        return 0.0
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not (math.isfinite(value) and value >= 0):
        raise Unreadable(f"{where}: {key}: got {json.dumps(value)[:40]}, expected seconds from 0")
    return float(value)


def _what_it_is(path: Path) -> str:
    """Why a path that is no file cannot be heard."""
    if os.path.isdir(path):
        return "a folder, not a recording"
    return "not a regular file" if os.path.exists(path) else "no such file"
