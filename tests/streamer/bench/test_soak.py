"""Claims about long loads: a slope is found through noise, the beginning and the end are compared, and it says so."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from streamer.bench.soak import MIB, drift, memory, slope, warm_up
from streamer.bench.tally import Delays
from streamer.cli import main
from streamer.commands import listening
from tests.shell import failing
from tests.streamer.commands.test_bench import spoken
from tests.streamer.commands.test_evaluate import Parrot


def test_a_slope_is_found_through_noise() -> None:
    luck = random.Random(0)
    assert slope([(x, 5 + 3 * x) for x in range(10)]) == pytest.approx(3)
    assert slope([(x, 5 + 0.1 * x + luck.gauss(0, 1)) for x in range(600)]) == pytest.approx(0.1, abs=0.002)
    assert slope([(1.0, 2.0), (1.0, 3.0)]) == 0.0
    assert slope([]) == 0.0


def test_memory_is_looked_at_between_its_warm_up_and_the_end_of_the_time() -> None:
    def held(at: int) -> int:
        return 100 * MIB + (at * 1024 if at >= 120 else -50 * MIB) + (900 * MIB if at > 600 else 0)

    found = memory([(at, held(at), at // 2) for at in range(650)], 600, 16)
    assert warm_up(600) == 120 > warm_up(100) == 25
    assert found["bytes_a_minute"] == pytest.approx(60 * 1024)
    assert found["bytes_a_minute_and_open_stream"] == pytest.approx(60 * 64)
    assert found["bytes_an_ended_stream"] == pytest.approx(2048, rel=0.01)
    assert found["most_mib"] > 1000
    assert memory([], 600, 16) == {}


def test_drift_is_between_the_first_third_and_the_last() -> None:
    delays = Delays()
    for second in range(100):
        delays.add(second, 0.010 if second < 40 else 0.030)
    found = drift(delays, 10, 100)
    assert found["first_third"]["p95"] == 10.0
    assert found["last_third"]["p50"] == 30.0


def test_a_soak_asks_the_daemon_what_fits_and_writes_what_came_of_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["bench", "soak", "--minutes", "0.05", "--load", "0.5", "--latency", "80", "--disconnects", "0.3"]
    options = ["model.backend=fake", "engine.slots=8", "engine.max_load=100"]
    assert main([*command, "--out", str(tmp_path), *options, spoken(tmp_path / "a.wav", "abc de fg")]) == 0
    assert "real-time streams at 80 ms" in capsys.readouterr().out
    found = json.loads((tmp_path / "soak.json").read_text())
    assert (found["bench"], found["streams"], found["words_different"], found["finals_lost"]) == ("soak", 3, 0, 0)
    assert found["capacity"] == 7, "one slot is spare"
    assert found["ended"]["closed"] > 0
    assert found["memory"]["last_mib"] > 1
    assert found["chunk_drift"]["last_third"]["count"] > 0
    table = (tmp_path / "soak.md").read_text()
    assert "| streams that the daemon said fit, share of them that was put on | 7, 43% |" in table
    assert "| memory, for each stream that ended |" in table
    assert "Memory of the daemon" in (tmp_path / "soak.svg").read_text()


def test_a_daemon_that_does_not_say_what_fits_wants_a_number(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listening, "open_listener", lambda *_, **__: Parrot())
    command = ("bench", "soak", "--url", "ws://127.0.0.1:9", spoken(tmp_path / "a.wav", "abc"))
    code, err = failing(capsys, *command)
    assert code == 1
    assert err == "streamer: ws://127.0.0.1:9: says nothing of its capacity, expected --streams"


def test_minutes_are_a_time(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["bench", "soak", "--minutes", "0"])
    assert "expected minutes" in capsys.readouterr().err
