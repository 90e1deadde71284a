"""Two servers whose processor time is all overhead: the daemon with a step that sleeps, and one that only reads.

`python -m streamer.bench.quiet daemon 32` (or `reader`, both for so many streams) takes a free port of this machine,
writes its number to standard output and serves until SIGTERM. Knows nothing of who measures it.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Sequence

from aiohttp import web

from streamer import logs, sockets
from streamer.backends.base import Heard, Row, Ticket
from streamer.backends.fake import FakeBackend
from streamer.config import Config, load
from streamer.decoding import Token
from streamer.server import Daemon, event_loop_runner

HOST = "127.0.0.1"
OPTIONS = (
    "server.port=0", "model.latency_ms=80", "model.backend=fake", "engine.max_load=100", "engine.budget_ms=250",
    "log.level=warning",
)  # fmt: skip
STEP_S, ROW_S = 0.003, 0.001  # what a step of a model takes that 60 streams at 80 ms keep one processor busy with
WORD_FRAMES = 5  # a word of two tokens in so many frames of 80 ms: two and a half a second
TALK_FRAMES, TURN_FRAMES = 85, 100  # of a turn of eight seconds the last 1.2 are a pause, which ends a segment


class Sleeper(FakeBackend):
    """Takes its time without the processor and says made-up words; what they cost to make counts as overhead."""

    def __init__(self, slots: int) -> None:
        super().__init__(slots)
        self._frames = [0] * slots

    def open(self, slot: int, prompt: int | None = None) -> None:
        del prompt
        self._frames[slot] = 0

    def launch(self, chunk: int, rows: Sequence[Row], chunks: int = 1) -> Ticket:
        time.sleep(STEP_S + ROW_S * len(rows))
        return Ticket(len(rows), [self._say(chunk * chunks, row) for row in rows])

    def collect(self, ticket: Ticket) -> list[Heard]:
        return ticket.results

    def fork(self, source: int, target: int) -> None:
        self._frames[target] = self._frames[source]

    def _say(self, frames: int, row: Row) -> Heard:
        if row.last:
            return []
        first = self._frames[row.slot]
        end = self._frames[row.slot] = first + frames
        return [
            Token(label, frame, -0.1)
            for frame in range(-(-first // WORD_FRAMES) * WORD_FRAMES, end, WORD_FRAMES)
            if frame % TURN_FRAMES < TALK_FRAMES
            for label in (0, 1 + frame % 7)  # a blank, then a letter
        ]


async def daemon(config: Config) -> int:
    """The daemon as it is, before the sleeper."""
    serving = Daemon(config, Sleeper(config.engine.slots))
    await serving.start()
    print(serving.port, flush=True)
    return await serving.run()


async def reader() -> int:
    """What the library alone takes: messages are read, as the daemon reads them, and forgotten."""

    async def read(request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse(compress=False, autoping=False, max_msg_size=1 << 22, writer_limit=0)
        await ws.prepare(request)
        sockets.tune(request.transport)
        await ws.send_str('{"type":"ready"}')
        async for _ in ws:
            pass
        return ws

    app = web.Application()
    app.router.add_get("/v1/stream", read)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, HOST, 0)
    await site.start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()
    return 0


def main(kind: str, streams: str) -> int:
    """Serve until told to stop."""
    config = load(env={}, overrides=[*OPTIONS, f"engine.slots={2 * int(streams)}"])
    logs.set_up(config.log.format, config.log.level)
    return event_loop_runner()(daemon(config) if kind == "daemon" else reader())


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
