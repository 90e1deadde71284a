"""One stream's decoder, seen from the daemon: bytes in, pieces of samples out, and whatever happens, nothing worse.

The bytes are decoded in a process of its own (streamer.decoder_process). Knows nothing of sessions and words.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import numpy as np

from streamer.codecs import MOST_CHANNELS, RATES, Damaged, check_installed
from streamer.decoder_process import CPU_S, DAMAGE, END, HEADER, MOST_SAMPLES_BYTES, SAMPLES, USED
from streamer.nursery import Child, name_of, start

if TYPE_CHECKING:
    import numpy.typing as npt

    OnPiece = Callable[[npt.NDArray[np.float32], int], Awaitable[None] | None]

log = logging.getLogger(__name__)

BREATH = 16  # frames of one stream in a row; then the others have their turn
MOST_WAITING_BYTES = 1 << 18  # fed and not yet used up; `feed` waits beyond it
STEP_BYTES = 1 << 15  # written at once
MOST_DAMAGE_BYTES = 1 << 12
MOST_WORDS = 200  # characters of each part of a sentence about damage


class Decoder:
    """`feed`, `settle` as often as you like, then `finish`; `close` in every case. One caller at a time.

    Each but `close` raises Damaged once the stream is known to be. What `on_piece` raises comes out of them too.
    """

    failure: Damaged | None
    """How the stream is damaged, None while it is not."""

    def __init__(self, container: str, child: Child, on_piece: OnPiece) -> None:
        self.failure = None
        self._container, self._child, self._on_piece = container, child, on_piece
        self._fed = self._used = 0  # bytes
        self._seconds = 0.0
        self._ended = False  # nothing more comes out
        self._closed = False
        self._fault: BaseException | None = None  # of ours, or of the listener's
        self._news = asyncio.Event()
        self._task = asyncio.create_task(self._read())

    @classmethod
    async def start(cls, container: str, on_piece: OnPiece, *, fork: bool | None = None) -> Decoder:
        """A process that decodes `container` (codecs.CONTAINERS).

        `on_piece(samples, rate)` gets (n, channels) float32 in the order of the stream; while it is awaited nothing
        else comes, and soon the process stands still. `fork` says how the process is made, None: as fits the system.
        Raises NoCodecs without the extra, OSError where no process can be had.
        """
        check_installed(container)
        return cls(container, await start(container, fork=fork), on_piece)

    @property
    def pid(self) -> int:
        """The process that decodes."""
        return self._child.pid

    async def feed(self, data: bytes) -> None:
        """More bytes; waits while the process is behind."""
        for at in range(0, len(data), STEP_BYTES):
            self._check()
            step = data[at : at + STEP_BYTES]
            self._fed += len(step)
            with contextlib.suppress(ConnectionError):  # it has died: the reader will say how
                self._child.writer.write(step)
                await self._child.writer.drain()
            await self._until(lambda: self._fed - self._used <= MOST_WAITING_BYTES)

    async def settle(self) -> None:
        """Until everything fed is used up, and every sample that it yields has been handed on."""
        await self._until(lambda: self._used == self._fed)

    async def finish(self) -> None:
        """No more bytes come: until the rest is decoded and handed on."""
        self._check()
        with contextlib.suppress(OSError, RuntimeError):  # it has died: the reader will say how
            self._child.writer.write_eof()
        await self._until(lambda: False)

    async def over(self) -> None:
        """Until nothing more comes out, which damage can bring about at any time."""
        await self._until(lambda: False)

    def close(self) -> None:
        """End the process at once. Idempotent; what waits in another method returns."""
        self._closed = True
        self._task.cancel()
        self._child.kill()
        self._news.set()

    def _check(self) -> None:
        if self._fault is not None:
            raise self._fault
        if self.failure is not None:
            raise self.failure

    async def _until(self, enough: Callable[[], bool]) -> None:
        """Wait; the end is enough for everybody."""
        while True:
            self._check()
            if enough() or self._ended or self._closed:
                return
            self._news.clear()
            await self._news.wait()

    # What the process says.

    async def _read(self) -> None:
        try:
            count = 0
            while await self._frame():
                self._news.set()
                count += 1
                if count % BREATH == 0:  # frames that are there already come without a pause
                    await asyncio.sleep(0)
        except (asyncio.IncompleteReadError, ConnectionError):
            how = name_of(code := await self._child.ended())
            # That is not for what they read: SIGKILL comes from the kernel, short of memory, or from a person; where
            # there is no code the fork server has gone, and all processes with it.
            if code is None or how == "SIGKILL":
                got = how if code is not None else f"{how} it ended"
                self._fault = OSError(f"decoder: got {got}, expected it to decode {self._container} audio")
            else:
                self._died(f"{how} (it computed for more than {CPU_S} s)" if how == "SIGXCPU" else how)
        except _Nonsense as nonsense:
            self._died(f"nonsense in its mouth ({nonsense})")
        finally:
            self._ended = True
            self._news.set()
            self._child.kill()

    async def _frame(self) -> bool:
        """Take one frame; False after the last. The process may be in a stranger's hands: nothing of it is believed."""
        reader = self._child.reader
        kind, channels, rate, number = HEADER.unpack(await reader.readexactly(HEADER.size))
        if kind == SAMPLES and 1 <= channels <= MOST_CHANNELS and RATES[0] <= rate <= RATES[1]:
            block = 4 * channels
            if 0 < number <= MOST_SAMPLES_BYTES and number % block == 0:
                samples = np.frombuffer(await reader.readexactly(number), "<f4").reshape(-1, channels)
                self._seconds += len(samples) / rate
                return await self._hand_on(samples, rate)
        if kind == USED and self._used <= number <= self._fed:
            self._used = number
            return True
        if kind == DAMAGE and number <= MOST_DAMAGE_BYTES:
            self.failure = self._damage(await reader.readexactly(number))
            return False
        if kind == END:
            return False
        raise _Nonsense(f"frame {kind}")

    async def _hand_on(self, samples: npt.NDArray[np.float32], rate: int) -> bool:
        """False if the listener failed: a fault of ours, whatever it is."""
        try:
            if (handed := self._on_piece(samples, rate)) is not None:
                await handed
        except Exception as error:
            self._fault = error
        return self._fault is None

    def _damage(self, data: bytes) -> Damaged:
        try:
            got, expected, at_byte, at_s = json.loads(data)
        except (ValueError, TypeError, RecursionError):
            raise _Nonsense("no damage in words") from None
        known = isinstance(got, str) and isinstance(expected, str) and isinstance(at_byte, int)
        if known and isinstance(at_s, (int, float)) and 0 <= at_byte <= self._fed and 0 <= at_s < 1e9:
            return Damaged(got[:MOST_WORDS], expected[:MOST_WORDS], at_byte, at_s)
        raise _Nonsense("damage nowhere")

    def _died(self, how: str) -> None:
        log.error("decoder process %d of %s audio died with %s, at byte %d", self.pid, self._container, how, self._used)
        got = f"bytes on which the decoder died with {how}"
        self.failure = Damaged(got, f"{self._container} audio", self._used, self._seconds)


class _Nonsense(Exception):
    """What no process of ours says: a stranger has taken it over."""
