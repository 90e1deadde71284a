"""MP3 as it comes, begun anywhere: a demuxer would wait for two seconds of it. Knows nothing of what is heard."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from streamer.codecs.id3 import skip_id3
from streamer.codecs.piece import Source
from streamer.codecs.sound import Sound, opened

if TYPE_CHECKING:
    from av.audio.codeccontext import AudioCodecContext

    from streamer.codecs.piece import Samples
    from streamer.codecs.sound import AudioPacket

READ_BYTES = 1 << 14
TAGS = (b"TAG", b"ID3")  # at the end, and where files were put one behind the other
JUNK_BYTES = 1 << 16  # before the first sound and behind the last: tags
INFO_WITHIN = 48  # bytes of its frame: header, checksum, side information
DECODER_DELAY = 529  # samples; the encoder's own delay is in the information frame (LAME's tag, revision 1)


def read_mp3(source: Source) -> Iterator[tuple[Samples, int]]:
    """(samples, rate) frame by frame; raises Broken."""
    skip_id3(source)
    context = opened("mp3float")
    sound = Sound(context, source, tolerated=JUNK_BYTES, starts_anywhere=True)
    skip = 0  # samples that the encoder put before the first
    at = source.at
    heard = False
    for packet in _packets(context, source):
        data = bytes(packet)
        if not heard and (info := _information(data)) is not None:
            skip = info
        elif data[:3] not in TAGS:
            for samples, rate in sound.decode(packet, at):
                heard = True
                if samples.shape[0] > skip:
                    yield samples[skip:], rate
                skip = max(0, skip - samples.shape[0])
        at += packet.size
    yield from sound.end()


def _packets(context: AudioCodecContext, source: Source) -> Iterator[AudioPacket]:
    while data := source.read(READ_BYTES):
        yield from context.parse(data)
    yield from context.parse(None)


def _information(frame: bytes) -> int | None:
    """Samples to leave out if this frame holds no sound but what an encoder says of the file, else None."""
    head = frame[:INFO_WITHIN]
    at = max(head.find(b"Xing"), head.find(b"Info"))
    if at < 0:
        return 0 if b"VBRI" in head else None
    flags = int.from_bytes(frame[at + 4 : at + 8], "big")
    tag = at + 8 + 4 * (flags & 1) + 4 * (flags >> 1 & 1) + 100 * (flags >> 2 & 1) + 4 * (flags >> 3 & 1)
    delay = frame[tag + 21 : tag + 24]
    return (delay[0] << 4 | delay[1] >> 4) + DECODER_DELAY if len(delay) == 3 and any(frame[tag : tag + 4]) else 0
