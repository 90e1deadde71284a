"""Connections that bring no request, on both event loops: few may wait, not for long, and the dead do not count."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable

import pytest
import uvloop

from streamer import guard
from tests.streamer.house import finals, house, talk

MOST = 8


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[Awaitable[None]], None]:
    """Runs a test's story on one kind of loop."""
    monkeypatch.setattr(guard, "MOST_HALF_OPEN", MOST)

    def run(story: Awaitable[None]) -> None:
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(story)  # type: ignore[arg-type]

    return run


async def silent(port: int) -> asyncio.StreamReader:
    """A connection that says nothing."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    reader.keep = writer  # type: ignore[attr-defined]  # else it is closed when nobody holds it
    return reader


async def ended(reader: asyncio.StreamReader, within_s: float) -> bool:
    with contextlib.suppress(ConnectionError):
        try:
            await asyncio.wait_for(reader.read(1), within_s)
        except TimeoutError:
            return False
    return True


def test_beyond_so_many_silent_connections_more_are_cut_off_as_they_come(run: Callable[..., None]) -> None:
    async def story() -> None:
        async with house("server.handshake_s=60") as home:
            waiting = [await silent(home.port) for _ in range(MOST)]
            await asyncio.sleep(0.05)
            assert all([await ended(await silent(home.port), 30) for _ in range(5)])
            assert not any([await ended(reader, 0.01) for reader in waiting])

    run(story())


def test_silent_connections_are_cut_off_in_time_and_make_room(run: Callable[..., None]) -> None:
    async def story() -> None:
        async with house("server.handshake_s=0.2") as home:
            waiting = [await silent(home.port) for _ in range(MOST)]
            assert all([await ended(reader, 8) for reader in waiting])
            assert finals(await talk(home, "room")) == "room"

    run(story())


def test_connections_that_have_gone_do_not_count(run: Callable[..., None]) -> None:
    async def story() -> None:
        async with house("server.handshake_s=60") as home:
            for _ in range(3 * MOST):
                socket.create_connection(("127.0.0.1", home.port)).close()
                await asyncio.sleep(0.005)
            assert finals(await talk(home, "room")) == "room"

    run(story())
