"""Real-time streams against one server, ours or sherpa-onnx's, by a process of its own: how late news comes.

News is a message with more tokens than the one before it. It belongs to a chunk, and is as late as it comes after the
message was sent that held the last sample which the server needs for that chunk. Knows nothing of how servers start.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from websockets.protocol import State

from clients.send import PIECE_S
from models.config import FRAME_SAMPLES, SAMPLE_RATE
from streamer.bench.emission import last_sample
from streamer.bench.line import Line
from streamer.bench.machine import cpu_seconds
from streamer.bench.tally import quantile

OPEN_S, FINISH_S = 10.0, 10.0
AFTER_CHUNK = 1720  # samples past a chunk that sherpa-onnx waits for: 9 mel frames more, half a window and one frame
PIECE = round(PIECE_S * SAMPLE_RATE)  # samples of a message


@dataclass(frozen=True, slots=True)
class Load:
    """`streams` streams of `chunk` frames at `url`; what comes between `ramp_s` and `seconds` is counted."""

    dialect: str  # of DIALECTS
    url: str
    pid: int  # of the server
    audio: str  # a .npy file of 16 kHz float32
    streams: int
    chunk: int
    ramp_s: float
    seconds: float


class Dialect(Protocol):
    """What a server says, message by message."""

    ready: bool
    done: bool
    error: str
    ending: str  # the text message after the last sample

    def hear(self, message: bytes) -> int | None:
        """How many samples the news in the message took; None where there is no news."""


class Ours:
    """The daemon: a partial's newest word ends with its newest token, which says the chunk."""

    ending = '{"type":"close"}'

    def __init__(self, chunk: int) -> None:
        self.ready = self.done = False
        self.error, self._chunk, self._last = "", chunk, 0.0

    def hear(self, message: bytes) -> int | None:
        said = json.loads(message)
        kind = said["type"]
        self.ready = self.ready or kind == "ready"
        self.done = self.done or kind == "closed"
        if kind == "error":
            self.error = str(said["message"])
        if kind != "partial" or not said["words"]:
            return None
        end_s = float(said["words"][-1]["end"])
        if end_s <= self._last:
            return None
        self._last = end_s
        return last_sample(end_s, self._chunk)


class Sherpa:
    """sherpa-onnx's server: one message for each chunk, in their order, with all tokens so far."""

    ending = "Done"

    def __init__(self, chunk: int) -> None:
        self.ready, self.done, self.error = True, False, ""
        self._chunk, self._heard, self._tokens = chunk, 0, 0

    def hear(self, message: bytes) -> int | None:
        if message == b"Done!":
            self.done = True
            return None
        self._heard += 1
        tokens = len(json.loads(message)["tokens"])
        if tokens <= self._tokens:
            return None
        self._tokens = tokens
        return FRAME_SAMPLES * self._chunk * self._heard + AFTER_CHUNK


DIALECTS: dict[str, Callable[[int], Dialect]] = {"ours": Ours, "sherpa-onnx": Sherpa}


class Opening(Line):
    """A line that knows when it may be spoken on."""

    @property
    def opened(self) -> bool:
        return self._protocol.state is State.OPEN


class Stream:
    """One stream: says its audio at the pace of speech, and notes how late the news is."""

    def __init__(self, load: Load, pcm: NDArray[np.float32], zero: float, number: int) -> None:
        self._load, self._pcm, self._zero = load, pcm, zero
        luck = random.Random(number)
        self._begin_s = load.ramp_s * number / load.streams * luck.uniform(0.5, 1.0)
        self._at = luck.randrange(len(pcm))
        self._sent: list[float] = []
        self._dialect = DIALECTS[load.dialect](load.chunk)
        self._line = Opening(load.url, self._told, self._lost)
        self.late: list[float] = []
        self.lags: list[float] = []
        self.final_s: float | None = None
        self.error = ""

    async def run(self) -> None:
        """All of it; never raises but when it is cancelled."""
        try:
            await asyncio.sleep(self._zero + self._begin_s - time.monotonic())
            async with asyncio.timeout(OPEN_S):
                await self._line.open()
                await self._until(lambda: self._line.opened and self._dialect.ready)
            await self._speak()
            async with asyncio.timeout(FINISH_S):
                asked = time.monotonic()
                self._line.tell(self._dialect.ending)
                await self._until(lambda: self._dialect.done)
                self.final_s = time.monotonic() - asked
        except TimeoutError:
            self.error = self.error or "no answer in time"
        except OSError as error:
            self.error = self.error or str(error)
        finally:
            self._line.drop()
        self.error = self.error or self._dialect.error

    async def _speak(self) -> None:
        begun = time.monotonic()
        messages = int((self._zero + self._load.seconds - begun) / PIECE_S)
        for number in range(1, messages + 1):
            due = begun + number * PIECE_S
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            if self.error:
                return
            start = self._at + (number - 1) * PIECE
            self._line.say(np.take(self._pcm, np.arange(start, start + PIECE), mode="wrap").tobytes())
            self._sent.append(time.monotonic())
            self.lags.append(self._sent[-1] - due)

    async def _until(self, there: Callable[[], bool]) -> None:
        while not there() and not self.error:
            await asyncio.sleep(0.01)

    def _told(self, message: bytes, now: float) -> None:
        samples = self._dialect.hear(message)
        if samples is None:
            return
        number = -(-samples // PIECE) - 1
        if number < len(self._sent) and self._sent[number] >= self._zero + self._load.ramp_s:
            self.late.append(now - self._sent[number])

    def _lost(self, why: str) -> None:
        if not self._dialect.done:
            self.error = self.error or why


async def put_on(load: Load, pcm: NDArray[np.float32]) -> dict[str, Any]:
    """The whole load, and what was seen: seconds, processor seconds of server and load between ramp and end, MB."""
    zero = time.monotonic()
    streams = [Stream(load, pcm, zero, number) for number in range(load.streams)]
    running = asyncio.gather(*(stream.run() for stream in streams))
    await asyncio.sleep(load.ramp_s)
    server_s, own_s = cpu_seconds(load.pid) or 0.0, time.process_time()
    await asyncio.sleep(zero + load.seconds - time.monotonic())
    counted_s = load.seconds - load.ramp_s
    used = {
        "server_cpu": round(((cpu_seconds(load.pid) or 0.0) - server_s) / counted_s, 4),
        "load_cpu": round((time.process_time() - own_s) / counted_s, 4),
        "rss_mb": resident_mb(load.pid),
    }
    await running
    return figures(streams, load) | used


def figures(streams: list[Stream], load: Load) -> dict[str, Any]:
    """Of all streams together."""
    found: dict[str, Any] = {"streams": load.streams, "errors": [stream.error for stream in streams if stream.error]}
    late = sorted(seconds for stream in streams for seconds in stream.late)
    lags = sorted(seconds for stream in streams for seconds in stream.lags)
    finals = sorted(stream.final_s for stream in streams if stream.final_s is not None)
    found["news_a_second"] = round(len(late) / load.streams / (load.seconds - load.ramp_s), 3)
    for name, values in (("late", late), ("lag", lags), ("final", finals)):
        if values:
            found |= {
                f"{name}_p50_s": round(quantile(values, 0.5), 4),
                f"{name}_p95_s": round(quantile(values, 0.95), 4),
            }
    return found


def resident_mb(pid: int) -> float | None:
    """What a process holds, on Linux."""
    status = Path(f"/proc/{pid}/status")
    if not status.exists():
        return None
    [held] = [line for line in status.read_text("ascii").splitlines() if line.startswith("VmRSS")]
    return round(int(held.split()[1]) / 1024, 1)


def load_text(load: Load) -> str:
    """As the process takes it on its command line."""
    return json.dumps(asdict(load))


def main() -> None:
    """Read the load, print what was seen as one line of JSON."""
    load = Load(**json.loads(sys.argv[1]))
    print(json.dumps(asyncio.run(put_on(load, np.load(load.audio)))), flush=True)


if __name__ == "__main__":
    main()
