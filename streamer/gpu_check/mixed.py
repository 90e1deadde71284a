"""Streams of different latencies in flight together: each says what it says alone."""

from __future__ import annotations

from typing import Any

import torch

from models.store import load
from streamer.backends.device import Options
from streamer.backends.pytorch import on_device
from streamer.gpu_check.job import Job
from streamer.gpu_check.precision import SHIPPED, dtypes
from streamer.gpu_check.sounds import recordings
from streamer.gpu_check.talks import Talk, agreement, alone, plain, together

SLOTS = 24
MOST_RECORDINGS = 24
MOST_SAMPLES = 5 * 16_000  # of a recording: alone they take their time


def run(job: Job) -> None:
    """float32 to the token; how often bfloat16, whose sums depend on a batch's shape, agrees."""
    model, tokenizer = load(SHIPPED)
    chunks = model.config.chunks if job.cuda else model.config.chunks[:2]
    most = MOST_SAMPLES if job.cuda else MOST_SAMPLES // 5
    said = [one.pcm[:most] for one in recordings(job.size.recordings)[:MOST_RECORDINGS]]
    talks = [(pcm, chunk) for pcm in said for chunk in chunks]
    figures: dict[str, Any] = {"streams": len(talks), "chunks": list(chunks)}
    for dtype in dict.fromkeys(dtypes(job)):
        options = Options(SLOTS, (1, 8, SLOTS), job.rung, kernels=job.cuda)
        backend = on_device(model, tokenizer, (torch.device(job.device), dtype), options)
        want = [plain(alone(backend, Talk(pcm, chunk))) for pcm, chunk in talks]
        got = [plain(tokens) for tokens in together(backend, [Talk(pcm, chunk) for pcm, chunk in talks], seed=1)]
        name = str(dtype).removeprefix("torch.")
        different = sum(a != b for a, b in zip(got, want, strict=True))
        figures[name] = {"different": different, "agreement": agreement(got, want), "tokens": sum(map(len, want))}
        job.note(**figures)
    different = figures["float32"]["different"]
    assert not different, f"float32: got {different} streams with other tokens in company, expected none"
