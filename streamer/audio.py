"""Wire PCM of any rate to 16 kHz float32, mixed or channel by channel; owns the resamplers' state.

Knows nothing of sessions, models or words.

Cutting the bytes anywhere changes nothing, bit for bit: odd bytes are carried over, mixing is elementwise, and soxr's
float32 stream gives the same samples for any chunking.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, NoReturn

import numpy as np
import soxr

from streamer.encodings import FLOATS, WIDTHS, decode, first_wrong
from streamer.errors import Refusal

if TYPE_CHECKING:
    import numpy.typing as npt

    Samples = npt.NDArray[np.float32]

RATE = 16_000  # hertz, what models hear
CHANGES = 8  # of a decoded stream's rate or channels, and one more for each second
RATES = (8000, 192_000)  # hertz, of what a decoder gives
Marks = dict[str, tuple[tuple[int, bytes], ...]]  # name -> (offset, bytes) that begin it
MAGIC: Marks = {  # containers; never a stream of samples
    "wav": ((0, b"RIFF"), (8, b"WAVE")),
    "webm": ((0, b"\x1a\x45\xdf\xa3"),),
    "flac": ((0, b"fLaC"),),
    "ogg": ((0, b"OggS\x00"),),
    "mp4": ((4, b"ftyp"),),
    "mp3": ((0, b"ID3"), (4, b"\x00")),
}
HEADERS = {
    "wav": "a RIFF/WAVE header",
    "webm": "a WebM/Matroska header",
    "flac": "a FLAC header",
    "ogg": "an Ogg header",
    "mp4": "an MP4 header",
    "mp3": "an MP3 file",
}
FOREIGN: Marks = {  # files that nobody here decodes
    "an AIFF header": ((0, b"FORM"), (8, b"AIFF")),
    "an AIFF-C header": ((0, b"FORM"), (8, b"AIFC")),
    "an AU header": ((0, b".snd\x00\x00"),),
    "a CAF header": ((0, b"caff\x00\x01"),),
    "an ASF header (WMA)": ((0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11"),),
}
MAGIC_BYTES = 12


class BadAudio(Refusal):
    """Bytes that are no audio; `before` has the samples [heard, n] that came out of those before them."""

    def __init__(self, got: object, expected: str, before: Samples) -> None:
        super().__init__("audio", got, expected, code="bad_audio")
        self.before = before


class Channels:
    """Blocks of samples of all channels to what is heard at 16 kHz: their mean, or each channel by itself.

    `feed`, `flush` and `preview_tail` give float32 [heard, samples].
    """

    def __init__(self, sample_rate: int, channels: int, apart: bool = False) -> None:
        self.sample_rate, self.channels = sample_rate, channels
        self._apart = apart
        heard = channels if apart else 1
        self._resamplers = [_Resampler(sample_rate) for _ in range(heard)] if sample_rate != RATE else []
        self._nothing = np.zeros((heard, 0), np.float32)

    def feed(self, blocks: Samples) -> Samples:
        """`blocks`: [n, channels], in -1..1."""
        rows = np.ascontiguousarray(blocks.T) if self._apart else self._mean(blocks)[None]
        if not self._resamplers:
            return rows
        return np.stack([own.feed(row) for own, row in zip(self._resamplers, rows, strict=True)])

    def flush(self) -> Samples:
        """The samples still inside; nothing may be fed after it."""
        return np.stack([own.flush() for own in self._resamplers]) if self._resamplers else self._nothing

    def preview_tail(self, row: int = 0) -> Samples:
        """[samples] of one row that `flush` would give now, without ending anything (equal to it within 1e-6)."""
        return self._resamplers[row].preview_tail() if self._resamplers else self._nothing[row]

    def _mean(self, blocks: Samples) -> Samples:
        if self.channels == 1:
            return blocks[:, 0]
        mixed: Samples = blocks[:, 0].copy()
        for channel in range(1, self.channels):  # elementwise, so that a block's sum never depends on its company
            mixed += blocks[:, channel]
        return mixed * np.float32(1 / self.channels)


class WireAudio:
    """One stream's audio: `feed` bytes, get samples [heard, n]; `flush` once at the end. After a BadAudio only `flush`
    is left.

    `chunks`, samples at 16 kHz of the first chunk of whoever hears them and of each one after it: bytes that complete
    none may be kept and come out with those that do, since a call costs more than the samples of a short message.
    """

    def __init__(
        self, sample_rate: int, encoding: str, channels: int, apart: bool = False, chunks: tuple[int, int] = (0, 0)
    ) -> None:
        assert encoding in WIDTHS, f"encoding: got {encoding!r}, expected one of {', '.join(WIDTHS)}"
        self._encoding, self._channels = encoding, channels
        self._block_bytes = WIDTHS[encoding] * channels
        self._held = b""  # bytes that are kept, do not make a whole sample yet, or are still being told apart
        self._told = False  # the first bytes are known to be samples
        self._heard = Channels(sample_rate, channels, apart)
        self._plain = sample_rate == RATE and channels == 1
        self._rate, self._keeps = sample_rate, encoding not in FLOATS  # which have to be looked at as they come
        self._used, self._given = 0, 0  # bytes that came out, as so many samples
        self._end, self._chunk = chunks  # where the next chunk ends, in samples
        self._end_bytes = self._bytes_of(self._end)

    def keep(self, data: bytes) -> bool:
        """Put the bytes aside; False if they may complete a chunk, and were not."""
        if not self._told or not self._keeps or self._used + len(self._held) + len(data) >= self._end_bytes:
            return False
        self._held += data
        return True

    @property
    def kept(self) -> int:
        """Samples at 16 kHz, whole ones."""
        return len(self._held) // self._block_bytes * RATE // self._rate if self._told else 0

    def release(self) -> Samples:
        """The samples that were kept."""
        return self.feed(b"")

    def feed(self, data: bytes) -> Samples:
        """The 16 kHz samples that these bytes complete; raises BadAudio for bytes that are not audio."""
        data = self._held + data
        if not self._told:
            if len(data) < bytes_to_tell(data):
                self._held = data
                return self._resampled(np.zeros(0, np.float32))
            self._tell(data)
        whole = self._whole(len(data))
        self._held = data[whole:]
        self._used += whole
        samples = decode(data[:whole], self._encoding)
        wrong = first_wrong(samples) if self._encoding in FLOATS else None
        if wrong is None:
            return self._resampled(samples)
        self._held = b""
        before = self._resampled(samples[: wrong // self._channels * self._channels])
        expected = f"{self._encoding} samples, finite and within -1..1 (is it 16-bit audio?)"
        raise BadAudio(float(samples[wrong]), expected, before)

    def _whole(self, size: int) -> int:
        """Bytes that come out now: whole samples and, where they are not resampled, nothing beyond a chunk's end."""
        whole = size // self._block_bytes * self._block_bytes
        over = self._used + whole - self._end_bytes
        if over < 0 or not self._chunk or not self._keeps or self._rate != RATE:
            return whole
        return whole - over % self._bytes_of(self._chunk)

    def _bytes_of(self, samples: int) -> int:
        """Bytes on the wire without which there cannot be so many samples at 16 kHz."""
        return -(-samples * self._block_bytes * self._rate // RATE)

    def _resampled(self, samples: Samples) -> Samples:
        rows = samples[None] if self._plain else self._heard.feed(samples.reshape(-1, self._channels))
        self._given += rows.shape[1]
        if self._chunk and self._given >= self._end:
            self._end += ((self._given - self._end) // self._chunk + 1) * self._chunk
            self._end_bytes = self._bytes_of(self._end)
        return rows

    def flush(self) -> Samples:
        """The samples still inside; half a sample at the very end is no sample. Nothing may be fed after it."""
        if not self._told:
            self._tell(self._held)
        return np.concatenate([self.feed(b""), self._heard.flush()], axis=1)

    def preview_tail(self, row: int = 0) -> Samples:
        """[samples] of one row that `flush` would give now, without ending anything (equal to it within 1e-6)."""
        return self._heard.preview_tail(row)

    def _tell(self, head: bytes) -> None:
        found, other = container(head), foreign(head)
        self._told = True
        expected = f"bare {self._encoding} samples without a file header"
        if found is not None:
            self._refuse(HEADERS[found], f"{expected}, or encoding=auto")
        elif other is not None:
            self._refuse(other, f"{expected}, or {', '.join(MAGIC)}")

    def _refuse(self, header: str, expected: str) -> NoReturn:
        self._held = b""
        raise BadAudio(header, expected, self._resampled(np.zeros(0, np.float32)))


class DecodedAudio:
    """One stream's audio as a decoder gives it: the same verbs, fed with samples. Rate and channels may change in the
    middle (a radio station's next song), when channels are mixed; not all the time, a new resampler is dear."""

    kept = 0
    """Nothing ever is: a decoder's pieces are no short messages."""

    def keep(self, data: bytes) -> bool:
        """Never: bytes are a decoder's."""
        del data
        return False

    def __init__(self, channels: int, apart: bool = False) -> None:
        self._channels, self._apart = channels, apart
        self._heard: Channels | None = None
        self._changes = 0
        self._seconds = 0.0
        self._nothing = np.zeros((channels if apart else 1, 0), np.float32)

    def feed(self, blocks: Samples, sample_rate: int) -> Samples:
        """`blocks`: [n, channels] at `sample_rate`; raises BadAudio for what is not audio."""
        channels = blocks.shape[1]
        if self._apart and channels != self._channels:
            got = f"{channels} channel{'s' * (channels != 1)}"
            raise BadAudio(got, f"{self._channels}, as channels= says", self._nothing)
        if not RATES[0] <= sample_rate <= RATES[1]:
            raise BadAudio(f"{sample_rate} Hz", f"{RATES[0]} to {RATES[1]} Hz", self._nothing)
        if self._heard is not None and (self._heard.sample_rate, self._heard.channels) == (sample_rate, channels):
            before = self._nothing
        else:
            before, self._heard = self.flush(), Channels(sample_rate, channels, self._apart)
            self._changes += 1
            if self._changes > CHANGES + self._seconds:
                got = f"{self._changes} changes of rate or channels in {self._seconds:.1f} s"
                raise BadAudio(got, "about one in a second at most", before)
        self._seconds += len(blocks) / sample_rate
        if (wrong := first_wrong(blocks.reshape(-1))) is not None:
            before = np.concatenate([before, self._heard.feed(blocks[: wrong // channels])], axis=1)
            raise BadAudio(float(blocks.reshape(-1)[wrong]), "decoded samples, finite and within -1..1", before)
        return np.concatenate([before, self._heard.feed(blocks)], axis=1)

    def release(self) -> Samples:
        """The samples that were kept."""
        return self._nothing

    def flush(self) -> Samples:
        """The samples still inside."""
        return self._nothing if self._heard is None else self._heard.flush()

    def preview_tail(self, row: int = 0) -> Samples:
        """[samples] of one row that `flush` would give now, without ending anything (equal to it within 1e-6)."""
        return self._nothing[row] if self._heard is None else self._heard.preview_tail(row)


def bytes_to_tell(head: bytes) -> int:
    """How many first bytes it takes to tell samples from a file's header."""
    frame = mp3_frame_bytes(head) or adts_frame_bytes(head)
    return MAGIC_BYTES if frame is None else max(MAGIC_BYTES, frame + 4)


def container(head: bytes) -> str | None:
    """The container that begins with these bytes and can be decoded, None if they may be samples."""
    if (name := _marked(head, MAGIC)) is not None:
        return name
    if head[:4] == b"RF64" and head[8:12] == b"WAVE":  # a WAV of more than 4 GiB
        return "wav"
    frame = mp3_frame_bytes(head)
    if frame is not None and mp3_frame_bytes(head[frame : frame + 4]) is not None:
        return "mp3"
    return None


def foreign(head: bytes) -> str | None:
    """The file that begins with these bytes and is none of the containers, in words; None if they may be samples."""
    frame = adts_frame_bytes(head)
    if frame and adts_frame_bytes(head[frame : frame + 4]) is not None:
        return "an AAC file (ADTS)"
    return _marked(head, FOREIGN)


def _marked(head: bytes, magic: Marks) -> str | None:
    for name, marks in magic.items():
        if all(head[at : at + len(mark)] == mark for at, mark in marks):
            return name
    return None


# ISO 11172-3 2.4.2.3, layer III: kbit/s by index, for MPEG-1 and for MPEG-2 and 2.5.
_KBITS = {
    3: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    2: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_HERTZ = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}


def mp3_frame_bytes(head: bytes) -> int | None:
    """The length of the MPEG layer III frame that begins here; one sync alone is no proof, it may be a loud sample."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE6 != 0xE2:
        return None
    version, kbits, hertz, padding = head[1] >> 3 & 3, head[2] >> 4, head[2] >> 2 & 3, head[2] >> 1 & 1
    if version not in _HERTZ or kbits in (0, 15) or hertz == 3:
        return None
    factor, table = (144, _KBITS[3]) if version == 3 else (72, _KBITS[2])
    return factor * 1000 * table[kbits] // _HERTZ[version][hertz] + padding


def adts_frame_bytes(head: bytes) -> int | None:
    """The length of the AAC frame in ADTS (ISO 13818-7 6.2) that begins here, 0 where too few bytes say it."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xF6 != 0xF0 or head[2] >> 2 & 15 > 12:
        return None
    if len(head) < 6:
        return 0
    length = (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5
    return length if length > 7 else None


class _Resampler:
    """Any rate to 16 kHz by soxr HQ, and a look at what it has not given out yet."""

    def __init__(self, rate: int) -> None:
        divisor = math.gcd(rate, RATE)
        self._rate = rate
        self._in_step, self._out_step = rate // divisor, RATE // divisor  # input and output samples that coincide
        self._stream = _soxr(rate)
        self._recent: deque[Samples] = deque()  # at least the last second and one step of raw input
        self._recent_samples = self._fed = self._given = 0
        self._preview: Samples | None = None

    def feed(self, samples: Samples) -> Samples:
        if not samples.size:
            return samples
        self._preview = None
        self._remember(samples)
        out: Samples = self._stream.resample_chunk(samples)
        self._given += out.size
        return out

    def flush(self) -> Samples:
        out: Samples = self._stream.resample_chunk(np.zeros(0, np.float32), last=True)
        self._given += out.size
        return out

    def preview_tail(self) -> Samples:
        """The last second resampled afresh, from where input and output samples coincide; once until more comes."""
        if self._preview is None:
            self._preview = self._afresh()
        return self._preview

    def _afresh(self) -> Samples:
        first = self._fed - self._recent_samples
        start = -(-first // self._in_step) * self._in_step
        raw = np.concatenate(self._recent)[start - first :] if self._recent else np.zeros(0, np.float32)
        fresh = _soxr(self._rate)
        out = np.concatenate([fresh.resample_chunk(raw), fresh.resample_chunk(np.zeros(0, np.float32), last=True)])
        already = self._given - start // self._in_step * self._out_step
        assert 0 <= already <= out.size, f"already given: got {already}, expected 0 to {out.size}"
        tail: Samples = out[already:]
        return tail

    def _remember(self, samples: Samples) -> None:
        self._recent.append(samples)
        self._recent_samples += samples.size
        self._fed += samples.size
        while self._recent_samples - self._recent[0].size >= self._rate + self._in_step:
            self._recent_samples -= self._recent.popleft().size


def _soxr(rate: int) -> soxr.ResampleStream:
    return soxr.ResampleStream(rate, RATE, 1, dtype="float32", quality="HQ")
