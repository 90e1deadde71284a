"""One codec of PyAV: packets in, samples out, and what counts as damage among them. Knows no container."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import av
import av.error
import numpy as np

from streamer.codecs.complaints import Complaints
from streamer.codecs.piece import Broken, Source, plain

if TYPE_CHECKING:
    from av.audio.codeccontext import AudioCodecContext
    from av.audio.frame import AudioFrame
    from av.packet import Packet

    from streamer.codecs.piece import Samples

    AudioPacket = Packet[Any]

DECODERS = (  # PyAV's names; no other decoder is ever opened
    *("opus", "libopus", "vorbis", "libvorbis", "flac", "mp3", "mp3float", "aac", "alac"),
    *("pcm_u8", "pcm_s16le", "pcm_s16be", "pcm_s24le", "pcm_s32le", "pcm_f32le", "pcm_f64le", "pcm_alaw", "pcm_mulaw"),
    *("adpcm_ms", "adpcm_ima_wav", "gsm_ms"),
)
KNOWN = "Opus, Vorbis, FLAC, MP3, AAC or PCM"
# What a decoder checks if it is told to: the sums over a FLAC frame, for one.
STRICT = {"err_detect": "crccheck+bitstream+buffer+explode"}

_FULL = {"u8": 128.0, "s16": 32768.0, "s32": 2147483648.0, "flt": 1.0, "dbl": 1.0}  # full scale by sample format


class Sound:
    """Decodes packet by packet. A packet that fails is damage as soon as sound follows it, or `tolerated` bytes do:
    what is cut off at the end (a recorder was switched off) is none.
    """

    def __init__(
        self, context: AudioCodecContext, source: Source, *, tolerated: int = 4096, starts_anywhere: bool = False
    ) -> None:
        self._context, self._source, self._tolerated = context, source, tolerated
        self._starts_anywhere = starts_anywhere  # junk before the first sound is none of the stream's
        self._failed: Broken | None = None
        self._failed_end = 0
        self._heard = False
        self._complaints = Complaints()

    def decode(self, packet: AudioPacket | None, at_byte: int) -> Iterator[tuple[Samples, int]]:
        """(samples, rate) of a packet that begins at this byte; None at the end. Raises Broken."""
        try:
            with self._complaints:
                frames = self._context.decode(packet)
        except (av.error.FFmpegError, MemoryError) as error:
            frames = []
            if self._failed is None:
                name = self._context.name
                got = self._complaints.first(name) or reason(error)
                self._failed = Broken(plain(got), f"a packet of {name}", at_byte)
                self._failed_end = at_byte + (packet.size if packet is not None else 0)
        if self._failed is not None:
            self._judge(bool(frames), at_byte)
        for frame in frames:
            self._heard = True
            yield _samples(frame), frame.sample_rate

    def end(self) -> Iterator[tuple[Samples, int]]:
        """What a decoder still holds; raises Broken if much came behind a packet that failed."""
        if self._failed is not None:
            self._judge(False, self._source.at)
        yield from self.decode(None, self._source.at)

    def _judge(self, sound: bool, at_byte: int) -> None:
        assert self._failed is not None
        if at_byte - self._failed_end > self._tolerated or (sound and (self._heard or not self._starts_anywhere)):
            raise self._failed
        if sound:
            self._failed = None


def opened(name: str) -> AudioCodecContext:
    """A decoder of one thread that checks what it can."""
    context = av.CodecContext.create(name, "r")
    assert isinstance(context, av.AudioCodecContext)
    context.options, context.thread_count = STRICT, 1
    return context


def check_decoder(context: AudioCodecContext | None, at_byte: int) -> None:
    """Refuse what is no codec for sound of ours; PyAV has no context where it knows no decoder."""
    if context is None or context.name not in DECODERS:
        name = "something unknown" if context is None else plain(context.name)
        raise Broken(f"audio coded as {name}", KNOWN, at_byte)


def reason(error: BaseException) -> str:
    """An error of PyAV in words."""
    if isinstance(error, MemoryError):
        return "a wish for more memory than there is"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _samples(frame: AudioFrame) -> Samples:
    """(n, channels) float32, whatever the decoder's format."""
    full, channels = _FULL[frame.format.packed.name], len(frame.layout.channels)
    values = frame.to_ndarray()
    values = values.T if frame.format.is_planar else values.reshape(-1, channels)
    if full == 128.0:
        values = values.astype(np.float32) - np.float32(128)
    scaled = values if full == 1.0 else values / full
    return np.ascontiguousarray(scaled, np.float32)
