"""What the streams of a load say, and the words they have to come back with: those that `streamer transcribe` has.

Recordings become 16-bit samples at 16 kHz once, so that the daemon and the offline run hear the same numbers.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from streamer.commands import DEFAULT_BACKEND, TAIL_MS, CommandError
from streamer.commands.demo import SAMPLE

if TYPE_CHECKING:
    from streamer.bench.order import Speech
    from streamer.commands.listening import Listener, Transcript

FULL_SCALE = 32768  # the daemon divides by it

Samples = NDArray[np.int16]  # [n] at 16 kHz


@dataclass(frozen=True, slots=True)
class References:
    """All recordings behind each other, and of each its words."""

    model: str
    latency_ms: int
    audio: Samples
    speeches: tuple[Speech, ...]
    words: list[list[str]]


def parted(words: list[str]) -> tuple[list[str], list[str]]:
    """The files and the daemon's options, which have a `=`."""
    options = [word for word in words if "=" in word and not Path(word).exists()]
    return [word for word in words if word not in options], options


def recordings(files: list[str], manifest: Path | None = None, limit: int | None = None) -> dict[str, Samples]:
    """The files and those that the manifest lists, by name; the recording that ships where there are none."""
    from streamer.recordings import Recordings
    from streamer.recordings import manifest as lines_of

    if not files and manifest is None:
        files = [str(Path(__file__).resolve().parents[2] / SAMPLE)]
    plain, listed = Recordings(), Recordings(manifest.parent if manifest else Path())
    try:
        found = {file: plain.read(file) for file in files}
        for entry in islice(lines_of(manifest) if manifest else (), limit):
            found[entry.audio_filepath] = listed.read(entry.audio_filepath, entry.part)
    finally:
        listed.close()
        plain.close()
    return {name: np.clip(np.rint(pcm * FULL_SCALE), -32768, 32767).astype(np.int16) for name, pcm in found.items()}


def joined(spoken: dict[str, Samples], seconds: float) -> dict[str, Samples]:
    """Recordings behind each other until there are so many seconds: streams longer than what there is to say."""
    from models.config import SAMPLE_RATE

    found: dict[str, Samples] = {}
    names: list[str] = []
    for name in spoken:
        names.append(name)
        if sum(len(spoken[one]) for one in names) >= seconds * SAMPLE_RATE or name == next(reversed(spoken)):
            found[", ".join(names)] = np.concatenate([spoken[one] for one in names])
            names = []
    return found


def references(
    spoken: dict[str, Samples], model: str, backend: str | None, latency_ms: int | None, cut_at: int = 0
) -> References:
    """The words of each; the latency is the model's own where none is asked for. `cut_at`: samples of a message, where
    streams will be cut."""
    from streamer.bench.order import Speech
    from streamer.commands.listening import open_listener

    args = argparse.Namespace(
        model=model,
        backend=backend or DEFAULT_BACKEND,
        precision="fp32",
        latency=None if latency_ms is None else str(latency_ms),
        language=None,
        threads=None,
    )
    listener = open_listener(args, TAIL_MS)
    try:
        heard = _heard(listener, spoken)
        quiet = _quiet(listener, spoken, heard, cut_at) if cut_at else {}
    finally:
        listener.close()
    assert listener.latency_ms is not None, "latency: got none, expected a streaming model's"
    speeches, begin = [], 0
    for name, pcm in spoken.items():
        speeches.append(Speech(begin=begin, samples=len(pcm), quiet=tuple(quiet.get(name, ()))))
        begin += len(pcm)
    words = [transcript.text.split() for transcript in heard.values()]
    return References(
        listener.config.name, listener.latency_ms, np.concatenate(list(spoken.values())), tuple(speeches), words
    )


def _heard(listener: Listener, spoken: dict[str, Samples]) -> dict[str, Transcript]:
    """What each says, in the same order."""
    names, found = list(spoken), {}
    for one in listener.hear(_float(spoken.values())):
        if one.error is not None:
            raise CommandError(f"{names[one.index]}: {one.error}")
        found[names[one.index]] = one
    return {name: found[name] for name in names}


def _float(pcm: Iterable[Samples]) -> Iterable[NDArray[np.float32]]:
    return (one.astype(np.float32) / np.float32(FULL_SCALE) for one in pcm)


def _quiet(
    listener: Listener, spoken: dict[str, Samples], heard: dict[str, Transcript], size: int
) -> dict[str, list[int]]:
    """Places in pauses, in messages of `size` samples, where the audio so far says just what it says in the whole.

    What follows a pause may change what a model makes of the sound before it; there a finalize rightly says something
    else than the whole recording does, and nothing could be told from a difference.
    """
    from models.config import SAMPLE_RATE
    from streamer.bench.mishaps import quiet_places

    assert listener.latency_ms is not None
    tries = []
    for name, transcript in heard.items():
        spans = [(word.start_s, word.end_s) for word in transcript.words]
        times = (transcript.duration_s, listener.latency_ms / 1000, size / SAMPLE_RATE)
        tries += [(name, place) for place in quiet_places(spans, *times)]
    found: dict[str, list[int]] = {}
    for one in listener.hear(_float(spoken[name][: place * size] for name, place in tries)):
        name, place = tries[one.index]
        before = [word.text for word in heard[name].words if word.end_s <= place * size / SAMPLE_RATE]
        if one.error is None and one.text.split() == before:
            found.setdefault(name, []).append(place)
    return {name: sorted(places) for name, places in found.items()}
