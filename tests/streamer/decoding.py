"""A decoder for a test, closed and gone at its end, and what is heard from it."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from streamer import nursery
from streamer.decoder import Decoder
from tests.streamer.compressed import Samples, cut, joined

LINUX = sys.platform.startswith("linux")
LONG_S = 60.0  # for what must come; a busy machine takes its time
WAYS = [
    pytest.param(True, id="forked", marks=pytest.mark.skipif(not LINUX, reason="a fork server needs Linux")),
    pytest.param(False, id="spawned"),
]
needs_proc = pytest.mark.skipif(not LINUX, reason="looks into /proc")


class Ear:
    """What comes out of a decoder."""

    def __init__(self) -> None:
        self.parts: list[Samples] = []
        self.rates: set[int] = set()

    def __call__(self, samples: Samples, rate: int) -> None:
        self.parts.append(samples)
        self.rates.add(rate)

    @property
    def samples(self) -> Samples:
        return joined(self.parts)


@asynccontextmanager
async def decoding(container: str, ear: object, *, fork: bool = nursery.can_fork()) -> AsyncIterator[Decoder]:
    """A decoder that is closed at the end, and in time."""
    async with asyncio.timeout(LONG_S):
        decoder = await Decoder.start(container, ear, fork=fork)  # type: ignore[arg-type]
        try:
            yield decoder
        finally:
            decoder.close()
            await gone(decoder.pid)


async def hear_all(decoder: Decoder, data: bytes, size: int = 1 << 20) -> None:
    """From the first byte to the end."""
    for piece in cut(data, size):
        await decoder.feed(piece)
    await decoder.finish()


async def gone(pid: int) -> None:
    """Wait until there is no such process, nor a zombie of one that its parent would have to ask after."""
    async with asyncio.timeout(LONG_S):
        while True:
            try:
                os.kill(pid, 0)
                state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
                if (state, parent) == ("Z", "1"):  # an orphan, and init has not looked yet
                    return
            except ProcessLookupError:
                return
            except FileNotFoundError:  # no /proc, or just now
                pass
            await asyncio.sleep(0.01)
