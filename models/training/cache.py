"""The feature cache: log-mels of a corpus computed once, one flat float16 file and one index per manifest.

A version of a manifest is the same utterances as they would sound elsewhere (models.training.acoustics), under a name
of its own. The index's first line says what was computed of which manifest; caches made before it was there have none.
"""

from __future__ import annotations

import argparse
import functools
import io
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr

from models.config import HOP, SAMPLE_RATE
from models.features_np import StreamingFeatures
from models.training.acoustics import Acoustics, heard_elsewhere
from models.training.manifest import Archives, Line, digest, read

PIECE = 64  # utterances that a worker handles between two messages


@dataclass(frozen=True, slots=True)
class Item:
    """One utterance of the cache: where its frames lie, and what is said."""

    offset: int  # frames before it in the flat file
    frames: int  # 10 ms each
    text: str
    source: str
    path: str
    language: str | None = None


def read_all(lines: list[Line], root: Path) -> Iterator[np.ndarray]:
    """16 kHz mono float32 samples of each line, every archive opened once."""
    with Archives(root) as archives:
        for line in lines:
            with archives.open(line.audio) as file:
                yield _decode(file, line.offset_s, line.duration_s if line.offset_s else None)


def _decode(file: io.BufferedIOBase | Path, offset_s: float = 0.0, duration_s: float | None = None) -> np.ndarray:
    """A recording, or the part of it that begins at `offset_s`: durations of whole recordings are often rounded."""
    with soundfile.SoundFile(file) as sound:
        rate = sound.samplerate
        sound.seek(round(offset_s * rate))
        audio = sound.read(-1 if duration_s is None else round(duration_s * rate), "float32", always_2d=True)
    mono: np.ndarray = audio.mean(axis=1)
    return mono if rate == SAMPLE_RATE else soxr.resample(mono, rate, SAMPLE_RATE).astype(np.float32)


@dataclass(frozen=True, slots=True)
class _Job:
    """Some lines of a manifest for a worker."""

    lines: list[Line]
    root: Path
    mels: int
    seed: list[int] | None  # of a version
    noise: Path | None


def _piece(job: _Job) -> list[np.ndarray]:
    features = StreamingFeatures(job.mels)
    audios = list(read_all(job.lines, job.root))
    if job.seed is not None:
        rng, noises = np.random.default_rng(job.seed), _noises(job.noise)
        audios = [heard_elsewhere(audio, rng, audios, noises, Acoustics()) for audio in audios]
    return [features.log_mel(audio).astype(np.float16) for audio in audios]


@functools.cache
def _noises(folder: Path | None) -> tuple[np.ndarray, ...]:
    """The recordings in a folder, in the order of their names."""
    return () if folder is None else tuple(_decode(path) for path in sorted(folder.iterdir()) if path.is_file())


def name_of(manifest: Path, version: int = 0) -> str:
    """What a manifest, or a version of it, is called in the cache."""
    return f"{manifest.stem}_v{version}" if version else manifest.stem


def is_built(manifest: Path, folder: Path, version: int = 0) -> bool:
    """Whether there is an index of that name; `build` says when it is of another manifest."""
    return _index(folder, name_of(manifest, version)).exists()


def build(
    manifest: Path, folder: Path, mels: int = 80, workers: int = 2, version: int = 0, noise: Path | None = None
) -> Path:
    """Compute the cache of one manifest unless it is there; returns the index, which appears last, so it is whole.

    `version` 0 is the recordings as they are; others are called NAME_v1, NAME_v2, ... `noise` is a folder of recorded
    noise for them. Raises ValueError for a cache of other features or of another manifest of this name.
    """
    name = name_of(manifest, version)
    index, about = _index(folder, name), {"mels": mels, "manifest": digest(manifest)}
    if index.exists():
        _check(index, _read(index)[0], about)
        return index
    folder.mkdir(parents=True, exist_ok=True)
    lines = read(manifest)
    jobs = [
        _Job(lines[i : i + PIECE], manifest.parent, mels, [version, i] if version else None, noise)
        for i in range(0, len(lines), PIECE)
    ]
    offset = 0
    partial = index.with_suffix(".part")
    with (
        get_context("spawn").Pool(workers) as pool,
        (folder / f"{name}.f16").open("wb") as flat,
        partial.open("w") as out,
    ):
        out.write(json.dumps(about) + "\n")
        for job, arrays in zip(jobs, pool.imap(_piece, jobs), strict=True):
            for line, mel in zip(job.lines, arrays, strict=True):
                item = Item(offset, len(mel), line.text, line.source, line.audio, line.language)
                out.write(json.dumps(asdict(item)) + "\n")
                flat.write(mel.tobytes())
                offset += len(mel)
    os.replace(partial, index)
    print(f"{name}: {len(lines)} utterances, {offset * HOP / SAMPLE_RATE / 3600:.2f} h", flush=True)
    return index


def load(folder: Path, name: str, mels: int = 80) -> tuple[np.ndarray, list[Item]]:
    """The memory-mapped frames [total, mels] float16 of manifest `name`, and its items."""
    index = _index(folder, name)
    about, items = _read(index)
    _check(index, about, {"mels": mels})
    flat = folder / f"{name}.f16"
    total = items[-1].offset + items[-1].frames if items else 0
    if flat.stat().st_size != (expected := total * mels * np.dtype(np.float16).itemsize):
        raise ValueError(f"cache {flat}: got {flat.stat().st_size} bytes, expected {expected} of {mels} mels")
    return np.memmap(flat, np.float16, "r").reshape(-1, mels), items


def _index(folder: Path, name: str) -> Path:
    return folder / f"{name}.jsonl"


def _read(index: Path) -> tuple[dict[str, Any], list[Item]]:
    """What the cache says of itself, which may be nothing, and its items."""
    lines = [json.loads(line) for line in index.read_text("utf-8").splitlines()]
    about = lines.pop(0) if lines and "offset" not in lines[0] else {}
    try:
        return about, [Item(**line) for line in lines]
    except TypeError:
        raise ValueError(
            f"cache {index}: got another file, expected an index; has the cache a folder of its own?"
        ) from None


def _check(index: Path, found: dict[str, Any], expected: dict[str, Any]) -> None:
    for key, value in expected.items():
        if (got := found.get(key, value)) != value:
            raise ValueError(f"cache {index}: got {key}={got}, expected {value}; without the file it is made anew")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="compute the feature cache of manifests")
    parser.add_argument("manifests", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="folder of the cache")
    parser.add_argument("--mels", type=int, default=80)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--versions", type=int, default=0, help="so many more, as heard elsewhere: NAME_v1, ...")
    parser.add_argument("--noise", type=Path, help="folder of recorded noise for the versions")
    args = parser.parse_args(argv)
    try:
        for version in range(args.versions + 1):
            for manifest in args.manifests:
                build(manifest, args.out, args.mels, args.workers, version, args.noise)
    except (ValueError, OSError) as error:
        print(f"cache: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
