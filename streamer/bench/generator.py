"""A process of a load's clients: `python -m streamer.bench.generator` reads its order, a line of JSON, and tells a line
of notes a second. Knows nothing of the daemon but its address.

It ends when its standard input does, so that it outlives nobody.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamer.bench.notes import Notes
from streamer.bench.order import Order, from_json
from streamer.bench.speaker import Speaker

TELL_S = 1.0
AGAIN_S = 1.0  # after a refusal a seat waits so long


async def generate(order: Order, audio: NDArray[np.int16], tell: Callable[[str], object]) -> None:
    """Fill the seats until the order's time is over and the last stream has ended."""
    notes, zero, worked = Notes(), time.monotonic(), time.process_time()
    async with asyncio.TaskGroup() as group:
        seats = [group.create_task(_seat(order, seat, audio, (notes, zero))) for seat in order.seats()]
        while not all(seat.done() for seat in seats):
            await asyncio.wait(seats, timeout=TELL_S)
            notes.cpu_s = round(time.process_time() - worked, 3)
            tell(notes.line(round(time.monotonic() - zero, 3)))


async def _seat(order: Order, seat: int, audio: NDArray[np.int16], where: tuple[Notes, float]) -> None:
    """One stream after the other."""
    notes, zero = where
    for take in order.takes(seat):
        await asyncio.sleep(take.wait_s)
        if order.seconds and time.monotonic() - zero >= order.seconds:
            return
        speech = order.speeches[take.recording]
        pcm = audio[speech.begin : speech.begin + speech.samples]
        if await Speaker(order, take, pcm, notes, zero).run() in ("failed", "refused"):
            await asyncio.sleep(AGAIN_S)


def main() -> None:
    """Ctrl-C is for whoever started us: the end of our input says it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    order = from_json(sys.stdin.readline())
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    audio = np.load(order.audio, mmap_mode="r")
    gc.freeze()
    _runner()(generate(order, audio, lambda line: print(line, flush=True)))


def _leave_with_parent() -> None:
    sys.stdin.read()
    os._exit(1)


def _runner() -> Callable[..., Any]:
    """uvloop's where it is installed."""
    try:
        import uvloop
    except ModuleNotFoundError:
        return asyncio.run
    return uvloop.run


if __name__ == "__main__":
    main()
