"""A decoder in a process of its own: the same samples as here, and no way in which its end is ours."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest

from streamer import nursery
from streamer.codecs import Damaged
from streamer.decoder import MOST_WAITING_BYTES, Decoder
from streamer.decoder_process import DAMAGE, HEADER, SAMPLES, USED
from tests import fuzz_codecs
from tests.streamer.compressed import Samples, cut, decoded, joined, recordings, wav_header

pytest.importorskip("av", reason="needs PyAV (the extra `codecs`)")

LINUX = sys.platform.startswith("linux")
LONG_S = 60.0  # for what must come; a busy machine takes its time
WAYS = [
    pytest.param(True, id="forked", marks=pytest.mark.skipif(not LINUX, reason="a fork server needs Linux")),
    pytest.param(False, id="spawned"),
]
needs_proc = pytest.mark.skipif(not LINUX, reason="looks into /proc")


class Ear:
    """What comes out of a decoder."""

    def __init__(self) -> None:
        self.parts: list[Samples] = []
        self.rates: set[int] = set()

    def __call__(self, samples: Samples, rate: int) -> None:
        self.parts.append(samples)
        self.rates.add(rate)

    @property
    def samples(self) -> Samples:
        return joined(self.parts)


@asynccontextmanager
async def decoding(container: str, ear: object, *, fork: bool = nursery.can_fork()) -> AsyncIterator[Decoder]:
    """A decoder that is closed at the end, and in time."""
    async with asyncio.timeout(LONG_S):
        decoder = await Decoder.start(container, ear, fork=fork)  # type: ignore[arg-type]
        try:
            yield decoder
        finally:
            decoder.close()
            await gone(decoder.pid)


async def hear_all(decoder: Decoder, data: bytes, size: int = 1 << 20) -> None:
    """From the first byte to the end."""
    for piece in cut(data, size):
        await decoder.feed(piece)
    await decoder.finish()


async def gone(pid: int) -> None:
    """Wait until there is no such process, nor a zombie of one."""
    async with asyncio.timeout(LONG_S):
        while True:
            try:
                os.kill(pid, 0)
            except ProcessLookupError:
                return
            await asyncio.sleep(0.01)


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


@pytest.mark.parametrize("data", [b"", bytes(5000), b"#EXTM3U\nhttp://127.0.0.1:1/x\n" * 99], ids=["", "0", "m3u8"])
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
async def test_a_process_killed_from_outside_is_damage_in_words(fork: bool, caplog: pytest.LogCaptureFixture) -> None:
    _, data = recordings()["webm opus"]
    ear = Ear()
    async with decoding("webm", ear, fork=fork) as decoder:
        await decoder.feed(data[:8000])
        await decoder.settle()
        os.kill(decoder.pid, signal.SIGKILL)
        with (
            caplog.at_level(logging.ERROR),
            pytest.raises(Damaged, match="the decoder died with SIGKILL near byte 8000"),
        ):
            await decoder.finish()
    assert "of webm audio died with SIGKILL" in caplog.text
    assert len(ear.samples) > 10_000


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
        raise RuntimeError("no ears")

    async with decoding("flac", hear) as decoder:
        with pytest.raises(RuntimeError, match="no ears"):
            await hear_all(decoder, recordings()["flac"][1])


@needs_proc
@pytest.mark.parametrize("fork", WAYS)
async def test_the_process_has_no_socket_key_or_file_of_the_daemon(fork: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMER_API_KEYS", "secret")
    with socket.create_server(("127.0.0.1", 0)) as listening, open(__file__) as file:
        for ours in (listening, file):
            os.set_inheritable(ours.fileno(), True)
        nursery.close()  # a server that starts while they are open
        async with decoding("wav", Ear(), fork=fork) as decoder:
            await decoder.feed(wav_header(1, 1, 16000, 16, 0) + bytes(100))
            await decoder.settle()
            proc = Path(f"/proc/{decoder.pid}")
            opened = {entry.name: os.readlink(entry) for entry in (proc / "fd").iterdir()}
            assert set(opened) == {"0", "1", "2"}
            assert opened["0"].startswith(("socket:", "pipe:"))
            assert opened["1"] == "/dev/null" or not fork
            assert b"secret" not in (proc / "environ").read_bytes()
            assert os.readlink(proc / "cwd") == "/"
            limits = {line[:25].strip(): line[25:].split()[:2] for line in (proc / "limits").read_text().splitlines()}
            assert limits["Max open files"] == ["3", "3"]
            assert limits["Max core file size"] == ["0", "0"]
            assert int(limits["Max address space"][0]) < 2 << 30
            assert int(limits["Max cpu time"][0]) < 60
            assert len(list((proc / "task").iterdir())) == 1


@needs_proc
async def test_a_fork_server_that_was_killed_takes_its_children_along_and_is_started_again() -> None:
    async with decoding("wav", Ear(), fork=True) as decoder:
        server = nursery.server_pid()
        assert server is not None
        os.kill(server, signal.SIGKILL)
        await gone(decoder.pid)
        with pytest.raises(Damaged, match="the decoder died"):
            await decoder.finish()
        ear = Ear()
        async with decoding("flac", ear, fork=True) as other:
            await other.feed(recordings()["flac"][1])
            await other.finish()
        assert ear.parts
        assert nursery.server_pid() not in (None, server)


@needs_proc
@pytest.mark.parametrize("fork", ["True", "False"])
async def test_when_the_daemon_is_killed_its_decoders_end(fork: str) -> None:
    code = f"""
import asyncio
from streamer.decoder import Decoder
async def main():
    decoder = await Decoder.start("wav", lambda samples, rate: None, fork={fork})
    print(decoder.pid, flush=True)
    await asyncio.sleep(3600)
asyncio.run(main())
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        os.kill(pid, 0)
        parent.kill()
    await gone(pid)


@needs_proc
def test_who_computes_without_end_is_ended_by_the_kernel() -> None:
    code = """
from streamer import decoder_process
decoder_process.CPU_S = 1
decoder_process.CpuBudget()()
while True:
    pass
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGXCPU


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(HEADER.pack(9, 0, 0, 0), id="an unknown frame"),
        pytest.param(HEADER.pack(SAMPLES, 0, 16000, 8) + bytes(8), id="no channels"),
        pytest.param(HEADER.pack(SAMPLES, 1, 1, 8) + bytes(8), id="a rate of 1 Hz"),
        pytest.param(HEADER.pack(SAMPLES, 1, 16000, 1 << 60), id="more samples than there is memory"),
        pytest.param(HEADER.pack(SAMPLES, 2, 16000, 12) + bytes(12), id="half a block"),
        pytest.param(HEADER.pack(USED, 0, 0, 99), id="more used than fed"),
        pytest.param(HEADER.pack(DAMAGE, 0, 0, 1 << 40), id="a long story"),
        pytest.param(HEADER.pack(DAMAGE, 0, 0, 4) + b"[[[[", id="no JSON"),
        pytest.param(HEADER.pack(DAMAGE, 0, 0, 2) + b"{}", id="not four values"),
        pytest.param(struct.pack("<B", SAMPLES), id="half a header"),
    ],
)
async def test_a_process_in_the_hands_of_a_stranger_is_not_believed(said: bytes) -> None:
    ours, its = socket.socketpair()
    its.sendall(said)
    its.shutdown(socket.SHUT_WR)
    decoder = Decoder("webm", Captured(*await asyncio.open_unix_connection(sock=ours)), Ear())
    with its, pytest.raises(Damaged, match="the decoder died"):
        async with asyncio.timeout(LONG_S):
            await decoder.finish()
    decoder.close()


class Captured:
    """A child that says what a stranger wants it to say."""

    pid = 1 << 30

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def ended(self) -> int | None:
        return None

    def kill(self) -> None:
        self.writer.transport.abort()


@needs_proc
async def test_damaged_recordings_of_all_kinds_neither_hang_nor_leak_nor_kill() -> None:
    async with decoding("wav", Ear()):
        pass
    before = fuzz_codecs.open_files()
    seed = random.randrange(1 << 30)
    tallies = await fuzz_codecs.fuzz(seconds=8.0, seed=seed, most=400)
    await asyncio.sleep(0)
    assert sum(tally.cases for tally in tallies.values()) >= 20
    bad = {name: tally for name, tally in tallies.items() if tally.died or tally.hung}
    assert not bad, f"seed {seed}: {bad}"
    assert fuzz_codecs.open_files() <= before + 2
    assert max(tally.most_rss_mib for tally in tallies.values()) < 500
