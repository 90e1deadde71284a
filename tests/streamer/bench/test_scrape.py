"""Claims about a daemon's numbers from outside."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys

from streamer.bench.scrape import family, mean, metrics, resident_bytes, summed
from tests.served import served

TEXT = """# HELP x_seconds From one to another 1
x_seconds_count{chunk="1"} 3.0
x_seconds_sum{chunk="1"} 0.3
x_seconds_count{chunk="7"} 1.0
x_seconds_sum{chunk="7"} 0.5
x_seconds_bucket{chunk="1",le="0.1"} 3.0
y 2.0
"""


def test_numbers_are_added_up_over_labels() -> None:
    found = summed(TEXT)
    assert found == {"x_seconds_count": 4.0, "x_seconds_sum": 0.8, "y": 2.0}
    assert mean({"x_seconds_count": 2.0, "x_seconds_sum": 0.4}, found, "x_seconds") == 0.2
    assert mean(found, found, "x_seconds") is None


async def test_a_daemon_is_asked_and_none_is_none() -> None:
    async with served() as url:
        assert "streamer_streams" in await asyncio.to_thread(metrics, url)
    assert metrics(url) == {}


def test_memory_is_of_a_process_and_its_children() -> None:
    own = resident_bytes(os.getpid())
    assert own is not None
    assert own > 1 << 20
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert {os.getpid(), child.pid} <= set(family(os.getpid()))
    finally:
        child.communicate(b"\n")
