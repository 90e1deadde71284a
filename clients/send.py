"""A recording through the daemon: read from disk, sent at the pace of speech or as fast as it goes.

Knows nothing of how events are shown.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from clients.client import Client
from streamer.protocols.events import CHANNELS, SAMPLE_RATES

PIECE_S = 0.08  # seconds of audio in a message
PIECE_BYTES = 4096  # of a file that is sent as it is


class NotAudio(Exception):
    """A file cannot be sent; the text says why."""


@dataclass(frozen=True, slots=True)
class Recording:
    """Interleaved little-endian float32 frames as the wire carries them."""

    pcm: NDArray[np.float32]  # (frames, channels)
    rate: int

    encoding = "pcm_f32le"

    @property
    def channels(self) -> int:
        return int(self.pcm.shape[1])

    @property
    def seconds(self) -> float:
        return len(self.pcm) / self.rate

    def pieces(self, seconds: float = PIECE_S) -> list[bytes]:
        """The recording cut into messages."""
        step = max(1, round(seconds * self.rate))
        return [self.pcm[at : at + step].astype("<f4").tobytes() for at in range(0, len(self.pcm), step)]


@dataclass(frozen=True, slots=True)
class Encoded:
    """A file's own bytes: the daemon decodes them, and finds out rate and channels."""

    path: Path
    channels: int | None  # where libsndfile can tell

    encoding = "auto"
    rate = None
    seconds = 0.0  # it goes as fast as it is taken

    def pieces(self) -> Iterator[bytes]:
        """The file cut into messages, read as they are sent."""
        with self.path.open("rb") as file:
            while piece := file.read(PIECE_BYTES):
                yield piece


def read_encoded(path: str | Path) -> Encoded:
    """A file to be sent as it is, whatever it holds."""
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        raise NotAudio(f"{path}: {(error.strerror or str(error)).lower()}") from None
    channels = None
    with contextlib.suppress(soundfile.LibsndfileError, TypeError):
        channels = soundfile.info(path).channels
    return Encoded(Path(path), channels)


def read(path: str | Path) -> Recording:
    """Any file that libsndfile reads. Rates and channels that the wire has no room for are converted here."""
    try:
        pcm, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError, TypeError) as error:  # TypeError: *.raw, which says nothing of itself
        reason = (getattr(error, "error_string", "") or getattr(error, "strerror", "") or str(error)).rstrip(".")
        known = "no such file" if not Path(path).exists() else f"not audio that libsndfile reads ({reason})"
        raise NotAudio(f"{path}: {known}") from None
    if pcm.shape[1] > CHANNELS[1]:
        pcm = pcm.mean(axis=1, keepdims=True, dtype=np.float32)
    lowest, highest = SAMPLE_RATES
    if not lowest <= rate <= highest:
        pcm, rate = soxr.resample(pcm, rate, 16000), 16000
    return Recording(pcm, rate)


async def send(client: Client, recording: Recording | Encoded, fast: bool = False) -> None:
    """All of the recording, then close. At real time each piece goes out when its last sample would have been spoken;
    what is sent as it is goes as fast as it is taken.

    Whoever reads the client's events learns of a failure here too: the connection goes with it.
    """
    try:
        await _send(client, recording, fast)
    except BaseException:
        await client.abort()
        raise


async def _send(client: Client, recording: Recording | Encoded, fast: bool) -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    pieces: Iterable[bytes] = recording.pieces()
    for number, piece in enumerate(pieces, 1):
        if not fast:
            await asyncio.sleep(max(0.0, began + min(number * PIECE_S, recording.seconds) - loop.time()))
        await client.send(piece)
    await client.close()
