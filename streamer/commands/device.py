"""A model opened on a device, and recordings that go through it batch by batch. Knows nothing of files or output."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from models.batching import AHEAD, Batch, Budget, Staging, batches, prepared
from models.bulk import Bulk, most_frames
from models.config import FRAME_MS, SAMPLE_RATE, ModelConfig
from models.store import load
from models.tokenizer import Tokenizer
from streamer import artefacts
from streamer.commands import USAGE, CommandError, say
from streamer.commands.ahead import Stored, windows
from streamer.commands.delivery import Delivery
from streamer.commands.hands import Row, Vocabulary
from streamer.commands.listening import OFFLINE, latency_of, prompt_of
from streamer.commands.models import read as read_config
from streamer.engine.machine import processors

WINDOW = 8  # batches' worth of recordings that are sorted by length together: the more, the less padding
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


def opened(args: argparse.Namespace) -> tuple[Bulk, Vocabulary]:
    """The model of the flags on its device, and what spells its tokens."""
    device = _device(args.device)
    path = artefacts.resolve(args.model, "pytorch")
    config = read_config(path)
    context = _context(args.latency, config)
    prompt = prompt_of(args.language, config)
    if device.type == "cpu":
        torch.set_num_threads(args.threads or processors())
    model, tokenizer = load(path)
    dtype = DTYPES[args.dtype or ("bf16" if device.type == "cuda" else "fp32")]
    bulk = Bulk(model, context, prompt=prompt, device=device, dtype=dtype)
    if args.batch_seconds:
        frames = min(args.batch_seconds * 1000 // FRAME_MS, most_frames(config))
        bulk.budget = Budget(frames, bulk.budget.squares)
    if bulk.why_slow is not None:
        say(f"streamer: {bulk.why_slow}; tokens are searched with torch's operators, which is slower")
    return bulk, _vocabulary(tokenizer, config)


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise CommandError(
            f"--device cuda: torch {torch.__version__} finds no GPU, expected one with its driver and torch for CUDA"
        )
    return torch.device("cuda", torch.cuda.current_device()) if name == "cuda" else torch.device(name)


def _context(latency: str | None, config: ModelConfig) -> tuple[int, int]:
    """The mask of a streaming model's latency; a full-context model has its own, asked for as `offline` or not."""
    if config.streaming:
        return config.context_of(config.chunk_of(latency_of(latency, config)))
    if latency not in (None, OFFLINE):
        raise CommandError(f"--latency {latency}: {config.name} is a full-context model, expected offline", USAGE)
    return config.contexts[0]


def _vocabulary(tokenizer: Tokenizer, config: ModelConfig) -> Vocabulary:
    return Vocabulary(tokenizer.kind, tokenizer.to_bytes(), (config.eou_id, config.eob_id))


def named(bulk: Bulk) -> str:
    """The device and the dtype, for people."""
    name = torch.cuda.get_device_name(bulk.device) if bulk.device.type == "cuda" else "the CPU"
    return f"{name} ({'bf16' if bulk.dtype == torch.bfloat16 else 'fp32'})"


class Spell(Protocol):
    """Starts to write down what rows say."""

    def __call__(self, rows: Sequence[Row]) -> Future[Any]: ...


@dataclass(slots=True)
class Heard:
    """What has gone through: recordings, their seconds, and seconds of the clock that the device was at work."""

    recordings: int = 0
    audio_s: float = 0.0
    model_s: float = 0.0


class Hearing:
    """Recordings in the order they come, in batches of nearly one length, to `delivery`."""

    def __init__(self, bulk: Bulk, delivery: Delivery, tail: int) -> None:
        """tail: samples of silence heard behind each."""
        self._bulk, self._delivery, self._tail = bulk, delivery, tail
        self._staging = Staging(bulk.device)

    def run(self, recordings: Iterator[Stored], spell: Spell) -> Heard:
        """Hear them all."""
        heard = Heard()
        for chosen, batch in prepared(self._batches(recordings), AHEAD):
            began = time.perf_counter()
            spoken = self._hear(batch)
            heard.model_s += time.perf_counter() - began
            rows = [
                Row(stored.wanted, (said.ids, said.frames, said.logps), stored.samples / SAMPLE_RATE)
                for stored, said in zip(chosen, spoken, strict=True)
            ]
            heard.recordings += len(rows)
            heard.audio_s += sum(row.duration_s for row in rows)
            self._delivery.expect(chosen, spell(rows))
        self._delivery.finish()
        return heard

    def _hear(self, batch: Batch) -> Any:
        try:
            return self._bulk.hear(batch)
        except torch.OutOfMemoryError:
            seconds = len(batch.samples) * batch.samples[0] / SAMPLE_RATE
            raise CommandError(
                f"a batch of {seconds:,.0f} s of audio does not fit into the device's memory, "
                "expected a smaller --batch-seconds"
            ) from None

    def _batches(self, recordings: Iterator[Stored]) -> Iterator[tuple[list[Stored], Batch]]:
        budget = self._bulk.budget
        for window in windows(self._fitting(recordings), self._frames, budget.frames, WINDOW * budget.frames):
            for rows in batches([self._frames(stored) for stored in window], budget):
                chosen = [window[row] for row in rows]
                yield chosen, self._staging.load(chosen, self._tail)

    def _frames(self, stored: Stored) -> int:
        return self._bulk.frames(stored.samples + self._tail)

    def _fitting(self, recordings: Iterator[Stored]) -> Iterator[Stored]:
        most = self._bulk.most_samples()
        for stored in recordings:
            if most is None or stored.samples <= most:
                yield stored
                continue
            stored.drop()
            self._delivery.failed(
                stored.wanted,
                f"{stored.wanted.job.title}: lasts {stored.samples / SAMPLE_RATE:,.0f} s, expected at most "
                f"{most / SAMPLE_RATE:,.0f} s of a full-context model in the memory of this device",
            )
