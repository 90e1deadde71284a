"""Compressed audio decoded as its bytes come: the samples are the offline decoder's for any cut, damage has a place."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from streamer.codecs import CONTAINERS, Damaged, container_of, pieces
from tests.streamer.compressed import Cuts, Samples, decoded, encode, joined, recordings, voice, wav, wav_header

av = pytest.importorskip("av", reason="needs PyAV (the extra `codecs`)")

NAMES = list(recordings())
DEMUXED = [name for name in NAMES if not name.startswith("wav")]


def offline(data: bytes) -> Samples:
    """(n, channels): what PyAV makes of a whole file that it may seek in."""
    parts = []
    with av.open(io.BytesIO(data)) as file:
        for frame in file.decode(audio=0):
            values = frame.to_ndarray()
            values = values.T if frame.format.is_planar else values.reshape(-1, len(frame.layout.channels))
            parts.append(values / np.float32(32768) if values.dtype == np.int16 else values)
    return joined(parts)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [1, 37, 1000])
def test_cutting_the_bytes_anywhere_changes_nothing(name: str, size: int) -> None:
    container, data = recordings()[name]
    whole, damaged = decoded(data, container)
    assert damaged is None
    assert len(whole) > 0
    samples, damaged = decoded(data, container, size)
    assert damaged is None
    np.testing.assert_array_equal(samples, whole)


@pytest.mark.parametrize("name", DEMUXED)
def test_samples_are_those_of_the_offline_decoder(name: str) -> None:
    container, data = recordings()[name]
    samples, _ = decoded(data, container)
    expected = offline(data)
    extra = len(samples) - len(expected)
    assert 0 <= extra <= (2304 if container == "mp3" else 0), "only MP3's padding at the end may stay"
    np.testing.assert_array_equal(samples[: len(expected)], expected)


@pytest.mark.parametrize(
    ("name", "lag_s"),
    [("webm opus", 0.1), ("ogg opus", 0.1), ("flac", 0.25), ("mp3", 0.15), ("mp4 opus", 0.25), ("wav PCM_16", 0.1)],
)
def test_samples_come_before_the_bytes_that_follow_them(name: str, lag_s: float) -> None:
    container, data = recordings(3.0)[name]
    file, heard_s, behind = Cuts(data, 500), 0.0, []
    head = data.find(b"\xff\xf8") if container == "flac" else 0  # FLAC's header holds kilobytes of nothing
    for piece in pieces(file, container):
        sent_s = (file.at - head) / (len(data) - head) * 3.0
        behind.append(sent_s - heard_s)
        heard_s += len(piece.samples) / piece.sample_rate
    assert np.median(behind) < lag_s


@pytest.mark.parametrize("name", NAMES)
def test_the_container_is_told_by_its_first_bytes_even_if_they_come_one_by_one(name: str) -> None:
    container, data = recordings()[name]
    assert container_of(data[:12]) == container
    np.testing.assert_array_equal(decoded(data, None, 1)[0], decoded(data, container)[0])


def test_rate_and_channels_stay_as_they_were_recorded() -> None:
    _, data = recordings()["ogg vorbis"]
    piece = next(pieces(Cuts(data), "ogg"))
    assert (piece.sample_rate, piece.samples.shape[1], piece.samples.dtype) == (22050, 2, np.float32)


def test_chained_ogg_changes_its_codec_rate_and_channels_on_the_way() -> None:
    _, opus = recordings()["ogg opus"]
    _, flac = recordings()["ogg flac"]
    vorbis = encode("ogg", "vorbis", voice(0.5, 44100, 2), 44100)
    kinds = [(piece.sample_rate, piece.samples.shape[1]) for piece in pieces(Cuts(opus + vorbis + flac, 100), "ogg")]
    assert list(dict.fromkeys(kinds)) == [(48000, 1), (44100, 2), (16000, 1)]
    again = decoded(opus + opus, "ogg")[0]
    np.testing.assert_array_equal(again, np.concatenate([decoded(opus, "ogg")[0]] * 2))


def test_mp3_files_one_behind_the_other_with_tags_are_one_stream() -> None:
    _, data = recordings()["mp3"]
    tag = b"ID3\x03\0\0" + bytes([0, 0, 40, 0]) + b"APIC" + b"\xff\xfb\x90\xc4" * 1279
    samples, damaged = decoded(tag + data + data + b"TAG" + bytes(125), "mp3", 333)
    assert damaged is None
    assert abs(len(samples) / 44100 - 3.0) < 0.1


def test_mp4_with_its_index_at_the_end_is_heard_from_a_file_and_refused_in_a_stream() -> None:
    data = encode("mp4", "aac", voice(1.0, 16000, 2), 16000)
    assert data.find(b"mdat") < data.find(b"moov")
    samples = joined(piece.samples for piece in pieces(io.BytesIO(data)))
    np.testing.assert_array_equal(samples, offline(data))
    streamed, damaged = decoded(data, "mp4")
    assert len(streamed) == 0
    assert "got samples before their index" in str(damaged)
    assert "expected MP4, fragmented or with its index (moov) before the samples" in str(damaged)


# Damage.


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("webm opus stereo", "zeros", "EBML"),
        ("webm opus", "hole", "Element"),
        ("ogg opus", "flip", "an Ogg page that fails its checksum near byte"),
        ("ogg vorbis", "zeros", "an Ogg page that fails its checksum near byte"),
        ("ogg flac", "hole", "an Ogg page that fails its checksum near byte"),
        ("flac", "flip", "expected a packet of flac"),
        ("flac", "zeros", "expected a packet of flac"),
        ("mp3", "hole", "expected a packet of mp3float"),
        ("mp4 aac", "hole", "a box b"),
    ],
)
def test_damage_in_the_middle_is_told_with_its_place(name: str, change: str, words: str) -> None:
    container, data = recordings(3.0)[name]
    whole, _ = decoded(data, container)
    broken, half = bytearray(data), len(data) // 2
    match change:
        case "zeros":
            broken[half : half + 200] = bytes(200)
        case "hole":
            del broken[half : half + 700]
        case "flip":
            broken[half] ^= 0x10
    samples, damaged = decoded(bytes(broken), container, 1000)
    assert damaged is not None
    assert words in str(damaged)
    assert "audio: got" in str(damaged)
    assert abs(damaged.at_byte - half) < 18000, "pages of Ogg FLAC are that long"
    assert 0 < damaged.at_s < 2.0
    common = len(samples) - 2048  # a packet with a hole in it may be decoded to something
    np.testing.assert_array_equal(samples[:common], whole[:common], "what came before the damage is untouched")
    assert common / len(whole) > 0.2


@pytest.mark.parametrize("name", NAMES)
def test_what_is_cut_off_at_the_end_is_no_damage(name: str) -> None:
    container, data = recordings(3.0)[name]
    whole, _ = decoded(data, container)
    samples, damaged = decoded(data[: len(data) * 2 // 3], container, 100)
    assert damaged is None
    assert len(samples) > 0.3 * len(whole)
    common = min(len(samples), len(whole)) - 2048  # a packet cut in half may end in something
    np.testing.assert_array_equal(samples[:common], whole[:common])


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(bytes(9000), id="zeros"),
        pytest.param(np.random.default_rng(3).bytes(9000), id="noise"),
        pytest.param(b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n" * 20, id="m3u8"),
        pytest.param(b"ffconcat version 1.0\nfile '/etc/passwd'\n" * 20, id="ffconcat"),
        pytest.param(b"concat:/etc/passwd|/etc/hosts" * 20, id="concat"),
    ],
)
def test_what_is_no_recording_gives_damage_or_nothing(container: str, data: bytes) -> None:
    samples, damaged = decoded(data, container, 100)
    assert len(samples) == 0
    if damaged is None:
        assert container in ("ogg", "mp3"), "in which nothing at all may come"
    else:
        assert str(damaged).startswith("audio: got ")


def test_a_playlist_is_no_container_and_opens_nothing(tmp_path: Path) -> None:
    target = tmp_path / "target.wav"
    target.write_bytes(wav(voice(0.2, 16000), 16000))
    for text in (f"#EXTM3U\n{target}\n", f"ffconcat version 1.0\nfile '{target}'\n", f"concat:{target}"):
        with pytest.raises(Damaged, match=r"audio: got the bytes .* expected one of webm, ogg, flac, mp3, mp4, wav"):
            list(pieces(Cuts(text.encode())))


def test_pictures_and_films_are_passed_over() -> None:
    _, data = recordings()["flac"]
    picture = b"\x06" + (20000).to_bytes(3, "big") + b"\xff\xf8\xc9\x18\0\xc2" * 3333 + b"\0\0"
    with_picture = data[:42] + picture + data[42:]
    np.testing.assert_array_equal(decoded(with_picture, "flac", 100)[0], decoded(data, "flac")[0])
    samples, damaged = decoded(_film(sound=True), "webm", 200)
    assert damaged is None
    assert abs(len(samples) / 48000 - 0.5) < 0.1


def test_a_film_without_sound_is_told_so() -> None:
    _, damaged = decoded(_film(sound=False), "webm")
    assert "got no audio stream" in str(damaged)
    assert "WebM or Matroska with sound" in str(damaged)


def _film(*, sound: bool) -> bytes:
    """Half a second of moving grey in Matroska."""
    out = io.BytesIO()
    with av.open(out, "w", format="matroska") as file:
        video = file.add_stream("mjpeg", rate=10)
        video.width = video.height = 32
        video.pix_fmt = "yuvj420p"
        audio = file.add_stream("libopus", rate=48000, layout="mono") if sound else None
        for number in range(5):
            grey = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 40 * number, np.uint8), "rgb24")
            file.mux(video.encode(grey))
        if audio is not None:
            for at in range(0, 24000, 960):
                frame = av.AudioFrame.from_ndarray(voice(0.5, 48000)[at : at + 960].T.copy(), "flt", "mono")
                frame.sample_rate, frame.pts = 48000, at
                file.mux(audio.encode(frame))
            file.mux(audio.encode(None))
        file.mux(video.encode(None))
    return out.getvalue()


def test_a_codec_that_is_not_ours_is_named() -> None:
    data = encode("matroska", "ac3", voice(0.5, 48000), 48000)
    _, damaged = decoded(data, "webm")
    assert "expected Opus, Vorbis, FLAC, MP3, AAC or PCM" in str(damaged)


@pytest.mark.parametrize(
    ("rate", "channels", "words"), [(7999, 1, "7999 Hz"), (192001, 1, "192001"), (8000, 9, "9 ch")]
)
def test_rates_and_channels_that_no_recording_has_are_refused(rate: int, channels: int, words: str) -> None:
    head = wav_header(1, channels, rate, 16, 0xFFFFFFFF)
    _, damaged = decoded(head + bytes(100), "wav")
    assert words in str(damaged)


def test_samples_that_are_no_numbers_are_damage_after_those_before_them() -> None:
    block = np.full(4096, 0.25, "<f4").tobytes()
    data = wav_header(3, 1, 16000, 32, 0xFFFFFFFF) + block + struct.pack("<f", float("nan")) + block
    samples, damaged = decoded(data, "wav")
    assert len(samples) == 4096
    assert "got a sample of nan" in str(damaged)
    assert damaged is not None
    assert damaged.at_s == 4096 / 16000


def test_hours_of_silence_in_few_bytes_come_piece_by_piece() -> None:
    data = encode("flac", "flac", np.zeros((48000 * 600, 1), np.float32), 48000)
    file = Cuts(data, 1000)
    first = next(pieces(file, "flac"))
    assert len(first.samples) < 48000
    assert file.at < len(data) / 5


# WAV.


@pytest.mark.parametrize(
    "subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW", "MS_ADPCM", "IMA_ADPCM"]
)
@pytest.mark.parametrize("channels", [1, 2])
def test_wav_of_any_sample_format_is_what_libsndfile_reads(subtype: str, channels: int) -> None:
    data = wav(voice(0.5, 16000, channels), 16000, subtype)
    samples, damaged = decoded(data, "wav", 37)
    assert damaged is None
    expected, _ = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    common = min(len(samples), len(expected))
    assert abs(len(samples) - len(expected)) <= (2048 if "ADPCM" in subtype else 0)
    np.testing.assert_allclose(samples[:common], expected[:common], atol=1e-7 if "ADPCM" not in subtype else 5e-3)


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFFFFF])
def test_wav_whose_size_nobody_knew_goes_on_to_its_end(size: int) -> None:
    pcm = (voice(0.5, 16000) * 32767).astype("<i2")
    samples, damaged = decoded(wav_header(1, 1, 16000, 16, size, riff=size) + pcm.tobytes() + b"\x01", "wav", 77)
    assert damaged is None
    np.testing.assert_array_equal(samples, pcm.astype(np.float32).reshape(-1, 1) / 32768)


def test_wav_with_other_chunks_before_and_behind_its_samples() -> None:
    pcm = np.arange(100, dtype="<i2").tobytes()
    form = struct.pack("<HHIIHH", 1, 1, 8000, 16000, 2, 16)
    chunks = [(b"LIST", b"odd"), (b"fmt ", form), (b"fact", bytes(4)), (b"data", pcm), (b"LIST", b"\xff" * 5000)]
    body = b"".join(name + struct.pack("<I", len(data)) + data + bytes(len(data) % 2) for name, data in chunks)
    samples, damaged = decoded(b"RIFF" + struct.pack("<I", len(body) + 4) + b"WAVE" + body, "wav", 3)
    assert damaged is None
    np.testing.assert_array_equal(samples[:, 0] * 32768, np.arange(100))


def test_long_wav_and_extensible_wav_are_wav() -> None:
    for kind in ("RF64", "WAVEX"):
        out = io.BytesIO()
        soundfile.write(out, voice(0.2, 16000, 2), 16000, "PCM_24", format=kind)
        assert container_of(out.getvalue()[:12]) == "wav"
        samples, damaged = decoded(out.getvalue(), "wav", 50)
        assert (damaged, samples.shape) == (None, (3200, 2))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"RIFF\0\0\0\0AVI LIST", "got the bytes b'RIFF"),
        (b"RIFF\0\0\0\0WAVEdata\x10\0\0\0" + bytes(16), "got samples before their format"),
        (b"RIFF\0\0\0\0WAVEfmt \xff\xff\xff\x00", "got a header of 16777215 bytes"),
        (b"RIFF\0\0\0\0WAVEfmt \x04\0\0\0\x01\0\x01\0", "got a format of 4 bytes"),
        (b"RIFF\0\0\0\0WAVE", "got the end of the file"),
    ],
)
def test_wav_without_a_sound_header_is_refused_in_words(data: bytes, words: str) -> None:
    _, damaged = decoded(data, "wav")
    assert words in str(damaged)
    assert str(damaged).endswith("expected a WAV file: RIFF, fmt, then data")


def test_without_the_extra_wav_is_decoded_and_the_rest_is_refused_in_one_sentence() -> None:
    code = """
import io, struct, sys
sys.modules["av"] = None
from streamer.codecs import NoCodecs, pieces
head = b"RIFF" + bytes(4) + b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, 8000, 16000, 2, 16) + b"data" + bytes(4)
assert sum(len(piece.samples) for piece in pieces(io.BytesIO(head + bytes(200)))) == 100
try:
    list(pieces(io.BytesIO(b"OggS" + bytes(100))))
except NoCodecs as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "ogg audio: got no PyAV, expected streamer-asr[codecs] to be installed\n"
