"""Recordings on disk as 16 kHz samples, whole or in blocks: any file libsndfile or PyAV reads, and members of a tar.

A member is `a.tar!member`. Also the manifests that list recordings. Knows nothing of models or the command line.
"""

from __future__ import annotations

import io
import json
import math
import os
import stat
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamer import blocks
from streamer.blocks import WHOLE, CutOff, Part, Unreadable

__all__ = ["WHOLE", "CutOff", "Entry", "Part", "Recordings", "Unreadable", "manifest"]

MEMBER = "!"  # what parts a tar from its member in a manifest
_DAMAGED = (OSError, EOFError, zlib.error, tarfile.TarError)  # what a tar cut off or packed wrongly raises


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
        return blocks.whole(self._source(name), name, part)

    def blocks(self, name: str, channel: int | None = None, part: Part = WHOLE) -> Iterator[NDArray[np.float32]]:
        """The same in blocks, or those of one channel; memory does not grow with the recording (a tar's member is
        held whole). Raises CutOff at the end where there is less than the file says."""
        return blocks.blocks(self._source(name), name, part, channel)

    def channels(self, name: str) -> int:
        """How many channels `name` has."""
        return blocks.channels_of(self._source(name), name)

    def _source(self, name: str) -> Path | io.BytesIO:
        tar, mark, member = name.partition(MEMBER)
        path = self.root / name
        if mark and not os.path.exists(path):
            return io.BytesIO(self._member(self.root / tar, member))
        if not name or not os.path.isfile(path):  # unlike Path's, these take any name for an answer
            raise Unreadable(f"{path}: {_what_it_is(path)}" if name else "'': no name of a file")
        return path

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


def manifest(path: Path, needed: tuple[str, ...] = ("audio_filepath", "text")) -> Iterator[Entry]:
    """The lines of a JSON-lines manifest, each with the `needed` texts; what is not needed may be missing."""
    try:
        lines = path.read_text("utf-8").split("\n")  # a text may hold other ends of lines, like U+2028
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise Unreadable(f"{path}: a manifest that cannot be read ({reason})") from None
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield _entry(line, f"{path} line {number}", needed)


def _entry(line: str, where: str, needed: tuple[str, ...]) -> Entry:
    try:
        fields = json.loads(line)
    except json.JSONDecodeError as error:
        raise Unreadable(f"{where}: not JSON ({error.msg})") from None
    if not isinstance(fields, dict):
        raise Unreadable(f"{where}: got {line.strip()[:40]}, expected an object")
    for key in needed:
        if not isinstance(fields.get(key), str):
            got = json.dumps(fields[key])[:40] if key in fields else "nothing"
            raise Unreadable(f"{where}: {key}: got {got}, expected a text")
    part = Part(_seconds(fields, "offset", where), _seconds(fields, "duration", where))
    text = fields.get("text")
    source = str(fields.get("source") or "all")
    return Entry(fields["audio_filepath"], part, text if isinstance(text, str) else "", source, fields)


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
    if os.path.exists(path) and stat.S_ISFIFO(os.stat(path).st_mode):
        return "a pipe, expected a file, or - for standard input: ffmpeg ... | streamer transcribe -"
    return "not a regular file" if os.path.exists(path) else "no such file"
