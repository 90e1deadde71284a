"""How streams of compressed audio end when something is wrong, or too much: in words, in order, and soon."""

from __future__ import annotations

import asyncio
import io
import sys

import numpy as np
import numpy.typing as npt
import pytest
import soundfile

from streamer import nursery
from streamer.backends.fake import spell
from streamer.codecs import Damaged, pieces
from tests.streamer.house import House, Message, finals, house, kinds, listen, say, until

pytest.importorskip("av", reason="PyAV, the extra codecs, is not installed")


def flac(samples: npt.NDArray[np.float32]) -> bytes:
    out = io.BytesIO()
    soundfile.write(out, samples, 16000, format="FLAC", subtype="PCM_16")
    return out.getvalue()


async def stream(home: House, data: bytes, query: str) -> tuple[list[Message], int | None]:
    async with home.client(query) as socket:
        await socket.send(data)
        await say(socket, "close")
        return await asyncio.wait_for(listen(socket), 60), socket.close_code


async def test_a_few_bytes_that_hold_hours_are_heard_up_to_the_longest_session() -> None:
    samples = np.zeros(16000 * 1200, np.float32)
    samples[: len(spell("abc def"))] = spell("abc def")
    async with house("session.max_session_s=5") as home:
        said, code = await stream(home, flac(samples), "encoding=flac&latency=80")
        await home.empty()
    assert [m["code"] for m in said if m["type"] == "error"] == ["session_limit"]
    assert kinds(said)[-1] == "closed"
    assert (said[-1]["audio_seconds"], code) == (5.0, 1008)
    assert finals(said) == "abc def"


async def test_a_fork_server_that_cannot_start_is_the_servers_fault_and_not_the_clients_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not nursery.can_fork():
        pytest.skip("no fork server here")
    nursery.close()
    monkeypatch.setattr(nursery, "_command", lambda _run: [sys.executable, "-c", ""])
    async with house() as home:
        said, code = await stream(home, flac(spell("abc")), "encoding=flac&latency=80")
        assert kinds(said)[1:] == ["error", "final", "closed"]
        assert (said[-3]["code"], code) == ("internal", 1011)
    nursery.close()


async def test_decoders_that_were_killed_are_the_servers_fault_and_what_was_heard_stays() -> None:
    if not nursery.can_fork():
        pytest.skip("no fork server here")
    wav = io.BytesIO()
    soundfile.write(wav, spell("abc def ghi"), 16000, format="WAV", subtype="PCM_16")
    async with house("session.stall_ms=100") as home:
        async with home.client("encoding=wav&latency=80") as socket:
            await socket.send(wav.getvalue()[: 44 + 2 * 9 * 1280])
            heard = [await until(socket, "final")]
            nursery.close()
            heard += await asyncio.wait_for(listen(socket), 30)
            assert socket.close_code == 1011
        assert finals(heard).split()[:2] == ["abc", "def"]
        assert [m["code"] for m in heard if m["type"] == "error"] == ["internal"]
        again, code = await stream(home, wav.getvalue(), "encoding=wav&latency=80")
        assert (finals(again), code) == ("abc def ghi", 1000)


def test_boxes_that_promise_samples_and_give_none_are_damage() -> None:
    data = b"\0\0\0\x10ftypisom\0\0\0\0" + b"\0\0\0\x08moov" + b"\0\0\0\x08moof" * 3000
    with pytest.raises(Damaged):
        list(pieces(io.BytesIO(data), "mp4"))
