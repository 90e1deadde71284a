"""What another model's encoder makes of the corpus, for a model that learns to say it too.

A label says what was spoken somewhere in an utterance; a teacher's frame says something about every 80 ms. Targets are
computed once: `python -m models.training.teacher MANIFEST... --encoder ENCODER.onnx --out FOLDER`. The encoder is any
that ONNX Runtime opens and that takes 16 kHz samples (1, n) and gives frames (1, T, dims), T in proportion to n.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.config import HOP, SAMPLE_RATE, SUBSAMPLING
from models.training import cache
from models.training.manifest import Line, digest, read
from models.transducer import Model

PIECE = 32  # utterances that a worker handles between two messages
FRAME = HOP * SUBSAMPLING  # samples
SHORTEST = SAMPLE_RATE // 10  # samples; shorter ones are padded
HEAD = "teacher_head"  # of a model in training; what is released has none
SAMPLED = 20_000  # frames that say how targets are distributed


def build(manifest: Path, encoder: Path, out: Path, workers: int = 2) -> Path:
    """Targets of one manifest unless they are there, frames of 80 ms as the teacher hears them; returns the index.

    Raises ValueError for targets of another manifest or teacher.
    """
    index = out / f"{manifest.stem}.jsonl"
    about = {"manifest": digest(manifest), "encoder": digest(encoder)}
    if index.exists():
        if _read(index)[0] != about:
            raise ValueError(f"{index}: got targets of another manifest or teacher, expected a folder of their own")
        return index
    out.mkdir(parents=True, exist_ok=True)
    lines = read(manifest)
    jobs = [(lines[at : at + PIECE], manifest.parent, encoder) for at in range(0, len(lines), PIECE)]
    partial = index.with_suffix(".part")
    with (
        get_context("spawn").Pool(workers) as pool,
        (out / f"{manifest.stem}.f16").open("wb") as flat,
        partial.open("w") as listed,
    ):
        listed.write(json.dumps(about) + "\n")
        for heard in pool.imap(_piece, jobs):
            for frames in heard:
                listed.write(json.dumps(len(frames)) + "\n")
                flat.write(frames.tobytes())
    os.replace(partial, index)
    return index


def _read(index: Path) -> tuple[dict[str, Any], list[int]]:
    """What the targets are of, and how many frames each utterance has."""
    about, *counts = (json.loads(line) for line in index.read_text("utf-8").splitlines())
    return about, counts


def _piece(job: tuple[list[Line], Path, Path]) -> list[np.ndarray]:
    lines, root, encoder = job
    return [_heard(encoder, audio) for audio in cache.read_all(lines, root)]


_sessions: dict[Path, onnxruntime.InferenceSession] = {}


def _heard(encoder: Path, audio: np.ndarray) -> np.ndarray:
    """[frames of 80 ms, dims] float16 of 16 kHz samples."""
    if encoder not in _sessions:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        _sessions[encoder] = onnxruntime.InferenceSession(str(encoder), options, ["CPUExecutionProvider"])
    session = _sessions[encoder]
    padded = np.pad(audio, (0, max(0, SHORTEST - len(audio)))).astype(np.float32)
    frames = session.run(None, {session.get_inputs()[0].name: padded[None]})[0][0]
    count = -(-len(audio) // FRAME)
    fine = 8  # places in an 80 ms frame at which the teacher's are read
    places = (np.arange(count * fine) + 0.5) * (FRAME / fine) * (len(frames) / len(padded)) - 0.5
    return between(frames, places).reshape(count, fine, -1).mean(1).astype(np.float16)


def between(frames: np.ndarray, places: np.ndarray) -> np.ndarray:
    """[n, dims]: frames [T, dims] at broken places [n], linear between two, the outermost beyond them."""
    places = np.clip(places, 0, len(frames) - 1)
    before = np.minimum(places.astype(np.int64), max(0, len(frames) - 2))
    share = (places - before)[:, None].astype(np.float32)
    after = np.minimum(before + 1, len(frames) - 1)
    read: np.ndarray = frames[before] * (1 - share) + frames[after] * share
    return read


@dataclass(frozen=True, slots=True)
class Part:
    """The targets of one manifest's utterances."""

    frames: np.ndarray  # [total, dims] float16
    counts: list[int]
    offsets: list[int]


class Teacher:
    """Targets of some cached manifests, by part and row, standardised in every dimension."""

    def __init__(self, folder: Path, names: Sequence[str], delay: int) -> None:
        self.parts = [_load(folder, name) for name in names]
        self.delay = delay
        total = sum(len(part.frames) for part in self.parts)
        step = max(1, total // SAMPLED)
        sample = np.concatenate([part.frames[::step] for part in self.parts]).astype(np.float32)
        self.mean, self.deviation = sample.mean(0), sample.std(0) + 1e-5

    @property
    def dims(self) -> int:
        return len(self.mean)

    def frames(self, part: int, row: int, count: int, mel_frames: int) -> np.ndarray:
        """[count, dims] float32 for the encoder frames of an utterance of so many mel frames, at whatever tempo it is.

        Encoder frame t ends with mel frame 8t, so the 80 ms before it are the teacher's frame t - 1; `delay` frames
        earlier ones leave the model some time to hear what comes next.
        """
        source = self.parts[part]
        first = source.offsets[row]
        frames = source.frames[first : first + source.counts[row]]
        tempo = len(frames) * SUBSAMPLING / mel_frames
        places = (np.arange(count) - 0.5 - self.delay) * tempo - 0.5
        return (between(frames, places) - self.mean) / self.deviation


def _load(folder: Path, name: str) -> Part:
    """A version of a manifest has the manifest's own targets: its recordings before they were disturbed."""
    index = folder / f"{name}.jsonl"
    if not index.exists():
        index = folder / f"{re.sub('_v[0-9]+$', '', name)}.jsonl"
    if not index.exists():
        raise ValueError(f"settings.teacher: got no {index}, expected targets of {name} (models/training/teacher.py)")
    counts = _read(index)[1]
    flat = np.memmap(index.with_suffix(".f16"), np.float16, "r")
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64).tolist()
    if not offsets[-1] or flat.size % offsets[-1]:
        raise ValueError(f"teacher {index}: got {flat.size} numbers, expected a multiple of {offsets[-1]} frames")
    return Part(flat.reshape(offsets[-1], -1), counts, offsets)


def add_head(model: Model, dims: int) -> None:
    """Gives a model in training the layer that says what the teacher would."""
    model.add_module(HEAD, nn.Linear(model.config.d_model, dims))


def layer_of(model: Model) -> nn.Module:
    """The encoder layer that learns it: three quarters up, so that the rest is free for the labels."""
    return model.encoder.layers[3 * len(model.encoder.layers) // 4]


def loss(model: Model, hidden: Tensor, frames: Tensor, taught: Tensor) -> Tensor:
    """Mean squared error over the dims of `taught`, summed over the frames [B, T, D] before each row's count (B,)."""
    said = getattr(model, HEAD)(hidden).float()
    live = torch.arange(said.shape[1], device=said.device) < frames[:, None]
    return (F.mse_loss(said, taught[:, : said.shape[1]], reduction="none").mean(-1) * live).sum()


def _manifests(paths: list[Path]) -> Iterator[Path]:
    for path in paths:
        if not path.is_file():
            raise ValueError(f"{path}: got no such file, expected a manifest")
        yield path


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="compute a teacher's targets for manifests")
    parser.add_argument("manifests", type=Path, nargs="+", metavar="manifest.jsonl")
    parser.add_argument("--encoder", type=Path, required=True, help="ONNX model: 16 kHz samples to frames")
    parser.add_argument("--out", type=Path, required=True, help="folder of targets, `teacher` in a run's settings")
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread (default: 2)")
    args = parser.parse_args(argv)
    try:
        for manifest in _manifests(args.manifests):
            print(build(manifest, args.encoder, args.out, args.workers), flush=True)
    except (ValueError, OSError) as error:
        print(f"teacher: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
