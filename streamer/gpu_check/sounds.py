"""Speech for the check: the recordings of tests/recordings, and cuts of them. Knows nothing of models."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.config import SAMPLE_RATE
from streamer.recordings import Entry, Recordings, manifest

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "tests" / "recordings"
GOLDEN = ROOT / "tests" / "golden"

Pcm = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Said:
    """One recording with its reference."""

    entry: Entry
    pcm: Pcm


@cache
def recordings(most: int) -> tuple[Said, ...]:
    """The first `most`; of them all, every source has its share."""
    reader = Recordings(FOLDER)
    try:
        entries = list(manifest(FOLDER / "speech.jsonl"))
        return tuple(Said(entry, reader.read(entry.audio_filepath)) for entry in islice(entries, most))
    finally:
        reader.close()


@cache
def speech(most: int) -> Pcm:
    """One after the other, with pauses as people make them."""
    pause = np.zeros(SAMPLE_RATE // 2, np.float32)
    return np.concatenate([part for said in recordings(most) for part in (said.pcm, pause)])


def cut(audio: Pcm, at: int, samples: int) -> Pcm:
    """`samples` of the audio from `at` on, as if it went round for ever; a view where it can be."""
    at %= len(audio)
    if at + samples <= len(audio):
        return audio[at : at + samples]
    return np.take(audio, np.arange(at, at + samples), mode="wrap")


def clips() -> dict[str, Pcm]:
    """The golden clips."""
    reader = Recordings(GOLDEN / "clips")
    return {path.stem: reader.read(path.name) for path in sorted((GOLDEN / "clips").glob("*.wav"))}
