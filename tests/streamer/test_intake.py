"""Compressed audio on a stream: the words of its samples, whatever the container, the cuts and the ends."""

from __future__ import annotations

import asyncio
import importlib.util
import io
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import soundfile

from streamer.backends.fake import spell
from streamer.connection import stream_key
from tests.streamer.house import House, Message, finals, house, kinds, listen, say, until

TEXT = "abc def ghi jkl mno"
av = pytest.importorskip("av", reason="PyAV, the extra codecs, is not installed")


def file(kind: str, samples: npt.NDArray[Any], rate: int = 16000) -> bytes:
    """A whole file of these samples, which both formats keep to the bit."""
    out = io.BytesIO()
    soundfile.write(out, samples, rate, format=kind.upper(), subtype="PCM_16")
    return out.getvalue()


def bare(samples: npt.NDArray[Any]) -> bytes:
    return (np.round(samples * 32768).clip(-32768, 32767)).astype("<i2").tobytes()


async def stream(home: House, data: bytes, query: str, piece: int = 4001, end: str = "close") -> list[Message]:
    async with home.client(query) as socket:
        for at in range(0, len(data), piece):
            await socket.send(data[at : at + piece])
        if end:
            await say(socket, end)
        return await asyncio.wait_for(listen(socket), 60)


@pytest.mark.parametrize("kind", ["wav", "flac"])
@pytest.mark.parametrize("encoding", ["auto", "named"])
async def test_a_file_says_what_its_samples_say(kind: str, encoding: str) -> None:
    samples = spell(TEXT)
    async with house() as home:
        plain = await stream(home, bare(samples), "latency=80")
        for piece in (37, 4001, 1 << 18):
            query = f"latency=80&encoding={kind if encoding == 'named' else 'auto'}"
            said = await stream(home, file(kind, samples), query, piece)
            assert [m for m in said if m["type"] == "final"] == [m for m in plain if m["type"] == "final"]
            assert said[-1] == plain[-1]
        await home.empty()
    assert finals(plain) == TEXT


async def test_what_begins_like_no_file_is_bare_samples() -> None:
    async with house() as home:
        said = await stream(home, bare(spell(TEXT)), "encoding=auto&latency=80", piece=5)
        assert finals(said) == TEXT
        few = await stream(home, b"\0\1" * 3, "encoding=auto&latency=80")
        assert (kinds(few), few[-1]["audio_seconds"]) == (["ready", "final", "closed"], 0.0)
        none = await stream(home, b"", "encoding=flac&latency=80")
        assert (kinds(none), none[-1]["audio_seconds"]) == (["ready", "final", "closed"], 0.0)


async def test_a_finalize_cuts_where_it_was_sent() -> None:
    samples = spell(TEXT)
    half = 11 * 1280  # samples, between two words
    header = len(file("wav", samples)) - 2 * len(samples)

    async def finalized(home: House, first: bytes, second: bytes, query: str) -> list[Message]:
        async with home.client(query) as socket:
            await socket.send(first)
            await say(socket, "finalize")
            await socket.send(second)
            await say(socket, "close")
            return await asyncio.wait_for(listen(socket), 30)

    async with house("endpoint.enabled=false") as home:
        data, pcm = file("wav", samples), bare(samples)
        cut = header + 2 * half
        said = await finalized(home, data[:cut], data[cut:], "encoding=auto&latency=80")
        plain = await finalized(home, pcm[: 2 * half], pcm[2 * half :], "latency=80")
    assert [m for m in said if m["type"] == "final"] == [m for m in plain if m["type"] == "final"]
    assert [m["reason"] for m in said if m["type"] == "final"] == ["finalize", "close"]


async def test_what_came_before_the_damage_is_final_and_the_error_says_where() -> None:
    async with house() as home:
        garbage = await stream(home, b"fLaC" + bytes(5000), "encoding=auto&latency=80", end="")
        assert kinds(garbage)[1:] == ["error", "final", "closed"]
        assert garbage[-3]["code"] == "bad_audio"
        floats = io.BytesIO()
        samples = spell(TEXT)
        samples[14_720] = np.nan
        soundfile.write(floats, samples, 16000, format="WAV", subtype="FLOAT")
        async with home.client("encoding=wav&latency=80") as socket:
            await socket.send(floats.getvalue())
            said = await asyncio.wait_for(listen(socket), 30)
            assert socket.close_code == 1003
        plain = await stream(home, samples[:14_720].tobytes(), "encoding=pcm_f32le&latency=80")
    error = next(m for m in said if m["type"] == "error")
    assert error["code"] == "bad_audio"
    assert "nan" in error["message"]
    assert "byte" in error["message"]
    assert finals(said) == finals(plain)
    assert finals(said).split()[:3] == TEXT.split()[:3]


@pytest.mark.parametrize("kind", ["wav", "flac"])
async def test_a_server_that_stops_hears_what_the_decoder_still_holds(kind: str) -> None:
    samples = spell(TEXT)
    async with house() as home, home.client("encoding=auto&latency=80") as socket:
        await until(socket, "ready")
        await socket.send(file(kind, samples))
        home.daemon.stop()
        said = await asyncio.wait_for(listen(socket), 30)
        assert socket.close_code == 1001
    assert finals(said) == TEXT
    assert said[-1]["audio_seconds"] == round(len(samples) / 16000, 3)


async def test_channels_of_a_file_are_heard_apart_if_it_has_as_many() -> None:
    left, right = spell("abc def"), spell("xyz uvw")
    data = file("flac", np.column_stack([left, right]))
    async with house() as home:
        said = await stream(home, data, "encoding=auto&channels=2&multichannel=true&latency=80")
        texts = {m["channel"]: m["text"] for m in said if m["type"] == "final" and m["text"]}
        assert texts == {0: "abc def", 1: "xyz uvw"}
        mixed = await stream(home, file("flac", np.column_stack([left, left])), "encoding=auto&latency=80")
        assert finals(mixed) == "abc def"
        wrong = await stream(home, data, "encoding=auto&channels=3&multichannel=true&latency=80", end="")
    assert [m["message"] for m in wrong if m["type"] == "error"] == [
        "audio='2 channels': expected 3, as channels= says"
    ]


async def test_hours_in_a_few_bytes_wait_in_the_decoder_and_not_in_memory() -> None:
    silence = file("flac", np.zeros(16000 * 1200, np.float32))
    assert len(silence) < 1 << 20
    async with house("server.max_waiting_s=2") as home, home.client("encoding=flac&latency=1120") as socket:
        await until(socket, "ready")
        (session_id,) = home.daemon.connections
        most = 0.0

        async def watch() -> None:
            nonlocal most
            while True:
                most = max(most, home.daemon.engine.waiting_seconds(stream_key(session_id, 0)))
                await asyncio.sleep(0.002)

        watching = asyncio.create_task(watch())
        await socket.send(silence)
        await say(socket, "close")
        said = await asyncio.wait_for(listen(socket), 60)
        watching.cancel()
    assert said[-1] == {"type": "closed", "audio_seconds": 1200.0}
    assert 0 < most < 30, f"{most:.0f} s waited, expected a few"


async def test_a_client_that_vanishes_takes_its_decoder_along() -> None:
    async with house() as home:
        async with home.client("encoding=flac") as socket:
            await until(socket, "ready")
            await socket.send(file("flac", spell(TEXT))[:3000])
            (connection,) = home.daemon.connections.values()
            while (intake := connection._intake) is None or intake._decoder is None:
                await asyncio.sleep(0.01)
            decoder = intake._decoder
            socket.transport.abort()
        await home.empty()
        assert decoder._closed


async def test_without_the_extra_compressed_audio_is_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "av" else found(name, *rest))
    async with house() as home:
        refused = await stream(home, b"", "encoding=webm", end="")
        assert [(m["type"], m.get("code")) for m in refused] == [("error", "bad_request")]
        assert "lacks its extra codecs" in refused[0]["message"]
        said = await stream(home, file("wav", spell(TEXT)), "encoding=auto&latency=80")
        assert finals(said) == TEXT, "WAV needs no codec"
        told = await stream(home, file("flac", spell(TEXT)), "encoding=auto&latency=80", end="")
        assert [m["code"] for m in told if m["type"] == "error"] == ["bad_audio"]
        assert "streamer-asr[codecs]" in told[1]["message"]
