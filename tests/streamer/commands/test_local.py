"""Claims about the daemon inside a process of ours."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from clients.client import Client, Options, StreamError
from streamer.backends.fake import FakeBackend, Faults
from streamer.commands import CommandError, local
from streamer.commands.local import LocalDaemon
from streamer.protocols.events import Final
from tests.streamer.house import wire


async def said(url: str, key: str | None) -> str:
    async with Client(url, Options(latency_ms=80), key) as client:
        await client.send(wire("good day"))
        await client.close()
        return " ".join([event.text async for event in client if isinstance(event, Final)])


def test_it_hears_and_is_gone_with_its_context() -> None:
    with LocalDaemon("fake", Path(), 1) as daemon:
        assert asyncio.run(said(daemon.url, daemon.key)) == "good day"
        daemon.check()
    with pytest.raises(CommandError, match="has ended"):
        daemon.check()
    with pytest.raises(ConnectionRefusedError):
        asyncio.run(said(daemon.url, daemon.key))


@pytest.mark.parametrize("key", [None, "guessed"])
def test_nobody_else_comes_in(key: str | None) -> None:
    with LocalDaemon("fake", Path(), 1) as daemon, pytest.raises(StreamError) as error:
        asyncio.run(said(daemon.url, key))
    assert error.value.code == "unauthorized"


def test_what_keeps_it_from_starting_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> FakeBackend:
        def fails(*_: object) -> None:
            raise RuntimeError("no memory for this model")

        return FakeBackend(2, Faults(on_launch=fails))

    monkeypatch.setattr(local, "load_backend", broken)
    with pytest.raises(RuntimeError, match="no memory for this model"), LocalDaemon("fake", Path(), 1):
        pass
