"""Manifests: JSON lines that say what is heard in which recording, and what is wrong with them, all at once.

A recording is a file or `archive.tar!member`, whole or a part of it. Knows nothing of features or training.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import math
import sys
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import soundfile

from models.tokenizer import Tokenizer, TokenizerError
from models.training.text import normalize

SUFFIX = ".jsonl"
MEMBER = "!"  # what parts a tar from its member
SHOWN = 5  # faults that a sentence tells; the rest are counted
ROUNDED_S = 0.1  # by so much a duration may be longer than the recording
UNKNOWN = "<unk>"  # the piece that stands for what has none
LANGUAGES = ("lang", "target_lang", "language")  # fields that say a line's language, NeMo's first


@dataclass(frozen=True, slots=True)
class Line:
    """One utterance of a manifest."""

    number: int  # in the file, from 1
    audio: str  # relative to the manifest's folder
    text: str
    offset_s: float = 0.0
    duration_s: float | None = None  # None: to the recording's end
    source: str = ""
    language: str | None = None


class ManifestError(ValueError):
    """A manifest cannot be used; the text says which lines are wrong, and how."""

    def __init__(self, where: Path | str, faults: list[str]) -> None:
        more = f" and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        super().__init__(f"{where}: {'; '.join(faults[:SHOWN])}{more}")
        self.faults = faults


def read(path: Path) -> list[Line]:
    """Every line that is not empty; raises ManifestError for what is no utterance, all of it at once."""
    try:
        rows = path.read_text("utf-8").split("\n")  # a text may hold other ends of lines, like U+2028
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ManifestError(path, [f"a manifest that cannot be read ({reason})"]) from None
    lines, faults = [], []
    for number, row in enumerate(rows, 1):
        if row.strip():
            try:
                lines.append(_line(number, row))
            except ValueError as error:
                faults.append(f"line {number}: {error}")
    if faults or not lines:
        raise ManifestError(path, faults or ["got no line, expected utterances"])
    return lines


def digest(path: Path) -> str:
    """What tells one manifest, or any file, from another."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _line(number: int, row: str) -> Line:
    try:
        fields = json.loads(row)
    except json.JSONDecodeError as error:
        raise ValueError(f"got {row.strip()[:40]!r}, expected JSON ({error.msg})") from None
    if not isinstance(fields, dict):
        raise ValueError(f"got {row.strip()[:40]!r}, expected an object")
    for key in ("audio_filepath", "text"):
        value = fields.get(key)
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"{key}: got {_shown(fields, key)}, expected a text that is not empty")
    offset_s, duration_s = _seconds(fields, "offset"), _seconds(fields, "duration")
    if duration_s == 0:
        raise ValueError("duration: got 0, expected seconds above 0")
    language = next((str(fields[key]) for key in LANGUAGES if fields.get(key)), None)
    source = str(fields.get("source") or "")
    return Line(number, fields["audio_filepath"], fields["text"], offset_s or 0.0, duration_s, source, language)


def _seconds(fields: dict[str, Any], key: str) -> float | None:
    value = fields.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{key}: got {_shown(fields, key)}, expected seconds from 0")
    return float(value)


def _shown(fields: dict[str, Any], key: str) -> str:
    return json.dumps(fields[key])[:40] if key in fields else "nothing"


def missing_audio(lines: Iterable[Line], root: Path) -> list[str]:
    """Recordings that are not there, are no audio, or are shorter than their line says; only headers are read."""
    faults = []
    with Archives(root) as archives:
        for line in lines:
            try:
                with archives.open(line.audio) as file:
                    length_s = float(soundfile.info(file).duration)
            except (OSError, KeyError, tarfile.TarError, soundfile.SoundFileError) as error:
                faults.append(f"line {line.number}: audio_filepath: got {line.audio!r}, expected audio ({_why(error)})")
                continue
            end_s = line.offset_s + (line.duration_s or 0.0)
            if end_s > length_s + ROUNDED_S or line.offset_s >= length_s:
                got = f"{line.audio!r} up to {end_s:.2f} s"
                faults.append(f"line {line.number}: duration: got {got}, expected at most {length_s:.2f} s")
    return faults


def _why(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).strip("'\"") or type(error).__name__


class Archives:
    """Opens recordings below a folder as binary files, every archive once."""

    def __init__(self, root: Path) -> None:
        self._root, self._tars = root, contextlib.ExitStack()
        self._open: dict[str, tarfile.TarFile] = {}

    def __enter__(self) -> Archives:
        return self

    def __exit__(self, *_: object) -> None:
        self._tars.close()

    def open(self, audio: str) -> io.BufferedIOBase:
        """Raises OSError, KeyError or TarError where there is nothing to open."""
        path, mark, member = audio.partition(MEMBER)
        if not mark:
            return (self._root / path).open("rb")
        if path not in self._open:
            self._open[path] = self._tars.enter_context(tarfile.open(self._root / path))  # noqa: SIM115
        stream = self._open[path].extractfile(member)
        if stream is None:
            raise KeyError(f"{member} is no file in {path}")
        return io.BytesIO(stream.read())


def repeated(lines: Iterable[Line]) -> list[str]:
    """Recordings that an earlier line has already."""
    seen: dict[tuple[str, float], int] = {}
    faults = []
    for line in lines:
        first = seen.setdefault((line.audio, line.offset_s), line.number)
        if first != line.number:
            faults.append(
                f"line {line.number}: audio_filepath: got {line.audio!r}, expected none of line {first} again"
            )
    return faults


def shared(path: Path, lines: Iterable[Line], other: Path, others: Iterable[Line]) -> list[str]:
    """Recordings that another manifest has too: what is trained on cannot be validated on."""
    known = {((other.parent / line.audio).resolve(), line.offset_s) for line in others}
    return [
        f"line {line.number}: audio_filepath: got {line.audio!r}, expected none of {other}"
        for line in lines
        if ((path.parent / line.audio).resolve(), line.offset_s) in known
    ]


class Spelling:
    """What a tokenizer has no piece for."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._unknown = tokenizer.pieces.index(UNKNOWN) if UNKNOWN in tokenizer.pieces else None
        self._spelled: dict[str, bool] = {}

    def missing(self, text: str) -> str:
        """The characters of a text that are in no piece, each once."""
        return "".join(sorted(letter for letter in set(text) if not letter.isspace() and not self._spells(letter)))

    def faults(self, texts: Iterable[tuple[int, str]]) -> list[str]:
        """One for each character: how often, and in which line first."""
        counts: dict[str, int] = {}
        first: dict[str, int] = {}
        for number, text in texts:
            for letter in self.missing(text):
                counts[letter] = counts.get(letter, 0) + 1
                first.setdefault(letter, number)
        return [
            f"line {first[letter]}: text: got {letter!r} (in {count} lines), expected what the tokenizer can spell"
            for letter, count in sorted(counts.items(), key=lambda pair: -pair[1])
        ]

    def _spells(self, letter: str) -> bool:
        if letter not in self._spelled:
            try:
                self._spelled[letter] = self._unknown not in self._tokenizer.encode(letter)
            except TokenizerError:
                self._spelled[letter] = False
        return self._spelled[letter]


def check(path: Path, tokenizer: Tokenizer | None = None, plain: bool = False, audio: bool = True) -> list[Line]:
    """The manifest's lines, or a ManifestError that tells all that is wrong. `plain`: its texts will be normalised."""
    lines = read(path)
    faults = repeated(lines)
    if audio:
        faults += missing_audio(lines, path.parent)
    if tokenizer is not None:
        said: Callable[[str], str] = normalize if plain else str
        faults += Spelling(tokenizer).faults((line.number, said(line.text)) for line in lines)
    if faults:
        raise ManifestError(path, faults)
    return lines


def texts(path: Path) -> Iterator[str]:
    """What is said in each line."""
    return (line.text for line in read(path))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="check manifests: what is heard, that it is there, who else has it")
    parser.add_argument("manifests", nargs="+", type=Path, metavar="MANIFEST")
    parser.add_argument("--tokenizer", type=Path, metavar="FILE", help="a SentencePiece model that has to spell it all")
    parser.add_argument("--plain", action="store_true", help="the texts will be normalised, as `text: plain` does")
    args = parser.parse_args(argv)
    try:
        tokenizer = args.tokenizer and Tokenizer.from_sentencepiece(args.tokenizer.read_bytes())
        checked = [(path, check(path, tokenizer, args.plain)) for path in args.manifests]
        for place, (path, lines) in enumerate(checked):
            for other, others in checked[:place]:
                if faults := shared(path, lines, other, others):
                    raise ManifestError(path, faults)
    except (ValueError, OSError) as error:
        print(f"manifest: {error}", file=sys.stderr)
        return 1
    for path, lines in checked:
        known = [line.duration_s for line in lines if line.duration_s is not None]
        print(f"{path}: {len(lines)} utterances, {sum(known) / 3600:.2f} h in {len(known)} that say how long they are")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
