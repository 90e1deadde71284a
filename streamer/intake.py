"""Compressed audio on its way from a client to its session: told by its first bytes, decoded in a process of its own.

Knows nothing of WebSockets, of words, or of how a codec works.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from streamer.audio import bytes_to_tell, container
from streamer.protocols.events import BARE, CONTAINERS

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from streamer.decoder import Decoder

    OnPiece = Callable[[npt.NDArray[np.float32], int], Awaitable[None]]

AUTO = "auto"


class Intake:
    """One stream's. `feed`, then `finish`; `settle` between; always `close`. Calls wait for each other.

    Raises codecs.Damaged where the stream is; what came out of it before that has been handed to `on_piece`.
    """

    def __init__(self, encoding: str, on_piece: OnPiece) -> None:
        assert encoding not in BARE, f"encoding: got {encoding}, expected {AUTO} or a container"
        self._container = encoding if encoding in CONTAINERS else None
        self._on_piece = on_piece
        self._held = b""  # the first bytes, while they do not tell yet what they are
        self._bare = False
        self._decoder: Decoder | None = None
        self._turn = asyncio.Lock()

    async def feed(self, data: bytes) -> bytes:
        """More of the stream. Returns what is no compressed audio at all but bare samples: nothing, or everything."""
        async with self._turn:
            if self._bare:
                return data
            if self._decoder is not None:
                await self._decoder.feed(data)
                return b""
            self._held += data
            if self._container is None and len(self._held) < bytes_to_tell(self._held):
                return b""
            held, self._held = self._held, b""
            if (kind := self._container or container(held)) is None:
                self._bare = True
                return held
            from streamer.decoder import Decoder

            self._decoder = await Decoder.start(kind, self._on_piece)
            await self._decoder.feed(held)
            return b""

    async def settle(self) -> None:
        """Until everything fed so far has been heard, as far as it can be decoded without what follows."""
        async with self._turn:
            if self._decoder is not None:
                await self._decoder.settle()

    async def finish(self) -> bytes:
        """No more comes: the rest is decoded. Returns first bytes that were too few to tell what they are."""
        async with self._turn:
            if self._decoder is not None:
                await self._decoder.finish()
            held, self._held = self._held, b""
            return held

    def close(self) -> None:
        """Let the decoder go, whatever it is at."""
        if self._decoder is not None:
            self._decoder.close()
