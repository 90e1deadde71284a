"""A client that costs next to nothing: frames that are ready to be written, answers of which only the kind is read.

WebSocket by hand (RFC 6455), to our own daemon alone. The masking key is zero, so that a message is the samples as they
lie in memory. Knows nothing of when to say what.
"""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import Callable
from typing import cast

TEXT, BINARY, CLOSE, PING, PONG = 0x81, 0x82, 0x88, 0x89, 0x8A
_NO_MASK = bytes(4)
_CLOSE = b'{"type":"close"}'
_KIND = b'"type":"'
_END = b'"end":'
_MOST_HEAD = 1 << 16

Told = Callable[["Lean", str, float], None]


def frame(opcode: int, payload: bytes) -> bytes:
    """A client's frame."""
    size = len(payload)
    if size < 126:
        head = bytes((opcode, 0x80 | size))
    elif size < 1 << 16:
        head = bytes((opcode, 0x80 | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((opcode, 0x80 | 127)) + size.to_bytes(8, "big")
    return head + _NO_MASK + payload


class Lean(asyncio.Protocol):
    """One stream. `told(self, kind, end)` hears each message: its type, and for partials its last word's end."""

    def __init__(self, path: str, told: Told) -> None:
        self._path, self._told = path, told
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._open = False  # the upgrade has been answered
        self.ready = self.closing = False
        self.begun_s = self.closed_s = 0.0  # whoever speaks keeps its times here

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        upgrading = self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name
        key = base64.b64encode(os.urandom(16)).decode()
        lines = (
            f"GET {self._path} HTTP/1.1", "Host: localhost", "Upgrade: websocket", "Connection: Upgrade",
            f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13", "", "",
        )  # fmt: skip
        upgrading.write("\r\n".join(lines).encode())

    def say(self, message: bytes) -> None:
        """A whole frame."""
        if self._transport is not None:
            self._transport.write(message)

    def close(self) -> None:
        """No more audio: what was said becomes final, then comes `closed`."""
        self.closing = True
        self.say(frame(TEXT, _CLOSE))

    def drop(self) -> None:
        if self._transport is not None:
            self.closing = True
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._open and not self._upgraded():
            return
        while (taken := self._take()) is not None:
            self._hear(*taken)

    def connection_lost(self, _: Exception | None) -> None:
        self._transport = None
        if not self.closing:
            self._told(self, "lost", 0.0)

    def _upgraded(self) -> bool:
        at = self._buffer.find(b"\r\n\r\n")
        if at < 0 and len(self._buffer) < _MOST_HEAD:
            return False
        if b" 101 " not in bytes(self._buffer[:64]):
            self.drop()
            self._told(self, "refused", 0.0)
            return False
        del self._buffer[: at + 4]
        self._open = True
        return True

    def _take(self) -> tuple[int, bytes] | None:
        """The next whole frame of the server's, if it is there."""
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        size, at = buffer[1] & 0x7F, 2
        if size >= 126:
            at = 4 if size == 126 else 10
            if len(buffer) < at:
                return None
            size = int.from_bytes(buffer[2:at], "big")
        if len(buffer) < at + size:
            return None
        opcode, payload = buffer[0], bytes(buffer[at : at + size])
        del buffer[: at + size]
        return opcode, payload

    def _hear(self, opcode: int, payload: bytes) -> None:
        if opcode == TEXT:
            kind = kind_of(payload)
            self.ready = self.ready or kind == "ready"
            self.closing = self.closing or kind == "closed"
            self._told(self, kind, last_end(payload) if kind == "partial" else 0.0)
        elif opcode == PING:
            self.say(frame(PONG, payload))
        elif opcode == CLOSE:
            self.drop()


def kind_of(message: bytes) -> str:
    """The type of a message, which the daemon writes first."""
    at = message.find(_KIND) + len(_KIND)
    return message[at : message.find(b'"', at)].decode("ascii", "replace")


def last_end(partial: bytes) -> float:
    """Where a partial's last word ends, in seconds of its stream; 0 where there is none."""
    at = partial.rfind(_END)
    if at < 0:
        return 0.0
    at += len(_END)
    stop = at
    while stop < len(partial) and partial[stop : stop + 1] in b"0123456789.e-+":
        stop += 1
    return float(partial[at:stop] or b"0")
