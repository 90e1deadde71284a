"""Claims about `streamer bench overhead`: the daemon says its words under the load, and the table has all figures."""

from __future__ import annotations

import asyncio
import re
import socket
import sys
from pathlib import Path

import pytest

from streamer.bench import overhead
from streamer.bench.overhead import DAEMON, READER, OverheadFailed, Run, Server, at_rest, serving, table, under_load
from streamer.cli import main
from streamer.commands.overhead import SCHEDSTAT


@pytest.mark.skipif(not SCHEDSTAT.exists(), reason="no processor time of threads on this system")
def test_the_table_has_what_a_message_and_a_step_cost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(overhead, "SETTLE_S", 0.2)
    command = ["bench", "overhead", "--streams", "2", "--seconds", "1", "--rounds", "1", "--out", str(tmp_path)]
    assert main(command) == 0
    text = (tmp_path / "overhead.md").read_text("utf-8")
    assert capsys.readouterr().out == text
    figures = dict(re.findall(r"^\| (.+?) \| (.+) \|$", text, re.M))
    assert "2 real-time streams at 80 ms" in text
    steps, said = (int(number) for number in figures["steps, and messages out, a second"].split(", "))
    assert steps > 0
    assert said > 0, "partials"
    for name in ("a message, all threads", "a message, a server that only reads it", "a step, the engine's thread"):
        assert float(figures[name].removesuffix(" us")) > 0
    assert {"0 silent streams, of one processor", "2 silent streams, of one processor", "machine"} <= set(figures)


def test_each_run_finds_the_places_of_the_one_before_free_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overhead, "SETTLE_S", 0.0)
    with serving(DAEMON, 2) as daemon:  # which has room for three
        for _ in range(5):
            asyncio.run(at_rest(daemon, 2, 0.0))
            assert daemon.streams() == 0
        with pytest.raises(OverheadFailed, match=r"^daemon: got \d ready connections and [12] x error, expected 5$"):
            asyncio.run(at_rest(daemon, 5, 0.0))
        asyncio.run(under_load(daemon, 2, 0.1))


def test_a_server_that_says_nothing_is_waited_for_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overhead, "WAIT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        server = Server(READER, 0, silent.getsockname()[1])
        with pytest.raises(OverheadFailed, match=r"^reader: got 0 ready connections and no more in 0 s, expected 2$"):
            asyncio.run(at_rest(server, 2, 0.0))
        with pytest.raises(OverheadFailed, match=r"^daemon: got no answer from /metrics in 0 s, expected one$"):
            Server(DAEMON, 0, server.port).streams()


def test_our_own_share_is_what_the_reader_does_not_take() -> None:
    daemon = [Run(1.0, 1000, 50, 100, loop_s, 0.01) for loop_s in (0.05, 0.09, 0.04)]
    reader = [Run(1.0, 1000, 0, 0, loop_s, 0.0) for loop_s in (0.03, 0.04, 0.035)]
    text = table({DAEMON: daemon, READER: reader}, {}, 20)
    assert "| our own share of a message, all threads | 30.0 us |" in text, "the median of 30, 60 and 15"
    assert "| our own share of a message, the event loop's thread | 20.0 us |" in text
    assert "| a step, the engine's thread | 100 us |" in text


def test_a_system_that_counts_no_threads_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.modules["streamer.commands.overhead"], "SCHEDSTAT", tmp_path / "none")
    assert main(["bench", "overhead"]) == 1
    assert "expected a Linux" in capsys.readouterr().err
