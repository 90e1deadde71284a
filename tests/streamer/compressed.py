"""Recordings in every container and codec, made with PyAV, and readers that give bytes in small cuts."""

from __future__ import annotations

import functools
import io
import struct
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile

from streamer.codecs import Damaged, pieces

Samples = npt.NDArray[np.float32]
FRAGMENTS = {"movflags": "frag_keyframe+empty_moov+default_base_moof", "frag_duration": "100000"}


class Cuts:
    """A file that gives at most `size` bytes at once; `at` says how many it has given."""

    def __init__(self, data: bytes, size: int = 1 << 30) -> None:
        self.data, self.size, self.at = data, size, 0

    def read(self, size: int) -> bytes:
        out = self.data[self.at : self.at + min(size, self.size)]
        self.at += len(out)
        return out


def voice(seconds: float, rate: int, channels: int = 1) -> Samples:
    """(n, channels): tones, a sweep and some noise, each channel softer than the one before."""
    t = np.arange(int(seconds * rate)) / rate
    noise = np.random.default_rng(1).standard_normal(t.size)
    mono = 0.4 * np.sin(2 * np.pi * 440 * t) + 0.1 * np.sin(2 * np.pi * (300 + 500 * t) * t) + 0.02 * noise
    return np.stack([mono * (1 - 0.3 * channel) for channel in range(channels)], axis=1).astype(np.float32)


def encode(container: str, codec: str, samples: Samples, rate: int, options: dict[str, str] | None = None) -> bytes:
    """The samples as a file of this container."""
    import av

    kinds = {"libopus": "flt", "vorbis": "fltp", "flac": "s16", "libmp3lame": "fltp", "aac": "fltp", "ac3": "fltp"}
    layout, kind = {1: "mono", 2: "stereo", 6: "5.1"}[samples.shape[1]], kinds.get(codec, "s16")
    with tempfile.NamedTemporaryFile() as out, av.open(out.name, "w", format=container, options=options or {}) as file:
        stream: Any = file.add_stream(codec, rate=rate)
        stream.layout, stream.format = layout, kind
        if codec == "vorbis":  # FFmpeg's own encoder calls itself experimental
            stream.codec_context.options = {"strict": "-2"}
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples.reshape(1, -1)), "flt", layout)
        frame.sample_rate, frame.pts = rate, 0
        fifo = av.AudioFifo()
        resampler = av.AudioResampler(kind, layout, rate)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            fifo.write(part)
        while (part := fifo.read(stream.codec_context.frame_size or 960, partial=True)) is not None:
            file.mux(stream.encode(part))
        file.mux(stream.encode(None))
        file.close()
        return Path(out.name).read_bytes()


def wav(samples: Samples, rate: int, subtype: str = "PCM_16") -> bytes:
    """The samples as a WAV file of libsndfile."""
    out = io.BytesIO()
    soundfile.write(out, samples, rate, subtype, format="WAV")
    return out.getvalue()


def wav_header(tag: int, channels: int, rate: int, bits: int, size: int, riff: int = 0xFFFFFFFF) -> bytes:
    """RIFF, fmt and the head of data."""
    block = channels * bits // 8
    form = struct.pack("<HHIIHH", tag, channels, rate, rate * block, block, bits)
    return (
        b"RIFF"
        + struct.pack("<I", riff)
        + b"WAVEfmt "
        + struct.pack("<I", 16)
        + form
        + b"data"
        + struct.pack("<I", size)
    )


@functools.cache
def recordings(seconds: float = 1.5) -> dict[str, tuple[str, bytes]]:
    """Name to (container, bytes): every codec in every container that we take."""
    made = {
        "webm opus": ("webm", "libopus", 48000, 1, {"cluster_time_limit": "200", "live": "1"}),
        "webm opus stereo": ("webm", "libopus", 48000, 2, None),
        "webm vorbis": ("webm", "vorbis", 16000, 2, None),
        "ogg opus": ("ogg", "libopus", 48000, 1, {"page_duration": "20000"}),
        "ogg vorbis": ("ogg", "vorbis", 22050, 2, None),
        "ogg flac": ("ogg", "flac", 16000, 1, None),
        "flac": ("flac", "flac", 44100, 2, None),
        "mp3": ("mp3", "libmp3lame", 44100, 1, None),
        "mp3 stereo": ("mp3", "libmp3lame", 16000, 2, {"write_xing": "0"}),
        "mp4 aac": ("mp4", "aac", 44100, 1, FRAGMENTS),
        "mp4 opus": ("mp4", "libopus", 48000, 1, FRAGMENTS),
        "mp4 indexed": ("mp4", "aac", 16000, 2, {"movflags": "faststart"}),
    }
    files = {
        name: (container, encode(container, codec, voice(seconds, rate, n), rate, options))
        for name, (container, codec, rate, n, options) in made.items()
    }
    for subtype in ("PCM_16", "PCM_24", "FLOAT", "ULAW", "MS_ADPCM"):
        files[f"wav {subtype}"] = ("wav", wav(voice(seconds, 16000), 16000, subtype))
    return files


def decoded(data: bytes, container: str | None = None, size: int = 1 << 30) -> tuple[Samples, Damaged | None]:
    """(n, channels) of all pieces, and how the stream was damaged; `size` bytes are given at once."""
    parts: list[Samples] = []
    try:
        for piece in pieces(Cuts(data, size), container):
            parts.append(piece.samples)
    except Damaged as damaged:
        return joined(parts), damaged
    return joined(parts), None


def joined(parts: Iterable[Samples]) -> Samples:
    """Pieces of one stream as one array; (0, 1) if there are none."""
    listed = list(parts)
    return np.concatenate(listed) if listed else np.zeros((0, 1), np.float32)


def cut(data: bytes, size: int) -> Iterator[bytes]:
    """The bytes in messages of this size."""
    return (data[at : at + size] for at in range(0, len(data), size))
