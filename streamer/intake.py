"""Compressed audio on its way from a client to its session: told by its first bytes, decoded in a process of its own.

Knows nothing of WebSockets, of words, or of how a codec works.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING

from streamer.audio import bytes_to_tell, container
from streamer.codecs import Damaged, NoCodecs, check_installed
from streamer.decoder import Decoder
from streamer.errors import Refusal
from streamer.protocols.events import BARE, CONTAINERS

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    OnPiece = Callable[[npt.NDArray[np.float32], int], Awaitable[None]]
    OnDamage = Callable[[str], None]
    OnFault = Callable[[], None]

AUTO = "auto"


def check(encoding: str) -> None:
    """Raise Refusal where a stream of this encoding cannot be heard here."""
    try:
        if encoding in CONTAINERS:
            check_installed(encoding)
    except NoCodecs:
        bare = ", ".join(BARE)
        raise Refusal("encoding", encoding, f"{bare} or wav: this server lacks its extra codecs") from None


class Intake:
    """One stream's. `feed`, then `finish`; `settle` between; always `close`. Calls wait for each other.

    Where the stream is damaged, or cannot be decoded here, `on_damage` learns it in a sentence, once, at any time; what
    came out of it before that has been handed to `on_piece`. Faults of ours (no process to be had) are raised, or
    handled by `on_fault` where nobody waits.
    """

    def __init__(self, encoding: str, on_piece: OnPiece, on_damage: OnDamage, on_fault: OnFault) -> None:
        assert encoding not in BARE, f"encoding: got {encoding}, expected {AUTO} or a container"
        self._container = encoding if encoding in CONTAINERS else None
        self._on_piece, self._on_damage, self._on_fault = on_piece, on_damage, on_fault
        self._held = b""  # the first bytes, while they do not tell yet what they are
        self._bare = self._damaged = False
        self._decoder: Decoder | None = None
        self._watch: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()

    async def feed(self, data: bytes) -> bytes:
        """More of the stream. Returns what is no compressed audio at all but bare samples: nothing, or everything."""
        async with self._turn:
            if self._bare:
                return data
            if self._decoder is None:
                self._held += data
                if self._container is None and len(self._held) < bytes_to_tell(self._held):
                    return b""
                data, self._held = self._held, b""
                if (kind := self._container or container(data)) is None:
                    self._bare = True
                    return data
            else:
                kind = ""
            with self._damage_told():
                if self._decoder is None:
                    self._decoder = await Decoder.start(kind, self._on_piece)
                    self._watch = asyncio.create_task(self._over(self._decoder))
                await self._decoder.feed(data)
            return b""

    async def settle(self) -> None:
        """Until everything fed so far has been heard, as far as it can be decoded without what follows."""
        async with self._turn:
            if self._decoder is not None:
                with self._damage_told():
                    await self._decoder.settle()

    async def finish(self) -> bytes:
        """No more comes: the rest is decoded. Returns first bytes that were too few to tell what they are."""
        async with self._turn:
            if self._decoder is not None:
                with self._damage_told():
                    await self._decoder.finish()
            held, self._held = self._held, b""
            return held

    def close(self) -> None:
        """Let the decoder go, whatever it is at."""
        if self._watch is not None:
            self._watch.cancel()
        if self._decoder is not None:
            self._decoder.close()

    async def _over(self, decoder: Decoder) -> None:
        """What happens is told when it happens, not when the client says something more."""
        try:
            with self._damage_told():
                await decoder.over()
        except Exception:
            self._on_fault()

    @contextlib.contextmanager
    def _damage_told(self) -> Iterator[None]:
        try:
            yield
        except (Damaged, NoCodecs) as damaged:
            if not self._damaged:
                self._damaged = True
                self._on_damage(str(damaged))
