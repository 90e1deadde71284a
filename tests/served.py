"""A daemon on the toy backend and a free port, inside the test's own event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from streamer.backends.fake import FakeBackend, Faults
from streamer.config import Config, load
from streamer.server import Daemon

FAST = ("server.port=0", "model.backend=fake", "engine.max_load=100", "server.shutdown_s=3")


def config(*options: str) -> Config:
    """Options for tests; nothing from the environment."""
    return load(env={}, overrides=[*FAST, *options])


@asynccontextmanager
async def served(*options: str, faults: Faults | None = None, slots: int = 8) -> AsyncIterator[str]:
    """The URL of a daemon that runs as long as the context."""
    daemon = Daemon(config(*options), FakeBackend(slots, faults))
    await daemon.start()
    running = asyncio.create_task(daemon.run())
    try:
        yield f"ws://127.0.0.1:{daemon.port}"
    finally:
        daemon.stop()
        await running
