"""Claims about `streamer bench peers --sockets`: lateness means the same on both sides, and the limit is found."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from websockets.asyncio.server import ServerConnection, serve

from streamer.bench import peer_sockets, peer_sockets_report
from streamer.bench.peer_load import PIECE, Load, Ours, Sherpa, load_text, put_on
from streamer.bench.peer_sockets import Servers
from streamer.bench.peers import PEER, Book, Cell, PeerError
from tests.served import served

CELL = Cell("small", "int8", 560, 1, 1)
PCM = np.full(16_000, 0.1, np.float32)


def partial(*ends: float) -> bytes:
    return json.dumps({"type": "partial", "words": [{"word": "a", "end": end} for end in ends]}).encode()


def test_our_news_belongs_to_the_chunk_in_which_its_newest_word_ends() -> None:
    dialect = Ours(chunk=7)
    assert dialect.hear(b'{"type":"ready"}') is None
    assert dialect.ready
    assert dialect.hear(partial()) is None
    assert dialect.hear(partial(0.56)) == 7 * 1280 - 1080
    assert dialect.hear(partial(0.56)) is None, "nothing new"
    assert dialect.hear(partial(0.56, 0.64)) == 14 * 1280 - 1080
    assert dialect.hear(b'{"type":"closed"}') is None
    assert dialect.done


def test_their_messages_are_chunks_in_order_and_news_where_tokens_come() -> None:
    dialect = Sherpa(chunk=7)
    assert dialect.hear(b'{"tokens":[]}') is None
    assert dialect.hear(b'{"tokens":["a"]}') == 2 * 7 * 1280 + 1720
    assert dialect.hear(b'{"tokens":["a"]}') is None
    assert dialect.hear(b'{"tokens":["a","b"]}') == 4 * 7 * 1280 + 1720
    assert dialect.hear(b"Done!") is None
    assert dialect.done


async def test_a_load_on_our_daemon_hears_news_and_the_end_of_every_stream() -> None:
    async with served() as url:
        asked = f"{url}/v1/stream?latency=80&endpointing=false&encoding=pcm_f32le&sample_rate=16000"
        seen = await put_on(Load("ours", asked, os.getpid(), "", 3, 1, 0.3, 1.5), PCM)
    assert seen["errors"] == []
    assert seen["news_a_second"] > 0
    assert 0 < seen["late_p50_s"] <= seen["late_p95_s"] < 1
    assert seen["final_p95_s"] > 0


async def test_lateness_counts_from_the_message_that_made_their_chunk_whole() -> None:
    delay_s = 0.15

    async def sherpa(connection: ServerConnection) -> None:
        """A message for each chunk of a frame, all of them news, a little late."""
        samples = chunks = 0
        async for message in connection:
            if message == "Done":
                await connection.send("Done!")
                continue
            samples += len(message) // 4
            while samples >= 1280 * (chunks + 1) + 1720:
                chunks += 1
                await asyncio.sleep(delay_s)
                await connection.send(json.dumps({"tokens": ["a"] * chunks}))

    async with serve(sherpa, "127.0.0.1", 0) as server:
        url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        seen = await put_on(Load(PEER, url, os.getpid(), "", 1, 1, 0.0, 1.0), PCM)
    assert seen["errors"] == []
    assert seen["late_p50_s"] >= delay_s
    assert PIECE == 1280


async def test_a_server_that_hangs_up_is_an_error_of_the_stream() -> None:
    async def rude(connection: ServerConnection) -> None:
        await connection.recv()

    async with serve(rude, "127.0.0.1", 0) as server:
        url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        seen = await put_on(Load(PEER, url, os.getpid(), "", 2, 1, 0.0, 0.6), PCM)
    assert len(seen["errors"]) == 2
    assert peer_sockets.passed(seen, CELL).startswith("2 streams failed: the server hung up")


def servers(folder: Path) -> Servers:
    return Servers(lambda *_: folder, lambda *_: None, folder, folder / "none", ["--num-threads=1"], PCM, 1.0)


def run_of(streams: int, late_s: float) -> dict[str, Any]:
    return {
        "streams": streams, "errors": [], "late_p50_s": late_s / 2, "late_p95_s": late_s, "final_p95_s": 0.1,
        "server_cpu": 0.5, "load_cpu": 0.1, "rss_mb": 100.0, "news_a_second": 2.0,
    }  # fmt: skip


def test_streams_are_raised_until_news_is_a_chunk_late_for_both_in_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits, order = {"ours": 50, PEER: 11}, list[str]()

    def measured(_: Cell, __: Servers, side: str, streams: int) -> dict[str, Any]:
        order.append(side)
        return run_of(streams, 0.01 if streams <= limits[side] else 0.6)

    monkeypatch.setattr(peer_sockets, "measured", measured)
    book, said = Book(tmp_path), list[str]()
    assert peer_sockets.run([CELL], servers(tmp_path), book, said.append, again=False) == 0
    assert order[:4] == ["ours", PEER, "ours", PEER]
    assert order[4] == PEER, "what fails is tried once more"
    assert any("600 ms late at p95" in line for line in said)
    text = peer_sockets_report.save(book, tmp_path).read_text("utf-8")
    [ours] = [line for line in text.splitlines() if line.startswith("| 14 M, 16x176, int8 | 560 ms | ours |")]
    assert 48 <= int(ours.split("|")[4]) <= 50 < int(ours.split("|")[5]) <= 53
    assert f"| 14 M, 16x176, int8 | 560 ms | {PEER} | 11 | 12 | 5 / 10 | 100 | 0.0455 | 100 | 2.0 |" in text
    assert text.count("| not run |") == 2 * (2 * 2 * 4) - 2
    assert peer_sockets.run([CELL], servers(tmp_path), Book(tmp_path), said.append, again=False) == 0
    assert said[-1] == "small/int8/560ms: done before"


def test_a_search_that_was_cut_off_begins_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = [3]

    def measured(_: Cell, __: Servers, ___: str, streams: int) -> dict[str, Any]:
        left[0] -= 1
        if not left[0]:
            raise SystemExit(143)
        return run_of(streams, 0.01 if streams < 20 else 0.6)

    monkeypatch.setattr(peer_sockets, "measured", measured)
    with pytest.raises(SystemExit):
        peer_sockets.run([CELL], servers(tmp_path), Book(tmp_path), lambda _: None, again=False)
    assert "not run" not in peer_sockets_report.row(CELL, "ours", Book(tmp_path).section("sockets")["small/int8/560ms"])
    said: list[str] = []
    peer_sockets.run([CELL], servers(tmp_path), Book(tmp_path), said.append, again=False)
    assert len(said) > 4


def test_a_program_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(PeerError, match="got No such file or directory, expected sherpa-onnx's server"):
        peer_sockets.measured(CELL, servers(tmp_path), PEER, 1)
    assert json.loads(load_text(Load(PEER, "ws://x", 1, "a", 2, 7, 0.0, 1.0)))["chunk"] == 7
