"""Damaged recordings without end through decoders of their own: nothing may hang, leak or harm the parent.

    python -m tests.fuzz_codecs --seconds 3600 --keep /tmp/crashes

prints a table of what happened by container. Inputs on which a decoder process died are kept, to become tests.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import hashlib
import json
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from streamer.codecs import Damaged
from streamer.codecs.pages import checksum
from streamer.decoder import Decoder
from tests.streamer.compressed import recordings

CASE_S = 60.0  # a case that takes longer hangs
EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)
Mutation = Callable[[bytearray, random.Random], None]


def flip(data: bytearray, chance: random.Random) -> None:
    """Some bits."""
    for _ in range(chance.choice((1, 2, 8, 64))):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def flip_head(data: bytearray, chance: random.Random) -> None:
    """Some bits of the first bytes, where headers are."""
    for _ in range(chance.choice((1, 3, 9))):
        data[chance.randrange(min(len(data), 512))] ^= 1 << chance.randrange(8)


def truncate(data: bytearray, chance: random.Random) -> None:
    """The end is missing."""
    del data[chance.randrange(len(data)) :]


def drop(data: bytearray, chance: random.Random) -> None:
    """A stretch is missing."""
    at = chance.randrange(len(data))
    del data[at : at + chance.choice((1, 7, 100, 3000))]


def repeat(data: bytearray, chance: random.Random) -> None:
    """A stretch comes twice, somewhere."""
    at, to = chance.randrange(len(data)), chance.randrange(len(data))
    data[to:to] = data[at : at + chance.choice((1, 16, 500, 5000))]


def overwrite(data: bytearray, chance: random.Random) -> None:
    """Zeros or noise over a stretch."""
    at, size = chance.randrange(len(data)), chance.choice((4, 40, 400))
    data[at : at + size] = bytes(size) if chance.random() < 0.5 else chance.randbytes(size)


def lie(data: bytearray, chance: random.Random) -> None:
    """A length field, or whatever lies there, is an extreme number."""
    size = chance.choice((1, 2, 4, 8))
    at = chance.randrange(min(len(data), chance.choice((64, 1024, 1 << 30))))
    number = chance.choice(EXTREMES) & ((1 << 8 * size) - 1)
    data[at : at + size] = number.to_bytes(size, chance.choice(("big", "little")))


def chain(data: bytearray, chance: random.Random) -> None:
    """Another recording follows, or lies in the middle."""
    other = chance.choice([data for _, data in recordings(0.5).values()])
    at = chance.choice((len(data), chance.randrange(len(data) + 1)))
    data[at:at] = other


MUTATIONS: tuple[Mutation, ...] = (flip, flip_head, truncate, drop, repeat, overwrite, lie, lie, chain)


def case(number: int, seed: int) -> tuple[str, bytes]:
    """The container and bytes of a case; the same for the same numbers."""
    chance = random.Random(f"{seed} {number}")
    container, original = chance.choice(list(recordings(0.5).values()))
    if chance.random() < 0.02:
        return container, chance.randbytes(chance.randrange(5000))
    data = bytearray(original)
    for _ in range(chance.choice((1, 1, 2, 4))):
        if data:
            chance.choice(MUTATIONS)(data, chance)
    if container == "ogg" and chance.random() < 0.8:
        seal(data)
    return container, bytes(data)


def seal(data: bytearray) -> None:
    """Give Ogg's pages the right checksums again: who means harm does."""
    at = data.find(b"OggS")
    while 0 <= at <= len(data) - 27:
        end = at + 27 + data[at + 26]
        end += sum(data[at + 27 : end])
        data[at + 22 : at + 26] = bytes(4)
        data[at + 22 : at + 26] = checksum(bytes(data[at:end])).to_bytes(4, "little")
        at = data.find(b"OggS", at + 4)


@dataclass
class Tally:
    """What happened to one container's cases."""

    cases: int = 0
    whole: int = 0
    damaged: int = 0
    died: collections.Counter[str] = field(default_factory=collections.Counter)
    hung: int = 0
    audio_s: float = 0.0
    longest_s: float = 0.0
    most_rss_mib: float = 0.0


async def run(container: str, data: bytes, chance: random.Random, tally: Tally) -> bool:
    """One case; True if the process died or hung."""
    heard = 0.0

    def hear(samples: object, rate: int) -> None:
        nonlocal heard
        heard += len(samples) / rate  # type: ignore[arg-type]

    began = time.monotonic()
    tally.cases += 1
    decoder = await Decoder.start(container, hear)
    try:
        async with asyncio.timeout(CASE_S):
            at = 0
            while at < len(data):
                size = chance.choice((1, 13, 500, 4000, 1 << 17))
                await decoder.feed(data[at : at + size])
                at += size
                if chance.random() < 0.1:
                    await decoder.settle()
            await decoder.settle()
            tally.most_rss_mib = max(tally.most_rss_mib, most_rss_mib(decoder.pid))
            await decoder.finish()
        tally.whole += 1
    except Damaged as damaged:
        if "died with" not in damaged.got:
            tally.damaged += 1
            return False
        tally.died[damaged.got.partition("died with ")[2]] += 1
        return True
    except TimeoutError:
        tally.hung += 1
        return True
    finally:
        decoder.close()
        tally.audio_s += heard
        tally.longest_s = max(tally.longest_s, time.monotonic() - began)
    return False


def most_rss_mib(pid: int) -> float:
    """The most memory a process has had, 0 where the system does not say."""
    with contextlib.suppress(OSError, StopIteration), open(f"/proc/{pid}/status") as file:
        return int(next(line for line in file if line.startswith("VmHWM")).split()[1]) / 1024
    return 0.0


async def fuzz(seconds: float, seed: int, keep: Path | None = None, most: int = 1 << 62) -> dict[str, Tally]:
    """Cases for this long, or this many; by container."""
    tallies: dict[str, Tally] = collections.defaultdict(Tally)
    until = time.monotonic() + seconds
    number = 0
    while time.monotonic() < until and number < most:
        container, data = case(number, seed)
        if await run(container, data, random.Random(number), tallies[container]) and keep is not None:
            keep.mkdir(parents=True, exist_ok=True)
            (keep / f"{container}-{hashlib.sha1(data).hexdigest()[:12]}").write_bytes(data)
        number += 1
        if number % 5000 == 0:
            print(json.dumps({"cases": number, "open_files": open_files()}), flush=True)
    return tallies


def open_files() -> int:
    """Of this process; 0 where the system does not say."""
    with contextlib.suppress(OSError):
        return len(os.listdir("/proc/self/fd"))
    return 0


def main() -> None:
    """Run for as long as asked, then print what happened."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for inputs on which a decoder died")
    options = parser.parse_args()
    tallies = asyncio.run(fuzz(options.seconds, options.seed, options.keep))
    for container, tally in sorted(tallies.items()):
        print(json.dumps({"container": container, **vars(tally)}), flush=True)


if __name__ == "__main__":
    main()
