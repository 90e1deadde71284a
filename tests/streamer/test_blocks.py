"""Claims about reading in blocks: the samples are those of the whole file, and what is missing is said."""

from __future__ import annotations

import importlib.util
import io
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from streamer import blocks
from streamer.audio import DecodedAudio
from streamer.blocks import FRAMES, CutOff, Part, Unreadable
from streamer.codecs import pieces
from tests.conftest import ROOT
from tests.streamer.compressed import recordings

IN_ROOT = {**os.environ, "PYTHONPATH": str(ROOT)}
TONE = (0.3 * np.sin(np.arange(3 * FRAMES + 777) / 9)).astype(np.float32)


def saved(path: Path, samples: np.ndarray = TONE, rate: int = 16000, **options: str) -> Path:
    soundfile.write(path, samples, rate, **options)
    return path


def read(path: Path, channel: int | None = None) -> np.ndarray:
    return np.concatenate(list(blocks.blocks(path, path.name, channel=channel)))


@pytest.mark.parametrize("rate", [8000, 16000, 44100, 48000])
@pytest.mark.parametrize("suffix", ["wav", "flac", "aiff"])
def test_all_blocks_are_the_whole_file_to_the_bit(tmp_path: Path, suffix: str, rate: int) -> None:
    path = saved(tmp_path / f"a.{suffix}", np.stack([TONE, TONE[::-1] / 3], axis=1), rate)
    expected = soundfile.read(path, dtype="float32")[0].mean(axis=1, dtype=np.float32)
    expected = soxr.resample(expected, rate, 16000, quality="HQ") if rate != 16000 else expected
    np.testing.assert_array_equal(read(path), expected)
    np.testing.assert_array_equal(blocks.whole(path, path.name), expected)


@pytest.mark.parametrize("suffix", ["mp3", "ogg"])
def test_without_pyav_libsndfile_reads_what_it_can(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    path = saved(tmp_path / f"a.{suffix}")
    np.testing.assert_allclose(read(path), soundfile.read(path, dtype="float32")[0], atol=2e-7)


@pytest.mark.parametrize("rate", [16000, 48000])
def test_opus_in_ogg_is_read_at_the_rate_it_was_encoded_at_with_pyav_or_without(tmp_path: Path, rate: int) -> None:
    path = saved(tmp_path / "a.ogg", TONE, rate, format="OGG", subtype="OPUS")
    samples, found = soundfile.read(path, dtype="float32")
    assert found == rate
    expected = soxr.resample(samples, rate, 16000, quality="HQ") if rate != 16000 else samples
    np.testing.assert_array_equal(read(path), expected)


@pytest.mark.parametrize("name", ["flac", "mp3", "webm opus", "mp4 aac"])
def test_the_samples_are_those_that_the_daemon_hears(tmp_path: Path, name: str) -> None:
    pytest.importorskip("av", reason="PyAV, the extra codecs")
    container, data = recordings()[name]
    (tmp_path / "a").write_bytes(data)
    audio: DecodedAudio | None = None
    heard = []
    for piece in pieces(io.BytesIO(data), container):
        audio = audio or DecodedAudio(piece.samples.shape[1])
        heard.append(audio.feed(piece.samples, piece.sample_rate)[0])
    assert audio is not None
    heard.append(audio.flush()[0])
    np.testing.assert_array_equal(read(tmp_path / "a"), np.concatenate(heard))


def test_no_block_is_longer_than_one_read(tmp_path: Path) -> None:
    sizes = [len(block) for block in blocks.blocks(saved(tmp_path / "a.wav"), "a.wav")]
    assert sizes == [FRAMES, FRAMES, FRAMES, 777]


def test_a_channel_is_heard_by_itself(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.wav", np.stack([TONE, -TONE], axis=1), subtype="FLOAT")
    assert blocks.channels_of(path, "a.wav") == 2
    np.testing.assert_array_equal(read(path, channel=0), TONE)
    np.testing.assert_array_equal(read(path, channel=1), -TONE)
    assert not read(path).any()


def test_a_part_is_read_alone(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.wav", subtype="FLOAT")
    np.testing.assert_array_equal(blocks.whole(path, "a.wav", Part(2.0, 1.5)), TONE[32000:56000])


# Files that are not whole.


def test_a_wav_that_was_cut_off_is_read_and_said(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.wav", TONE[:48000])
    path.write_bytes(path.read_bytes()[: 44 + 2 * 32000])
    got = []
    with pytest.raises(CutOff, match=r"^a\.wav: ends 1\.00 s before its header says"):
        got.extend(blocks.blocks(path, "a.wav"))
    assert sum(map(len, got)) == 32000
    assert len(blocks.whole(path, "a.wav")) == 32000


def test_a_wav_of_a_header_alone_is_said(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.wav", TONE[:0])
    for sample_bytes in (0, 32000):
        path.write_bytes(path.read_bytes()[:40] + struct.pack("<I", sample_bytes))
        with pytest.raises(CutOff, match=r"^a\.wav: holds no samples$"):
            list(blocks.blocks(path, "a.wav"))
        assert not blocks.whole(path, "a.wav").size


@pytest.mark.parametrize("size", [0, 0x7FFFFFFF, 0xFFFFFFFF])
def test_a_wav_whose_writer_never_knew_its_size_is_whole(tmp_path: Path, size: int) -> None:
    path = saved(tmp_path / "a.wav", TONE, subtype="PCM_16")
    expected = read(path)
    data = bytearray(path.read_bytes())
    data[40:44] = struct.pack("<I", size)
    path.write_bytes(data)
    np.testing.assert_array_equal(read(path), expected)


def test_a_damaged_flac_is_read_up_to_the_damage(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 5 * FRAMES).astype(np.float32)
    path = saved(tmp_path / "a.flac", noise)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    got: list[np.ndarray] = []
    with pytest.raises(Unreadable, match=r"^a\.flac: "):
        got.extend(blocks.blocks(path, "a.flac"))
    assert sum(map(len, got)) >= FRAMES


@pytest.mark.parametrize("pyav", [True, False])
def test_a_flac_with_a_hole_is_read_up_to_it_by_whatever_is_there(
    tmp_path: Path, pyav: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if pyav:
        pytest.importorskip("av", reason="PyAV, the extra codecs")
    else:
        monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 5 * FRAMES).astype(np.float32)
    path = saved(tmp_path / "a.flac", noise)
    data = path.read_bytes()
    for hole in (3, 1000, 4999):
        path.write_bytes(data[: len(data) // 2] + data[len(data) // 2 + hole :])
        got: list[np.ndarray] = []
        with pytest.raises(Unreadable, match=r"^a\.flac: (audio: got .* \(\d\.\d\d s\)|damaged)"):
            got.extend(blocks.blocks(path, "a.flac"))
        assert sum(map(len, got)) >= FRAMES
        np.testing.assert_allclose(np.concatenate(got)[:FRAMES], noise[:FRAMES], atol=1e-4)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("webm vorbis", r"ends \d+ bytes before its header says"),
        ("mp4 aac", r"ends \d+ bytes before its header says"),
        ("mp4 indexed", r"ends \d+ bytes before its header says"),
        ("ogg opus", "ends without its last page"),
        ("flac", r"ends 0\.\d\d s before its header says"),
        ("mp3", r"ends 0\.\d\d s before its header says"),
    ],
)
def test_a_file_cut_off_anywhere_is_read_and_said(tmp_path: Path, name: str, words: str) -> None:
    pytest.importorskip("av", reason="PyAV, the extra codecs")
    data = recordings()[name][1]
    path = tmp_path / "a"
    path.write_bytes(data)
    whole = len(read(path))  # says nothing
    for share in (0.55, 0.7):
        path.write_bytes(data[: int(share * len(data))])
        got: list[np.ndarray] = []
        with pytest.raises(CutOff, match=rf"^a: {words} \(cut off\?\)$"):
            got.extend(blocks.blocks(path, "a"))
        assert 0.3 * whole < sum(map(len, got)) < 0.95 * whole


@pytest.mark.parametrize("name", list(recordings()) if importlib.util.find_spec("av") else [])
def test_a_whole_file_lacks_nothing(tmp_path: Path, name: str) -> None:
    (tmp_path / "a").write_bytes(recordings()[name][1])
    assert 23000 < len(read(tmp_path / "a")) < 27000


def test_samples_before_the_first_that_is_no_number_are_given_out(tmp_path: Path) -> None:
    wrong = TONE.copy()
    wrong[FRAMES + 100] = np.nan
    path = saved(tmp_path / "a.wav", wrong, subtype="FLOAT")
    got: list[np.ndarray] = []
    with pytest.raises(Unreadable, match=r"^a\.wav: holds samples that are not numbers"):
        got.extend(blocks.blocks(path, "a.wav"))
    np.testing.assert_array_equal(np.concatenate(got), TONE[: FRAMES + 100])
    with pytest.raises(Unreadable):
        blocks.whole(path, "a.wav")


@pytest.mark.parametrize("rate", [1, 999, 768001, 2_000_000_000])
def test_a_rate_that_no_recording_has_is_said_at_once(tmp_path: Path, rate: int) -> None:
    path = saved(tmp_path / "a.wav")
    data = bytearray(path.read_bytes())
    data[24:28] = struct.pack("<I", rate)
    path.write_bytes(data)
    with pytest.raises(Unreadable, match=rf"^a\.wav: got {rate} Hz, expected 1000 to 768000 Hz$"):
        read(path)


# What libsndfile does not read.


def test_what_libsndfile_does_not_read_is_read_by_pyav(tmp_path: Path) -> None:
    path = webm(tmp_path / "a.webm", TONE[:48000])
    got = read(path)
    assert abs(len(got) - 48000) <= 960
    part = blocks.whole(path, "a.webm", Part(1.0, 0.5))
    assert np.corrcoef(part[2000:6000], got[18000:22000])[0, 1] > 0.999
    with pytest.raises(Unreadable, match="offset 9 s lies behind its end"):
        blocks.whole(path, "a.webm", Part(9.0))


def test_what_only_ffmpeg_knows_is_read_up_to_its_damage(tmp_path: Path) -> None:
    path = encoded(tmp_path / "a.aac", TONE[:48000], "adts", "aac")
    whole = read(path)
    assert abs(len(whole) - 48000) < 3000
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    got: list[np.ndarray] = []
    with pytest.raises(Unreadable, match=r"^a\.aac: damaged behind 1\.\d\d s"):
        got.extend(blocks.blocks(path, "a.aac"))
    assert 15000 < sum(map(len, got)) < 33000


def test_ffmpeg_mutters_nothing_beside_our_sentence(tmp_path: Path) -> None:
    pytest.importorskip("av", reason="PyAV, the extra codecs")
    (tmp_path / "a.raw").write_bytes((TONE * 32767).astype("<i2").tobytes())  # FFmpeg takes the name for a video's
    loud = "import av; av.logging.set_level(av.logging.ERROR); "  # as it is once a file has been decoded
    code = loud + "import pathlib, streamer.blocks as b; list(b.blocks(pathlib.Path('a.raw'), 'a'))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=IN_ROOT, capture_output=True, timeout=60)
    *before, last = done.stderr.decode().splitlines()
    assert last.startswith("streamer.blocks.Unreadable: a: not audio that libsndfile reads")
    assert before[:1] == ["Traceback (most recent call last):"]
    assert "pixel" not in "".join(before)


def test_a_playlist_opens_no_other_file(tmp_path: Path) -> None:
    saved(tmp_path / "a.wav")
    (tmp_path / "list").write_text("ffconcat version 1.0\nfile a.wav\n")
    with pytest.raises(Unreadable, match=r"^list: not audio that libsndfile reads"):
        read(tmp_path / "list")


def test_without_pyav_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = webm(tmp_path / "a.webm", TONE)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(Unreadable, match=r"^a\.webm: .*PyAV, which is not installed: .*\[codecs\]"):
        read(path)


def test_what_nobody_reads_is_said_once() -> None:
    with pytest.raises(Unreadable, match=r"^notes: not audio that libsndfile reads \(Format not recognised\)$"):
        list(blocks.blocks(io.BytesIO(b"some notes of mine"), "notes"))


def webm(path: Path, samples: np.ndarray) -> Path:
    """Opus in WebM, as browsers record it."""
    return encoded(path, samples, "webm", "libopus")


def encoded(path: Path, samples: np.ndarray, container: str, codec: str) -> Path:
    av = pytest.importorskip("av", reason="PyAV, the extra codecs")
    with av.open(str(path), "w", format=container) as out:
        stream = out.add_stream(codec, rate=48000, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples[None], "flt", "mono")
        frame.sample_rate = 16000
        to_codec = av.AudioResampler(stream.format, "mono", 48000, stream.frame_size or None)
        for part in [*to_codec.resample(frame), *to_codec.resample(None)]:
            out.mux(stream.encode(part))
        out.mux(stream.encode(None))
    return path
