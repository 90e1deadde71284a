"""How long a step takes, by rows, and how far that is from what the device could do."""

from __future__ import annotations

from typing import Any

import torch

from models.config import FRAME_MS
from streamer.gpu_check import limits
from streamer.gpu_check.job import NO_TIME, NOT_RUN, Job
from streamer.gpu_check.random_models import Speaker, fitting, narrowed, place, speaker
from streamer.gpu_check.sounds import speech
from streamer.gpu_check.stopwatch import Marks, bandwidth, matrix_flops
from streamer.gpu_check.ticking import step_times

STEPS_S = 15.0  # that a batch may take with its warm-up; with less time left it is not begun


def run(job: Job, model: str, latency_ms: int) -> None:
    """Every batch that memory has room for."""
    whole = job.size.models[model]
    chunk = whole.chunk_of(latency_ms)
    config = narrowed(whole, chunk)
    device, dtype = place(job)
    marks = Marks(device)
    reach = measured(marks, job)
    job.note(reach=reach, model=model, latency_ms=latency_ms, state_bytes=limits.state_bytes(config))
    slots = fitting(job, config, max(job.size.batches))
    before = marks.used_bytes()
    spoken = speaker(job, config, chunk, slots)
    backend = spoken.backend
    held = marks.used_bytes() - before
    job.note(
        about=backend.about,
        tokens_a_second=spoken.tokens_a_second,
        slots=slots,
        bytes_a_stream={"arena": backend.arena.bytes_per_slot, "with the model": held / slots},
        rungs={f"{rows}x{c}": captured.reasons for (rows, c), captured in backend.rungs().items() if captured},
        steps={},
    )
    steps: dict[str, Any] = {}
    for rows in job.size.batches:
        if rows > slots:
            steps[str(rows)] = f"{NOT_RUN} (memory for {slots} streams)"
        elif not job.has(STEPS_S):
            steps[str(rows)] = NO_TIME
        else:
            steps[str(rows)] = _step(job, spoken, (rows, chunk), (reach, dtype))
        job.note(steps=steps)


def measured(marks: Marks, job: Job) -> dict[str, float]:
    """Bytes and operations a second that this device reaches, now."""
    device, dtype = place(job)
    reached = {
        "bytes_s": bandwidth(marks, device, job.size.copy_bytes),
        "flops_s": matrix_flops(marks, device, job.size.matrix, dtype),
    }
    if job.cuda:
        torch.cuda.empty_cache()  # what streams find free is counted after this
    return reached


def _step(job: Job, spoken: Speaker, shape: tuple[int, int], limit: tuple[dict[str, float], torch.dtype]) -> Any:
    (rows, chunk), (reach, dtype) = shape, limit
    backend = spoken.backend
    figures = step_times(backend, speech(job.size.recordings), shape, job.size.ticks)
    width = torch.finfo(dtype).bits // 8
    tokens = figures["tokens_a_second"] * rows * chunk * FRAME_MS / 1000
    config = backend.config
    work = limits.encoder_step(config, rows, chunk, width) + limits.decoder_step(config, rows, chunk, tokens, width)
    seconds = figures["device_ms"][0] / 1000
    return figures | {
        "bound_ms": round(1000 * work.seconds(reach["bytes_s"], reach["flops_s"]), 4),
        "share_of_bandwidth": round(work.bytes / seconds / reach["bytes_s"], 4),
        "share_of_matrix": round(work.flops / seconds / reach["flops_s"], 4),
        "streams": int(rows * chunk * FRAME_MS / figures["apart_ms"]),
    }
