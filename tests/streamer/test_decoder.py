"""A decoder in a process of its own: the same samples as here, in the same order, and damage in words."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal

import numpy as np
import pytest

from streamer.codecs import Damaged
from streamer.decoder import MOST_WAITING_BYTES, Decoder
from tests import fuzz_codecs
from tests.streamer.compressed import cut, decoded, recordings, wav_header
from tests.streamer.decoding import WAYS, Ear, decoding, hear_all, needs_proc

pytest.importorskip("av", reason="needs PyAV (the extra `codecs`)")


@pytest.mark.parametrize("fork", WAYS)
@pytest.mark.parametrize("name", ["webm opus", "ogg vorbis", "flac", "mp3", "mp4 aac", "wav PCM_24", "wav MS_ADPCM"])
async def test_a_process_of_its_own_gives_the_same_samples(name: str, fork: bool) -> None:
    container, data = recordings()[name]
    ear = Ear()
    async with decoding(container, ear, fork=fork) as decoder:
        for piece in cut(data, 999):
            await decoder.feed(piece)
        await decoder.finish()
        assert decoder.failure is None
    np.testing.assert_array_equal(ear.samples, decoded(data, container)[0])
    assert len(ear.rates) == 1


async def test_streams_side_by_side_do_not_mix() -> None:
    async def one(name: str) -> None:
        container, data = recordings()[name]
        ear = Ear()
        async with decoding(container, ear) as decoder:
            await hear_all(decoder, data, 700)
        np.testing.assert_array_equal(ear.samples, decoded(data, container)[0])

    await asyncio.gather(*(one(name) for name in recordings()))


async def test_a_first_message_of_one_byte_and_all_others_of_one_byte() -> None:
    _, data = recordings()["webm opus"]
    ear = Ear()
    async with decoding("webm", ear) as decoder:
        for piece in cut(data[:3000], 1):
            await decoder.feed(piece)
        await decoder.feed(data[3000:])
        await decoder.finish()
    np.testing.assert_array_equal(ear.samples, decoded(data, "webm")[0])


async def test_settled_means_that_everything_fed_has_been_heard_as_far_as_it_can_be() -> None:
    container, data = recordings(3.0)["webm opus"]
    ear = Ear()
    async with decoding(container, ear) as decoder:
        await decoder.settle()  # nothing was fed: at once
        heard = []
        for piece in cut(data, 2000):
            await decoder.feed(piece)
            await decoder.settle()
            heard.append(len(ear.samples))
            await decoder.settle()
            assert len(ear.samples) == heard[-1], "nothing comes after it"
        await decoder.finish()
    total = len(ear.samples)
    for number, samples in enumerate(heard, 1):
        expected = total * min(1.0, 2000 * number / len(data))
        assert abs(samples - expected) < 0.15 * 48000


async def test_samples_come_while_bytes_are_still_to_come() -> None:
    _, data = recordings(3.0)["ogg opus"]
    come = asyncio.Event()

    def hear(*_: object) -> None:
        come.set()

    async with decoding("ogg", hear) as decoder:
        await decoder.feed(data[:4000])
        await come.wait()


async def test_a_damaged_stream_hands_on_what_came_before_and_says_where() -> None:
    _, data = recordings(3.0)["flac"]
    broken = bytearray(data)
    broken[200_000:200_040] = bytes(40)
    ear = Ear()
    async with decoding("flac", ear) as decoder:
        with pytest.raises(Damaged, match=r"near byte 1\d{5} \(1\.\d\d s\), expected a packet of flac") as caught:
            await hear_all(decoder, bytes(broken), 5000)
        assert decoder.failure is caught.value
        for again in (decoder.feed(b"more"), decoder.settle(), decoder.finish()):
            with pytest.raises(Damaged):
                await again
    whole, _ = decoded(data, "flac")
    assert len(ear.samples) == pytest.approx(caught.value.at_s * 44100)
    np.testing.assert_array_equal(ear.samples, whole[: len(ear.samples)])


@pytest.mark.parametrize("data", [b"", bytes(300_000), b"#EXTM3U\nhttp://127.0.0.1:1/x\n" * 99], ids=["", "0", "m3u8"])
@pytest.mark.parametrize("container", ["webm", "ogg", "flac", "mp4", "wav"])
async def test_garbage_is_damage_or_nothing(container: str, data: bytes) -> None:
    ear = Ear()
    async with decoding(container, ear) as decoder:
        if (container, data) == ("ogg", b""):
            await hear_all(decoder, data)
        else:
            with pytest.raises(Damaged, match=r"audio: got (?!.*died)"):
                await hear_all(decoder, data)
    assert not ear.parts


@pytest.mark.parametrize("fork", WAYS)
async def test_a_process_killed_from_outside_is_a_fault_of_ours_and_no_damage(fork: bool) -> None:
    _, data = recordings()["webm opus"]
    ear = Ear()
    async with decoding("webm", ear, fork=fork) as decoder:
        await decoder.feed(data[:8000])
        await decoder.settle()
        os.kill(decoder.pid, signal.SIGKILL)
        with pytest.raises(OSError, match="decoder: got SIGKILL, expected it to decode webm audio"):
            await decoder.finish()
        assert decoder.failure is None
    assert len(ear.samples) > 10_000


@pytest.mark.parametrize("fork", WAYS)
async def test_a_process_that_a_signal_of_its_own_ended_is_damage(fork: bool, caplog: pytest.LogCaptureFixture) -> None:
    _, data = recordings()["webm opus"]
    async with decoding("webm", Ear(), fork=fork) as decoder:
        await decoder.feed(data[:8000])
        await decoder.settle()
        os.kill(decoder.pid, signal.SIGSEGV)
        with (
            caplog.at_level(logging.ERROR),
            pytest.raises(Damaged, match="the decoder died with SIGSEGV near byte 8000"),
        ):
            await decoder.finish()
    assert "of webm audio died with SIGSEGV" in caplog.text


@pytest.mark.parametrize("fork", WAYS)
async def test_closing_in_the_middle_ends_the_process_and_what_waits(fork: bool) -> None:
    never = asyncio.Event()

    async def hear(*_: object) -> None:
        await never.wait()

    async with decoding("wav", hear, fork=fork) as decoder:
        waiting = asyncio.create_task(decoder.feed(wav_header(1, 1, 16000, 16, 0) + bytes(4 * MOST_WAITING_BYTES)))
        done, _ = await asyncio.wait([waiting], timeout=0.5)
        assert not done
        decoder.close()
        decoder.close()
        await waiting
        await decoder.feed(b"into the void")
        await decoder.settle()
        await decoder.finish()
        assert decoder.failure is None


async def test_who_does_not_listen_stops_the_stream_and_nobody_else() -> None:
    release, taken = asyncio.Event(), 0

    async def hear(*_: object) -> None:
        await release.wait()

    async def feed(decoder: Decoder) -> None:
        nonlocal taken
        await decoder.feed(wav_header(1, 1, 16000, 16, 0))
        for _ in range(100):
            await decoder.feed(bytes(50_000))
            taken += 50_000

    async with decoding("wav", hear) as decoder:
        feeding = asyncio.create_task(feed(decoder))
        await asyncio.wait([feeding], timeout=1.0)
        assert taken < 2_000_000, "our bound, the sockets' buffers and what the process holds"
        ear = Ear()
        async with decoding("flac", ear) as other:
            await other.feed(recordings()["flac"][1])
            await other.finish()
        assert ear.parts
        release.set()
        await feeding
        await decoder.finish()


async def test_a_fault_of_the_listener_comes_out_where_bytes_go_in() -> None:
    def hear(*_: object) -> None:
        raise ConnectionResetError("no ears")

    async with decoding("flac", hear) as decoder:
        with pytest.raises(ConnectionResetError, match="no ears"):
            await hear_all(decoder, recordings()["flac"][1])


@needs_proc
async def test_damaged_recordings_of_all_kinds_neither_hang_nor_leak_nor_kill() -> None:
    async with decoding("wav", Ear()):
        pass
    before = fuzz_codecs.open_files()
    seed = random.randrange(1 << 30)
    tallies = await fuzz_codecs.fuzz(seconds=8.0, seed=seed, most=400)
    await asyncio.sleep(0)
    assert sum(tally.cases for tally in tallies.values()) >= 5
    bad = {name: tally for name, tally in tallies.items() if tally.died or tally.hung}
    assert not bad, f"seed {seed}: {bad}"
    assert fuzz_codecs.open_files() <= before + 2
    assert max(tally.most_rss_mib for tally in tallies.values()) < 500
