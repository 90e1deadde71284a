"""A front: the daemon's sockets and sessions in a process of their own, before an engine in another one.

It gets its sockets as open files and all else in the first thing that it is told. It ends when it is told to, and with
an error when nobody is there any more to tell it.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import logging
import socket
import sys
import time
from collections.abc import Sequence
from typing import Any

from aiohttp import web

from models.config import ModelConfig
from models.tokenizer import Tokenizer
from streamer import logs, sockets, tally
from streamer.config import from_plain
from streamer.engine.remote import GONE, Remote
from streamer.engine.ring import Ring
from streamer.server import Daemon, event_loop_runner

log = logging.getLogger(__name__)

NUMBERS_S = 3.0  # longest wait for the numbers of all processes


class Front(Daemon):
    """A daemon whose engine is elsewhere, and whose numbers are a part of all."""

    def __init__(self, told: dict[str, Any], remote: Remote) -> None:
        super().__init__(from_plain(told["config"]), remote)
        self._remote = remote
        self._questions = itertools.count(1)
        self._wanted: dict[int, asyncio.Future[bytes]] = {}
        remote.noted = self._noted

    async def numbers(self) -> bytes:
        """Of all processes together."""
        question = next(self._questions)
        wanted: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._wanted[question] = wanted
        self._remote.note("numbers", question=question)
        try:
            return await asyncio.wait_for(wanted, NUMBERS_S)
        except TimeoutError:
            expected = f"the engine's process: got no numbers, expected them within {NUMBERS_S:g} s\n"
            raise web.HTTPServiceUnavailable(text=expected) from None
        finally:
            del self._wanted[question]

    def _noted(self, note: dict[str, Any]) -> None:
        match note:
            case {"kind": "stop"}:
                self.stop()
            case {"kind": "tell", "round": int(number)}:
                self._remote.note("told", round=number, numbers=tally.read(self.metrics.registry))
            case {"kind": "numbers", "question": int(question), "text": str(text)}:
                if (wanted := self._wanted.get(question)) is not None and not wanted.done():
                    wanted.set_result(text.encode())


async def run(own: socket.socket, bound: Sequence[socket.socket], ring: Ring | None) -> int:
    """Serve on `bound` until told to stop over `own`; the process's exit code."""
    hello: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()

    def lost(_: object) -> None:
        if not hello.done():
            hello.set_exception(ConnectionError(GONE))

    remote = Remote(lost, hello.set_result, time.monotonic)
    await remote.connect(own, ring)
    told = await hello
    remote.config = ModelConfig.from_dict(told["model"])
    remote.capacity = {int(latency_ms): int(streams) for latency_ms, streams in told["fits"]}
    remote.tokenizer = Tokenizer.from_bytes(told["tokenizer"], base64.b64decode(told["pieces"]))
    front = Front(told, remote)
    logs.set_up(front.config.log.format, front.config.log.level)
    await front.open(bound)
    remote.note("listening")
    return await front.run()


def main(files: Sequence[str]) -> int:
    """The numbers of open files: the samples' memory or None, the line to the engine's process, then the sockets to
    listen on."""
    sockets.allow_many()
    samples, *rest = files
    ring = None if samples == "None" else Ring(int(samples))
    own, *bound = (socket.socket(fileno=int(number)) for number in rest)
    code: int = event_loop_runner()(run(own, bound, ring))
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
