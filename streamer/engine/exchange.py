"""The engine's side of its fronts: their asks go to the engine, its results back to whose they are. Knows no clients.

Everything but `deliver`, which the engine's thread calls, runs on the event loop. A front that hangs up loses its
streams; one that says what it must not is hung up on, and nobody else notices.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import socket
from collections.abc import Callable
from typing import Any, cast

from streamer.engine.lanes import Lanes
from streamer.engine.results import Failed, Full, Result
from streamer.engine.ring import Ring
from streamer.engine.stream import Pcm
from streamer.engine.wire import (
    NO_PROMPT,
    Ask,
    Frames,
    Kind,
    Told,
    Verb,
    WireError,
    read_note,
    read_work,
    write_heard,
    write_note,
)

log = logging.getLogger(__name__)

MOST_UNREAD_BYTES = 1 << 26  # that a front leaves lying, before it counts as hanging

FEED, FINISH, DROP, ROOM = int(Verb.FEED), int(Verb.FINISH), int(Verb.DROP), int(Verb.ROOM)  # quicker to compare

Noted = Callable[["Line", dict[str, Any]], None]


class Line(asyncio.BufferedProtocol):
    """One front."""

    def __init__(self, exchange: Exchange, number: int, ring: Ring | None) -> None:
        self.number = number
        self._ring = ring
        self.gone = asyncio.Event()
        self._exchange = exchange
        self._frames = Frames()
        self._keys: dict[int, str] = {}  # of its streams

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none, by name

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self.gone.set()
        for key in list(self._keys.values()):
            self._exchange.drop(key)
        self._keys.clear()
        self._exchange.lines.discard(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        del sizehint
        return self._frames.space()

    def buffer_updated(self, nbytes: int) -> None:
        try:
            for kind, body in self._frames.read(nbytes):
                if kind is Kind.WORK:
                    self._work(*read_work(body, self._ring))
                    if self._ring is not None:
                        self._ring.done()
                elif kind is Kind.NOTE:
                    self._exchange.noted(self, read_note(body))
                else:
                    raise WireError("frame", kind.name, "what a front says")
        except WireError as wrong:
            self.hang_up(str(wrong))
        except Exception:
            log.exception("front %d met a fault", self.number)
            self.hang_up("a fault of ours")

    def hang_up(self, why: str) -> None:
        """It learns nothing more."""
        log.error("front %d is hung up on: %s", self.number, why)
        self._transport.abort()

    def write(self, data: bytes) -> None:
        """Say it; a front that reads nothing any more is hung up on."""
        if self.gone.is_set():
            return
        self._transport.write(data)
        if self._transport.get_write_buffer_size() > MOST_UNREAD_BYTES:
            self.hang_up(f"got {MOST_UNREAD_BYTES} bytes unread, expected it to read")

    def note(self, kind: str, **fields: Any) -> None:
        """Say something rare."""
        self.write(write_note(kind, **fields))

    def ended(self, stream: int) -> None:
        """The stream has heard its last."""
        self._keys.pop(stream, None)

    def _work(self, came: float, asks: list[Ask], pcm: Pcm) -> None:
        """Runs of audio go to the engine in one go."""
        engine, keys = self._exchange.engine, self._keys
        pieces: list[tuple[str, Pcm]] = []
        at = 0
        for verb, stream, size, mark in asks:
            key = keys.get(stream)
            if verb == FEED:
                end = at + size
                if key is not None:
                    pieces.append((key, pcm[at:end]))
                at = end
                continue
            engine.feed_all(pieces, came)
            pieces = []
            if verb <= FINISH:
                if key is not None and verb == FINISH:
                    engine.finish(key, pcm[at : at + size])
                elif key is not None:
                    engine.fork(key, mark, pcm[at : at + size].copy())
                at += size
            elif verb != DROP:
                self._answer(verb, stream, size, mark)
            elif key is not None:
                self._exchange.drop(key)
                del keys[stream]
        engine.feed_all(pieces, came)

    def _answer(self, verb: int, stream: int, chunk: int, mark: int) -> None:
        engine = self._exchange.engine
        if chunk not in engine.backend.config.chunks:
            raise WireError("open.chunk", chunk, "one of the model's")
        if verb == ROOM:
            reason = engine.room(chunk)
        elif stream in self._keys:
            raise WireError("open.stream", stream, "a new one")
        else:
            key = f"{self.number}/{stream}"
            self._exchange.owners[key] = (self, stream)
            try:
                engine.open(key, chunk, None if mark == NO_PROMPT else mark)
                reason, self._keys[stream] = None, key
            except Full as full:
                reason = str(full)
                del self._exchange.owners[key]
        self.note("answer", number=stream, reason=reason)


class Exchange:
    """All fronts. `engine` and `loop` are set before the first one is connected."""

    engine: Lanes
    loop: asyncio.AbstractEventLoop

    def __init__(self, noted: Noted) -> None:
        self.noted = noted
        self.lines: set[Line] = set()
        self.owners: dict[str, tuple[Line, int]] = {}  # by the engine's name of a stream
        self._numbers = itertools.count(1)

    async def connect(self, own: socket.socket, ring: Ring | None = None) -> Line:
        """A front speaks over this socket from now on, samples through the ring."""
        own.setblocking(False)
        line = Line(self, next(self._numbers), ring)
        await self.loop.create_unix_connection(lambda: line, sock=own)
        self.lines.add(line)
        return line

    def drop(self, key: str) -> None:
        """Its front has left the stream."""
        self.engine.drop(key)
        self.owners.pop(key, None)

    def deliver(self, results: list[Result]) -> None:
        """On the engine's thread: one frame for each front, and those who failed."""
        told: dict[Line, list[Told]] = {}
        failed: list[tuple[Line, int, Failed]] = []
        ended: list[tuple[Line, int, str]] = []
        for stream_id, heard, arrived in results:
            if (owner := self.owners.get(stream_id)) is None:
                continue
            line, stream = owner
            if isinstance(heard, Failed):
                failed.append((line, stream, heard))
            else:
                told.setdefault(line, []).append((stream, heard, arrived or 0.0))
                if not heard.finished:
                    continue
            ended.append((line, stream, stream_id))
        frames = [(line, write_heard(own)) for line, own in told.items()]
        self.loop.call_soon_threadsafe(self._send, frames, failed, ended)

    def _send(
        self,
        frames: list[tuple[Line, bytes]],
        failed: list[tuple[Line, int, Failed]],
        ended: list[tuple[Line, int, str]],
    ) -> None:
        for line, frame in frames:
            line.write(frame)
        for line, stream, why in failed:
            line.note("failed", stream=stream, code=why.code, message=why.message)
        for line, stream, stream_id in ended:
            line.ended(stream)
            self.owners.pop(stream_id, None)
        if self.engine.failure is not None:
            for line in list(self.lines):
                line.note("dead", reason=self.engine.failure)
