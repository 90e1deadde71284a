"""What a decoder's process may not do, whom it outlives and who outlives it, and that it is not believed."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from streamer import nursery
from streamer.codecs import Damaged
from streamer.decoder import Decoder
from streamer.decoder_process import DAMAGE, HEADER, SAMPLES, USED
from tests.streamer.compressed import recordings, wav_header
from tests.streamer.decoding import LONG_S, WAYS, Ear, decoding, gone, hear_all, needs_proc

pytest.importorskip("av", reason="needs PyAV (the extra `codecs`)")


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
        with pytest.raises(OSError, match="no word of how it ended"):  # no fault of the bytes
            await decoder.finish()

        async def another() -> None:
            ear = Ear()
            async with decoding("flac", ear, fork=True) as other:
                await hear_all(other, recordings()["flac"][1])
            assert ear.parts

        await asyncio.gather(*(another() for _ in range(5)))
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


@needs_proc
def test_a_confined_process_gets_no_file_no_socket_and_no_more_memory() -> None:
    code = """
import socket
from streamer.decoder_process import confine
confine()
for wish in (lambda: open("/dev/null"), socket.socket, lambda: bytearray(1 << 29)):
    try:
        wish()
    except (OSError, MemoryError) as error:
        print(type(error).__name__)
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, close_fds=True)
    assert done.stdout.split() == ["OSError", "OSError", "MemoryError"]


@pytest.mark.parametrize("fork", WAYS)
def test_the_daemons_own_event_loop_will_do(fork: bool) -> None:
    uvloop = pytest.importorskip("uvloop", reason="uvloop is not installed")
    _, data = recordings()["webm opus"]
    ear = Ear()

    async def main() -> None:
        async with decoding("webm", ear, fork=fork) as decoder:
            await hear_all(decoder, data, 500)
        async with decoding("webm", ear, fork=fork) as decoder:
            await decoder.feed(data[:5000])
            await decoder.settle()

    uvloop.run(main())
    assert len(ear.samples) > 1.5 * 48000


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
        pytest.param(HEADER.pack(DAMAGE, 0, 0, 4000) + b"[" * 4000, id="JSON without end"),
        pytest.param(HEADER.pack(DAMAGE, 0, 0, 17) + b'["a", "b", 99, 0]', id="damage behind what was fed"),
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
        return 0

    def kill(self) -> None:
        self.writer.transport.abort()
