"""When a socket is read: numbers that can never shut it for ever."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from streamer.gate import SETTLE_S, Gate


async def test_it_shuts_above_the_limit_and_opens_at_a_quarter_of_it() -> None:
    gate = Gate(10.0, 0.08)
    await asyncio.wait_for(gate.passed(), 30)
    gate.watch(10.1, 5.0)
    waiting = asyncio.create_task(gate.passed())
    gate.watch(2.6, 6.0)
    await asyncio.sleep(0)
    assert not waiting.done()
    gate.watch(2.5, 7.0)
    await asyncio.wait_for(waiting, 30)


async def test_a_pause_counts_as_the_clients_only_when_its_audio_has_had_time_to_come() -> None:
    gate = Gate(10.0, 0.08)
    assert gate.listening(0.0)
    gate.watch(11.0, 1.0)
    assert not gate.listening(99.0)
    gate.watch(1.0, 100.0)
    assert not gate.listening(100.0 + SETTLE_S / 2)
    assert gate.listening(100.0 + SETTLE_S)


@given(st.floats(0.2, 600), st.sampled_from([0.08, 0.16, 0.56, 1.12, 4.0]))
def test_less_than_a_chunk_never_keeps_it_shut_nor_does_one_chunk_shut_it(most_s: float, chunk_s: float) -> None:
    gate = Gate(most_s, chunk_s)
    assert gate.low_s >= chunk_s
    assert gate.high_s >= 2 * chunk_s
    assert gate.high_s > gate.low_s
