"""One WebSocket to the daemon that costs little: messages are written at once, and told with the time they came at.

Knows nothing of what the messages say. The library's protocol without its tasks and queues: a load of many streams on
the daemon's own machine must not take what it measures.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable
from typing import cast

from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.protocol import State
from websockets.uri import parse_uri

MAX_MESSAGE_BYTES = 4 << 20

Told = Callable[[bytes, float], None]
Lost = Callable[[str], None]


class Line(asyncio.Protocol):
    """`told` has each text message; `lost` is called once, with the reason, when the line ends, unless we `drop` it."""

    def __init__(self, url: str, told: Told, lost: Lost) -> None:
        self._protocol = ClientProtocol(parse_uri(url), max_size=MAX_MESSAGE_BYTES)
        self._told, self._lost = told, lost
        self._transport: asyncio.Transport | None = None
        self._parts: list[bytes] = []

    async def open(self) -> None:
        """Connect; raises OSError where nobody listens."""
        uri = self._protocol.uri
        context = ssl.create_default_context() if uri.secure else None
        await asyncio.get_running_loop().create_connection(lambda: self, uri.host, uri.port, ssl=context)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name
        self._protocol.send_request(self._protocol.connect())
        self._write()

    def say(self, audio: bytes) -> None:
        """A binary message; nothing where the line ends just now."""
        if self._protocol.state is State.OPEN:
            self._protocol.send_binary(audio)
            self._write()

    def tell(self, text: str) -> None:
        """A text message; nothing where the line ends just now."""
        if self._protocol.state is State.OPEN:
            self._protocol.send_text(text.encode())
            self._write()

    def drop(self) -> None:
        """As a line that breaks: no close, not even of TCP."""
        self._lost = _nobody
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        now = time.monotonic()  # uvloop's own clock stands still while a turn of the loop lasts
        self._protocol.receive_data(data)
        for event in self._protocol.events_received():
            if isinstance(event, Response):
                if self._protocol.handshake_exc is not None:
                    body = bytes(event.body or b"").decode("utf-8", "replace").strip()
                    self._end(f"the server answered {event.status_code}: {body or event.reason_phrase}")
            elif isinstance(event, Frame):
                self._hear(event, now)
        self._write()

    def connection_lost(self, error: Exception | None) -> None:
        code = self._protocol.close_code
        self._transport = None
        self._end(str(error) if error else f"the server hung up (code {code})")

    def _hear(self, frame: Frame, now: float) -> None:
        if frame.opcode in (Opcode.TEXT, Opcode.CONT):
            self._parts.append(bytes(frame.data))
            if frame.fin:
                message, self._parts = b"".join(self._parts), []
                self._told(message, now)

    def _write(self) -> None:
        for data in self._protocol.data_to_send():
            if self._transport is None:
                return
            if data:
                self._transport.write(data)
            else:  # the end, as the library says it
                self._transport.close()

    def _end(self, why: str) -> None:
        lost, self._lost = self._lost, _nobody
        lost(why)


def _nobody(_: str) -> None:
    """Whoever dropped the line knows."""
