"""Which file the words of each input go to, and as what kind. Decides before anything is heard; writes nothing."""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from streamer.commands import USAGE, CommandError
from streamer.recordings import MEMBER
from streamer.subtitles import KINDS
from streamer.subtitles.writers import kind_of

ALONE = ("txt", "srt", "vtt")  # kinds of which one stream cannot hold several


@dataclass(frozen=True, slots=True)
class Targets:
    """`kind` is None for what a terminal gets: text, or the objects of --json. `paths` is None for stdout."""

    kind: str | None
    paths: Sequence[Path] | None
    overwrite: bool = False


def targets(args: argparse.Namespace) -> Targets:
    """What --format, --out and --force ask for; an error for what cannot be."""
    if args.json and (args.format or args.out):
        raise CommandError("--json writes to stdout, with --format and --out use --format jsonl", USAGE)
    if args.out is None:
        if args.format in ALONE and len(args.files) > 1:
            raise CommandError(f"--format {args.format}: {len(args.files)} files need --out FOLDER", USAGE)
        return Targets(args.format, None)
    out = Path(args.out)
    if len(args.files) > 1 or out.is_dir() or args.out.endswith(("/", os.sep)):
        kind = args.format or "txt"
        if len(args.files) > 1 and not args.format and kind_of(out) and not out.is_dir():
            raise CommandError(f"--out {out}: one file for {len(args.files)} inputs, expected a folder", USAGE)
        paths: list[Path] = [out / name for name in names(args.files, kind)]
    else:
        named = kind_of(out)
        kind = args.format or named
        if named not in (None, kind):
            raise CommandError(f"--out {out}: the name says {named}, --format says {kind}, expected the same", USAGE)
        if kind is None:
            raise CommandError(f"--out {out}: expected a name that ends in .{', .'.join(KINDS)}, or --format", USAGE)
        paths = [out]
    _check(paths, args.files, args.force)
    _make_folders(paths)
    return Targets(kind, paths, args.force)


def names(files: Sequence[str], kind: str) -> list[str]:
    """A name for each input's output, no two alike: the stem, the whole name where stems meet, a number after that."""
    stems = ["stdin" if file == "-" else Path(file.rpartition(MEMBER)[2]).stem for file in files]
    often = Counter(stem.casefold() for stem in stems)
    taken: set[str] = set()
    given = []
    for file, stem in zip(files, stems, strict=True):
        base = stem if often[stem.casefold()] == 1 else Path(file.rpartition(MEMBER)[2]).name
        name, number = f"{base}.{kind}", 1
        while name.casefold() in taken:  # some file systems take a.srt and A.srt for one
            number += 1
            name = f"{base}-{number}.{kind}"
        taken.add(name.casefold())
        given.append(name)
    return given


def _check(paths: Sequence[Path], files: Sequence[str], overwrite: bool) -> None:
    for path in paths:
        if not path.exists():
            continue
        if any(os.path.exists(file) and os.path.samefile(path, file) for file in files):
            raise CommandError(f"{path}: is a recording to be heard, expected another name for --out", USAGE)
        if path.is_dir():
            raise CommandError(f"{path}: a folder, expected a file", USAGE)
        if not overwrite and path.is_file():  # /dev/null and pipes lose nothing
            raise CommandError(f"{path}: is there already; --force overwrites it")


def _make_folders(paths: Sequence[Path]) -> None:
    for folder in {path.parent for path in paths}:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CommandError(f"--out {folder}: no folder can be made there ({error.strerror})") from None
