"""Wire bytes to 16 kHz samples: the same, however they are cut; and what is not audio is recognised."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamer.audio import MAGIC, BadAudio, DecodedAudio, WireAudio, container
from streamer.encodings import ALAW, MULAW, WIDTHS
from streamer.errors import Refusal

SOUND = np.sin(np.arange(30_000) ** 1.1 * 0.05).astype(np.float32) * np.float32(0.7)


def wire(encoding: str, samples: npt.NDArray[np.float32]) -> bytes:
    match encoding:
        case "pcm_s16le":
            return (samples * 32767).astype("<i2").tobytes()
        case "pcm_f32le":
            return samples.astype("<f4").tobytes()
        case _:
            return ((samples + 1) * 127).astype(np.uint8).tobytes()


def heard(audio: WireAudio, pieces: list[bytes]) -> npt.NDArray[np.float32]:
    return np.concatenate([*map(audio.feed, pieces), audio.flush()], axis=1)[0]


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


@settings(deadline=None, max_examples=60)
@given(
    rate=st.sampled_from([8000, 12345, 16000, 44100, 47999, 48000, 96000, 192_000]),
    encoding=st.sampled_from(sorted(WIDTHS)),
    channels=st.integers(1, 8),
    places=st.lists(st.integers(0, 1 << 20), max_size=40),
    spare=st.integers(0, 7),
)
def test_cutting_the_bytes_anywhere_changes_no_bit(
    rate: int, encoding: str, channels: int, places: list[int], spare: int
) -> None:
    data = wire(encoding, SOUND[: 2400 * channels]) + b"\x01" * spare
    whole = heard(WireAudio(rate, encoding, channels), [data])
    pieces = heard(WireAudio(rate, encoding, channels), cut(data, places))
    assert whole.dtype == pieces.dtype == np.float32
    assert whole.tobytes() == pieces.tobytes()


@settings(deadline=None, max_examples=60)
@given(
    rate=st.sampled_from([8000, 12345, 16000, 44100, 48000, 96000]),
    encoding=st.sampled_from(sorted(WIDTHS)),
    channels=st.integers(1, 3),
    chunks=st.sampled_from([(200, 1280), (1480, 2560)]),
    places=st.lists(st.integers(0, 1 << 20), max_size=40),
)
def test_bytes_that_complete_no_chunk_are_kept_and_no_chunk_is_later_for_it(
    rate: int, encoding: str, channels: int, chunks: tuple[int, int], places: list[int]
) -> None:
    data = wire(encoding, SOUND[: 6000 * channels])
    keeping, prompt = WireAudio(rate, encoding, channels, chunks=chunks), WireAudio(rate, encoding, channels)
    nothing = np.zeros((1, 0), np.float32)
    given, expected = [nothing], [nothing]
    for piece in cut(data, places):
        given.append(nothing if keeping.keep(piece) else keeping.feed(piece))
        expected.append(prompt.feed(piece))
        whole = [
            max(0, sum(row.size for row in rows) - chunks[0] + chunks[1]) // chunks[1] for rows in (given, expected)
        ]
        assert whole[0] == whole[1], "chunks that are complete"
    given.append(keeping.release())
    assert keeping.kept == 0
    tails = [audio.preview_tail() for audio in (keeping, prompt)]
    assert tails[0].tobytes() == tails[1].tobytes()
    said, whole_said = (
        np.concatenate([*rows, audio.flush()], axis=1) for rows, audio in ((given, keeping), (expected, prompt))
    )
    assert said.tobytes() == whole_said.tobytes()


def test_live_audio_in_short_messages_comes_out_a_chunk_at_a_time() -> None:
    audio = WireAudio(16000, "pcm_s16le", 1, chunks=(200, 1280))
    pieces = np.split(SOUND[:6400], 20)
    sizes = [0 if audio.keep(data := wire("pcm_s16le", piece)) else audio.feed(data).size for piece in pieces]
    assert sizes == [200, 0, 0, 0, 1280] + [0, 0, 0, 1280] * 3 + [0, 0, 0]
    assert audio.kept == audio.release().size == 6400 - 200 - 4 * 1280


@pytest.mark.parametrize("encoding", sorted(WIDTHS))
def test_byte_by_byte_equals_whole(encoding: str) -> None:
    data = wire(encoding, SOUND[:600])
    single = heard(WireAudio(48000, encoding, 2), [data[i : i + 1] for i in range(len(data))])
    assert single.tobytes() == heard(WireAudio(48000, encoding, 2), [data]).tobytes()


def test_sixteen_bit_samples_are_divided_by_32768() -> None:
    data = np.array([-32768, -1, 0, 1, 32767, 0, 0], "<i2").tobytes()
    got = heard(WireAudio(16000, "pcm_s16le", 1), [data])[:5] * 32768
    assert got.tolist() == [-32768, -1, 0, 1, 32767]


def test_g711_codes_have_the_values_of_the_recommendation() -> None:
    mulaw = {0x00: -32124, 0x80: 32124, 0xFF: 0, 0x7F: 0, 0xFE: 8, 0x70: -120, 0xA0: 7932}
    alaw = {0x55: -8, 0xD5: 8, 0x2A: -32256, 0xAA: 32256, 0x54: -24, 0x80: 5504, 0xC5: 264}
    assert {code: round(float(MULAW[code]) * 32768) for code in mulaw} == mulaw
    assert {code: round(float(ALAW[code]) * 32768) for code in alaw} == alaw


@pytest.mark.parametrize("rate", [16000, 44100])
def test_channels_heard_apart_are_each_what_it_is_alone(rate: int) -> None:
    data = wire("pcm_f32le", np.column_stack([SOUND[:9000], SOUND[9000:18000], SOUND[:9000] / 2]).ravel())
    audio = WireAudio(rate, "pcm_f32le", 3, apart=True)
    rows = np.concatenate([*(audio.feed(piece) for piece in cut(data, [7, 5000, 5001, 70_000])), audio.flush()], axis=1)
    for row, alone in zip(rows, (SOUND[:9000], SOUND[9000:18000], SOUND[:9000] / 2), strict=True):
        assert row.tobytes() == heard(WireAudio(rate, "pcm_f32le", 1), [wire("pcm_f32le", alone)]).tobytes()


def test_decoded_samples_are_heard_as_wire_samples_are() -> None:
    stereo = np.column_stack([SOUND[:9000], SOUND[9000:18000]])
    audio = DecodedAudio(1)
    rows = [audio.feed(piece, 44100) for piece in np.array_split(stereo, [1, 77, 4000])]
    got = np.concatenate([*rows, audio.flush()], axis=1)[0]
    assert got.tobytes() == heard(WireAudio(44100, "pcm_f32le", 2), [wire("pcm_f32le", stereo.ravel())]).tobytes()


def test_a_new_rate_in_the_middle_loses_nothing() -> None:
    audio = DecodedAudio(1)
    one, two = SOUND[:8000].reshape(-1, 1), np.repeat(SOUND[8000:17600].reshape(-1, 1), 2, axis=1)
    rows = [audio.feed(one, 8000), audio.feed(two, 48000), audio.flush()]
    apart = [heard(WireAudio(8000, "pcm_f32le", 1), [wire("pcm_f32le", SOUND[:8000])])]
    apart += [heard(WireAudio(48000, "pcm_f32le", 1), [wire("pcm_f32le", SOUND[8000:17600])])]
    assert np.concatenate(rows, axis=1)[0].tobytes() == np.concatenate(apart).tobytes()


@pytest.mark.parametrize(
    ("blocks", "rate", "sentence"),
    [
        (np.zeros((9, 3), np.float32), 16000, "3 channels.*expected 2, as channels= says"),
        (np.zeros((9, 2), np.float32), 4000, "4000 Hz.*expected 8000 to 192000 Hz"),
        (np.full((9, 2), np.nan, np.float32), 16000, "nan.*finite"),
    ],
)
def test_decoded_samples_that_are_no_audio_are_refused(
    blocks: npt.NDArray[np.float32], rate: int, sentence: str
) -> None:
    with pytest.raises(BadAudio, match=sentence):
        DecodedAudio(2, apart=True).feed(blocks, rate)


def test_a_rate_that_changes_all_the_time_is_no_audio() -> None:
    audio = DecodedAudio(1)
    for number in range(20):
        audio.feed(np.zeros((44_000, 1), np.float32), 44_000 + number)

    def change_often() -> None:
        for number in range(100):
            audio.feed(np.zeros((16, 1), np.float32), 44_000 + number)

    with pytest.raises(BadAudio, match="changes of rate or channels in"):
        change_often()


def test_a_wav_of_more_than_four_gigabytes_is_a_wav() -> None:
    assert container(b"RF64\xff\xff\xff\xffWAVEds64") == "wav"


def test_channels_are_mixed_to_their_mean() -> None:
    stereo = np.column_stack([SOUND[:1000], np.zeros(1000, np.float32)]).ravel()
    assert np.array_equal(heard(WireAudio(16000, "pcm_f32le", 2), [wire("pcm_f32le", stereo)]), SOUND[:1000] / 2)


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 47999, 48000, 96000, 192_000])
def test_a_second_stays_a_second_at_any_rate(rate: int) -> None:
    half = np.resize(SOUND, rate // 2)
    assert abs(heard(WireAudio(rate, "pcm_f32le", 1), [wire("pcm_f32le", half)]).size - 8000) <= 1


@settings(deadline=None, max_examples=40)
@given(
    rate=st.sampled_from([8000, 11025, 12345, 22050, 44100, 47999, 48000, 96000, 192_000]),
    samples=st.integers(0, 30_000),
    piece=st.integers(1, 5000),
    repeat=st.integers(1, 5),
)
def test_the_preview_is_what_the_resampler_still_holds(rate: int, samples: int, piece: int, repeat: int) -> None:
    data = wire("pcm_f32le", np.tile(SOUND, repeat)[: samples * repeat])
    audio = WireAudio(rate, "pcm_f32le", 1)
    for at in range(0, len(data), 4 * piece):
        audio.feed(data[at : at + 4 * piece])
    preview, again = audio.preview_tail(), audio.preview_tail()
    assert preview.tobytes() == again.tobytes()
    rest = audio.flush()
    assert rest.size - 16 <= preview.size <= rest.size  # bytes still being told apart are not in the preview
    assert np.abs(preview - rest[:, : preview.size]).max(initial=0) < 1e-6


def test_looking_at_the_preview_changes_nothing_that_follows() -> None:
    data = wire("pcm_s16le", SOUND)
    plain, looked = WireAudio(44100, "pcm_s16le", 1), WireAudio(44100, "pcm_s16le", 1)
    out = [plain.feed(data[:20001]), plain.feed(data[20001:]), plain.flush()]
    seen = [looked.feed(data[:20001])]
    looked.preview_tail()
    seen += [looked.feed(data[20001:]), looked.flush()]
    assert np.concatenate(out, axis=1).tobytes() == np.concatenate(seen, axis=1).tobytes()


def test_at_16_khz_nothing_is_held_back() -> None:
    audio = WireAudio(16000, "pcm_s16le", 1)
    assert audio.feed(wire("pcm_s16le", SOUND[:320])).size == 320
    assert audio.preview_tail().size == audio.flush().size == 0


# What is not audio.

MP3 = bytes([0xFF, 0xFB, 0x90, 0x00]) + bytes(413)  # MPEG-1 layer III, 128 kbit/s, 44.1 kHz: frames of 417 bytes
ADTS = bytes.fromhex("fff16040475f") + bytes(564)  # a frame of 570 bytes
HEADERS = {
    "RIFF/WAVE": b"RIFF\x24\x08\x00\x00WAVEfmt ",
    "WebM": b"\x1a\x45\xdf\xa3\x9f\x42\x86\x81\x01\x42\xf7\x81",
    "FLAC": b"fLaC\x00\x00\x00\x22\x10\x00\x10\x00",
    "Ogg": b"OggS\x00\x02\x00\x00\x00\x00\x00\x00",
    "MP4": b"\x00\x00\x00\x20ftypisom",
    "MP3 file": b"ID3\x04\x00\x00\x00\x00\x00\x23TS",
    "MP3": MP3 + MP3,
    "AIFF": b"FORM\x00\x04\xdd\x2eAIFFCOMM",
    "AIFF-C": b"FORM\x00\x04\xdd\x2eAIFCFVER",
    "AU": b".snd\x00\x00\x00\x18\xff\xff\xff\xff",
    "CAF": b"caff\x00\x01\x00\x00desc",
    "ASF": bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c"),
    "AAC file": ADTS + ADTS,
    "AAC file .ADTS.": ADTS[:1] + b"\xf9" + ADTS[2:] + ADTS[:1] + b"\xf9" + ADTS[2:],
}


@pytest.mark.parametrize("encoding", sorted(WIDTHS))
@pytest.mark.parametrize("name", HEADERS)
def test_a_file_header_on_a_sample_stream_is_recognised_however_it_is_cut(name: str, encoding: str) -> None:
    for pieces in ([HEADERS[name]], [HEADERS[name][i : i + 1] for i in range(len(HEADERS[name]))]):
        audio = WireAudio(16000, encoding, 1)
        with pytest.raises(Refusal, match=f"{name}.*: expected bare {encoding} samples") as refusal:
            heard(audio, pieces)
        assert refusal.value.code == "bad_audio"


def test_a_header_later_in_the_stream_is_just_samples() -> None:
    data = wire("pcm_s16le", SOUND[:100]) + HEADERS["RIFF/WAVE"]
    assert heard(WireAudio(16000, "pcm_s16le", 1), [data]).size == len(data) // 2


def test_a_loud_first_sample_that_looks_like_mp3_sync_is_no_mp3() -> None:
    data = MP3[:4] + wire("pcm_s16le", SOUND[:1000])
    assert heard(WireAudio(16000, "pcm_s16le", 1), [data]).size == 1002


def test_a_first_sample_that_looks_like_adts_is_no_aac() -> None:
    data = ADTS[:6] + wire("pcm_s16le", SOUND[:1000])
    assert heard(WireAudio(16000, "pcm_s16le", 1), [data]).size == 1003


@pytest.mark.parametrize("name", ["AIFF", "AU", "CAF", "ASF", "AAC file"])
def test_files_that_nobody_decodes_are_no_containers(name: str) -> None:
    assert container(HEADERS[name]) is None


def has_magic(data: bytes) -> bool:
    return any(data[at : at + len(mark)] == mark for marks in MAGIC.values() for at, mark in marks[:1])


@given(st.binary(max_size=64).filter(lambda data: not has_magic(data)))
def test_few_bytes_without_a_magic_are_never_taken_for_a_file(data: bytes) -> None:
    assert container(data) is None


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30, 12000.0])
def test_floats_that_are_no_audio_are_refused(value: float) -> None:
    samples = SOUND[:100].copy()
    samples[50] = value
    for channels, before in ((1, SOUND[:50]), (4, SOUND[:48].reshape(12, 4).mean(1))):
        audio = WireAudio(16000, "pcm_f32le", channels)
        with pytest.raises(BadAudio, match="finite and within") as refusal:
            audio.feed(wire("pcm_f32le", samples))
        assert refusal.value.code == "bad_audio"
        assert refusal.value.before[0] == pytest.approx(before, abs=1e-6), "what came before it is lost"
        assert audio.flush().size == 0


def test_wrong_floats_lose_nothing_of_what_the_resampler_holds() -> None:
    data = wire("pcm_f32le", SOUND[:9000])
    audio = WireAudio(48000, "pcm_f32le", 1)
    with pytest.raises(BadAudio) as refusal:
        audio.feed(data + wire("pcm_f32le", np.array([np.nan], np.float32)) + data)
    whole = heard(WireAudio(48000, "pcm_f32le", 1), [data])
    assert np.concatenate([refusal.value.before, audio.flush()], axis=1).tobytes() == whole.tobytes()


def test_floats_a_little_over_full_scale_are_audio() -> None:
    loud = SOUND[:9] * 2
    assert heard(WireAudio(16000, "pcm_f32le", 1), [wire("pcm_f32le", loud)]).tolist() == loud.tolist()
