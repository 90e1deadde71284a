"""Load: many real-time streams against one daemon, how late their words come, and whether they are the right words.

A measurement, not a test: the figures go into a table with the machine's name. Knows nothing of how the daemon works.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from dataclasses import dataclass, field
from itertools import cycle, islice

from clients.client import Client, Options
from clients.send import Recording, send
from streamer.bench.machine import cpu_seconds, machine
from streamer.protocols.events import Error, Final, Partial

STAGGER_S = 1.0  # streams begin within this, so that their chunks are not all due at once


@dataclass(slots=True)
class Heard:
    """What one stream saw."""

    words: list[str] = field(default_factory=list)
    lags_s: list[float] = field(default_factory=list)  # of a partial with a new word: its arrival after the word's end
    final_s: float = 0.0  # from the last sample sent to `closed`
    errors: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Load:
    """The outcome of one run."""

    streams: list[Heard]
    wall_s: float
    cpu_s: float | None  # of the daemon, where it is ours
    audio_s: float

    def wrong(self, references: list[list[str]]) -> list[int]:
        """The streams whose words are not those of their recording; stream i said recording i, taken in turn."""
        pairs = enumerate(zip(self.streams, cycle(references), strict=False))
        return [i for i, (heard, reference) in pairs if heard.errors or heard.words != reference]


async def load(
    url: str, recordings: list[Recording], streams: int, latency_ms: int | None, pid: int | None = None
) -> Load:
    """Run `streams` streams of the recordings, in turn, at real time; beginnings are spread by a fixed seed."""
    spread = random.Random(0)
    said = list(islice(cycle(recordings), streams))
    cpu_before, began = cpu_seconds(pid), time.perf_counter()
    jobs = [_one(url, options(one, latency_ms), one, spread.uniform(0, STAGGER_S)) for one in said]
    heard = await asyncio.gather(*jobs)
    wall_s = time.perf_counter() - began
    cpu_after = cpu_seconds(pid)
    cpu_s = cpu_after - cpu_before if cpu_after is not None and cpu_before is not None else None
    return Load(heard, wall_s, cpu_s, sum(one.seconds for one in said))


def options(recording: Recording, latency_ms: int | None) -> Options:
    """What a stream of the recording asks for."""
    return Options(
        sample_rate=recording.rate,
        encoding=recording.encoding,
        channels=recording.channels,
        latency_ms=latency_ms,
        endpointing=False,  # a cut inside a word would make two of it, which is no other word
    )


async def _one(url: str, options: Options, recording: Recording, delay_s: float) -> Heard:
    await asyncio.sleep(delay_s)
    heard = Heard()
    try:
        async with Client(url, options) as client:
            began = asyncio.get_running_loop().time()
            sender = asyncio.create_task(send(client, recording))
            await _listen(client, began, heard)
            await sender
            heard.final_s = asyncio.get_running_loop().time() - began - recording.seconds
    except Exception as error:  # one stream's failure is a line of the report, whatever it is
        heard.errors.append(str(error) or type(error).__name__)
    return heard


async def _listen(client: Client, began: float, heard: Heard) -> None:
    seen = 0
    async for event in client:
        match event:
            case Final():
                heard.words += [word.word for word in event.words]
                seen = 0
            case Partial() if len(event.words) > seen:
                seen = len(event.words)
                heard.lags_s.append(asyncio.get_running_loop().time() - began - event.words[-1].end)
            case Error():
                heard.errors.append(event.message)


def table(load: Load, references: list[list[str]], title: str) -> str:
    """The run as Markdown: figures first, then the machine."""
    lags = [lag for heard in load.streams for lag in heard.lags_s]
    finals = [heard.final_s for heard in load.streams if not heard.errors]
    rows = [
        ("streams", str(len(load.streams))),
        ("streams with other words than `streamer transcribe`", str(len(load.wrong(references)))),
        ("streams with an error", str(sum(bool(heard.errors) for heard in load.streams))),
        ("a word's end to its first partial, p50 / p95", _pair(lags)),
        ("last sample sent to everything final, p50 / p95", _pair(finals)),
        ("audio / wall", f"{load.audio_s:.0f} s / {load.wall_s:.1f} s"),
    ]
    if load.cpu_s is not None:
        rows.append(("processor seconds of the daemon per second of audio", f"{load.cpu_s / load.audio_s:.4f}"))
    rows += machine()
    return f"# {title}\n\n| | |\n|---|---|\n" + "".join(f"| {name} | {value} |\n" for name, value in rows)


def _pair(seconds: list[float]) -> str:
    if not seconds:
        return "-"
    ordered = sorted(seconds)
    late = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
    return f"{1000 * statistics.median(ordered):.0f} / {1000 * late:.0f} ms"
