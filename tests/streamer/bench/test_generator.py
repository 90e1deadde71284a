"""Claims about a load's clients, against a daemon on the toy backend: they hear what was said, whatever happens."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from websockets.asyncio.server import ServerConnection, serve

from clients.client import Options, stream_url
from streamer.backends.base import Row
from streamer.backends.fake import Faults, spell
from streamer.bench.generator import generate
from streamer.bench.load import LoadFailed, watch
from streamer.bench.mishaps import Mishaps
from streamer.bench.notes import read
from streamer.bench.order import Order, Speech
from streamer.bench.tally import Tally
from tests.served import served

TEXTS = ("abc de  fg", "hi    jkl ")
PCM = [np.concatenate([(spell(text) * 32768).astype(np.int16), np.zeros(1080, np.int16)]) for text in TEXTS]
AUDIO = np.concatenate(PCM)
PAUSES = ((26,), (18,))  # messages of 20 ms, behind "de" and "hi"
REFERENCES = [text.split() for text in TEXTS]


def order(url: str, **fields: Any) -> Order:
    """Two streams, one of each recording."""
    begins = (0, len(PCM[0]))
    speeches = tuple(
        Speech(begin=begin, samples=len(pcm), quiet=quiet)
        for begin, pcm, quiet in zip(begins, PCM, PAUSES, strict=True)
    )
    address = stream_url(url, Options(latency_ms=80, endpointing=False))
    values = {"chunk": 1, "streams": 2, "audio": "", "speeches": speeches, "ramp_s": 0.1, "message_ms": 20}
    return Order(url=address, **{**values, **fields})


async def seen(load: Order) -> Tally:
    """What a generator in this process tells of it."""
    tally = Tally(REFERENCES, counted=(0, math.inf), letters=False)
    await generate(load, AUDIO, lambda line: tally.add(0, read(line)))
    return tally


async def test_every_word_comes_back_with_its_times() -> None:
    async with served() as url:
        tally = await seen(order(url))
    assert tally.well, tally.errors
    assert tally.hows == {"closed": 2}
    assert tally.words == 5 == len(tally.first.at)
    moments = zip(tally.first.seconds, tally.stable.seconds, tally.final.seconds, strict=True)
    assert all(first <= stable <= final for first, stable, final in moments)
    assert tally.sent == len(tally.late) == sum(-(-len(pcm) // 320) for pcm in PCM)
    assert tally.audio_s == pytest.approx(len(AUDIO) / 16000)
    assert len(tally.chunks.at) >= 5
    assert min(tally.chunks.seconds) > 0, "no partial comes before its chunk was sent"
    assert len(tally.closes.at) == 2


async def test_finalizes_are_answered_and_change_no_word() -> None:
    async with served() as url:
        tally = await seen(order(url, mishaps=Mishaps(finalize_s=0.2, jitter_ms=30)))
    assert tally.well, tally.errors
    assert len(tally.finalizes.at) == 4, "in the pause of each recording, and at its end"
    assert tally.cut_streams == 2


async def test_a_stalled_stream_catches_up_and_loses_nothing() -> None:
    async with served("session.stall_ms=100") as url:
        tally = await seen(order(url, mishaps=Mishaps(stalls=1.0, stall_s=0.5)))
    assert tally.well, tally.errors
    assert tally.cut_streams == 2
    assert len(tally.chunks.at) <= len("abcde" + "hi"), "what a stall delays is no measure of the daemon"
    assert not tally.first.at


async def test_a_stream_whose_line_breaks_is_followed_by_another() -> None:
    async with served() as url:
        tally = await seen(order(url, seconds=1.5, mishaps=Mishaps(disconnects=1.0)))
    assert tally.well, tally.errors
    assert tally.hows["dropped"] > 2
    assert set(tally.hows) == {"dropped"}


async def test_refused_streams_are_told_apart() -> None:
    async with served(slots=3) as url:  # one of them is spare
        tally = await seen(order(url, streams=3))
    assert tally.hows == {"refused": 1, "closed": 2}
    assert not tally.well
    assert "at_capacity" in next(iter(tally.errors))


async def test_a_fault_of_the_daemon_is_a_failed_stream() -> None:
    def on_row(row: Row) -> Exception | None:
        return ValueError("as ordered") if np.abs(row.pcm).max(initial=0) > 0.25 else None  # in the second recording

    async with served(faults=Faults(on_row=on_row)) as url:
        tally = await seen(order(url))
    assert tally.hows == {"closed": 1, "failed": 1}
    assert "internal" in next(iter(tally.errors))


async def test_a_final_that_never_comes_is_a_lost_one() -> None:
    async def hang_up(socket: ServerConnection) -> None:
        await socket.send('{"type":"ready","session_id":"a","model":"m","latency_ms":80,"sample_rate":16000}')
        await socket.recv()
        await socket.close()

    async with serve(hang_up, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        tally = await seen(order(f"ws://127.0.0.1:{port}", streams=1))
    assert tally.hows == {"failed": 1}
    assert tally.finals_lost == 1


async def test_a_segment_that_nobody_heard_of_is_a_lost_final() -> None:
    async def skip(socket: ServerConnection) -> None:
        await socket.send('{"type":"ready","session_id":"a","model":"m","latency_ms":80,"sample_rate":16000}')
        async for message in socket:
            if message == '{"type":"close"}':
                await socket.send('{"type":"final","segment":1,"words":[],"reason":"close"}')
                await socket.send('{"type":"closed","audio_seconds":0.8}')

    async with serve(skip, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        tally = await seen(order(f"ws://127.0.0.1:{port}", streams=1))
    assert tally.hows == {"closed": 1}
    assert tally.finals_lost == 1


async def test_without_a_daemon_streams_fail_in_words() -> None:
    tally = await seen(order("ws://127.0.0.1:9", streams=1))
    assert tally.hows == {"failed": 1}
    assert not tally.well


async def test_processes_share_the_seats(tmp_path: Path) -> None:
    np.save(tmp_path / "audio.npy", AUDIO)
    tally = Tally(REFERENCES, counted=(0, math.inf), letters=False)
    ticks: list[float] = []
    async with served() as url:
        load = order(url, audio=str(tmp_path / "audio.npy"))
        await asyncio.to_thread(watch, load, 2, tally.add, ticks.append)
    assert tally.well, tally.errors
    assert tally.hows == {"closed": 2}
    assert set(tally.open) == {0, 1}
    assert ticks


def test_a_process_that_ends_early_is_said(tmp_path: Path) -> None:
    with pytest.raises(LoadFailed, match="ended with code 1"):
        watch(order("ws://127.0.0.1:9", audio=str(tmp_path / "none.npy")), 1, lambda *_: None, lambda _: None)
