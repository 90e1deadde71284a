"""Recordings on disk as 16 kHz mono samples: any file libsndfile reads, and members of a tar (`a.tar!member`).

Knows nothing of streams, models or the command line.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from models.config import SAMPLE_RATE

MEMBER = "!"  # what parts a tar from its member in a manifest


class Unreadable(Exception):
    """A file cannot be used; the text is one sentence that says which and why."""


@dataclass(slots=True)
class Recordings:
    """Reads recordings below `root`; keeps the tars it met open."""

    root: Path = Path()
    _tars: dict[Path, tarfile.TarFile] = field(default_factory=dict)

    def read(self, name: str) -> NDArray[np.float32]:
        """All samples of `name`, mixed to mono at 16 kHz."""
        tar, mark, member = name.partition(MEMBER)
        if mark and not (self.root / name).exists():
            return decode(io.BytesIO(self._member(self.root / tar, member)), name)
        path = self.root / name
        if not path.is_file():
            raise Unreadable(f"{path}: {'a folder, not a recording' if path.is_dir() else 'no such file'}")
        return decode(path, name)

    def _member(self, tar: Path, member: str) -> bytes:
        try:
            if tar not in self._tars:
                self._tars[tar] = tarfile.TarFile.open(tar)
            stream = self._tars[tar].extractfile(member)
        except (OSError, tarfile.TarError) as error:
            raise Unreadable(f"{tar}: not a tar that can be read ({error})") from None
        except KeyError:
            raise Unreadable(f"{tar}: no member {member}") from None
        if stream is None:
            raise Unreadable(f"{tar}: {member} is not a file")
        return stream.read()

    def close(self) -> None:
        """Close the tars."""
        for tar in self._tars.values():
            tar.close()
        self._tars.clear()


def decode(source: Path | io.BytesIO, name: str) -> NDArray[np.float32]:
    """Mono float32 at 16 kHz; raises Unreadable for what is not audio."""
    try:
        samples, rate = soundfile.read(source, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else error.error_string
        raise Unreadable(f"{name}: not audio that libsndfile reads ({str(reason).rstrip('.')})") from None
    mono = samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1, dtype=np.float32)
    if not np.isfinite(mono).all():
        raise Unreadable(f"{name}: holds samples that are not numbers (NaN or infinite)")
    if rate != SAMPLE_RATE:
        mono = soxr.resample(mono, rate, SAMPLE_RATE, quality="HQ")
    return np.ascontiguousarray(mono, np.float32)


def manifest(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a JSON-lines manifest; each has at least `audio_filepath`."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise Unreadable(f"{path}: a manifest that cannot be read ({reason})") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except json.JSONDecodeError as error:
            raise Unreadable(f"{path} line {number}: not JSON ({error.msg})") from None
        if not isinstance(entry, dict) or not isinstance(entry.get("audio_filepath"), str):
            raise Unreadable(f"{path} line {number}: an object with the text audio_filepath was expected")
        yield entry
