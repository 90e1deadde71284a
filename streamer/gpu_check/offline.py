"""Whole recordings in batches: seconds of audio in a second of the clock, from memory and files, and what they cost."""

from __future__ import annotations

import copy
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.bulk import Bulk
from models.config import SAMPLE_RATE, ModelConfig
from models.store import save
from models.tokenizer import Tokenizer
from models.transducer import Model
from streamer.gpu_check.job import NO_TIME, Job
from streamer.gpu_check.random_models import narrowed, place, speaker
from streamer.gpu_check.sounds import Pcm, cut, recordings, speech

LENGTHS_S = (4.0, 28.0)  # of recordings, as corpora have them
RUNS = 3
MODEL_S = 100.0  # that a size may take; with less time left it is not begun
FILES_S = 120.0
HOURS = 1_000_000  # whose cost is told
COPIES = 40  # of each bundled recording, for the run over files


def run(job: Job) -> None:
    """The longest chunks of both sizes, from memory; then the command itself over a manifest."""
    audio = speech(job.size.recordings)
    pile = heap(audio, job.size.bulk_hours * 3600)
    job.note(price=job.price, hours=sum(map(len, pile)) / SAMPLE_RATE / 3600, recordings=len(pile), models={})
    models: dict[str, Any] = {}
    for name, config in job.size.models.items():
        models[name] = _memory(job, config, pile) if job.has(MODEL_S if job.cuda else 0.5) else NO_TIME
        job.note(models=models)
    if job.cuda:
        job.note(files=_files(job) if job.has(FILES_S) else NO_TIME)


def heap(audio: Pcm, seconds: float) -> list[Pcm]:
    """Cuts of the audio of all lengths, so many seconds together; views, so that memory does not grow."""
    luck, made, left = random.Random(0), list[Pcm](), int(seconds * SAMPLE_RATE)
    while left > 0:
        size = min(int(luck.uniform(*LENGTHS_S) * SAMPLE_RATE), left, len(audio))
        made.append(cut(audio, luck.randrange(len(audio) - size + 1), size))
        left -= size
    return made


def talkative(job: Job, config: ModelConfig) -> Model:
    """Random weights, with the blank's bias that makes them speak."""
    return speaker(job, config, max(config.chunks), min(32, job.size.slots), (32,)).model


def _memory(job: Job, config: ModelConfig, pile: list[Pcm]) -> dict[str, Any]:
    chunk = max(config.chunks)
    model = talkative(job, narrowed(config, chunk))
    device, dtype = place(job)
    bulk = Bulk(copy.deepcopy(model), config.context_of(chunk), device=device, dtype=dtype)
    bulk.hear_all(pile[: max(1, len(pile) // 20)])  # picks kernels, fills the allocator
    seconds: list[float] = []
    tokens = 0
    for _ in range(RUNS):
        if seconds and not job.has(2 * max(seconds)):
            break
        begin = time.perf_counter()
        spoken = bulk.hear_all(pile)
        seconds.append(time.perf_counter() - begin)
        tokens = sum(len(one.ids) for one in spoken)
    total = sum(map(len, pile)) / SAMPLE_RATE
    rate = total / min(seconds)
    return {
        "rtfx": round(rate, 1),
        "seconds": [round(one, 3) for one in seconds],
        "cost": round(HOURS / rate * job.price, 2),
        "tokens_a_second": round(tokens / total, 2),
        "frames_a_batch": bulk.budget.frames,
        "why_slow": bulk.why_slow,
    }


def _files(job: Job) -> dict[str, Any]:
    """`streamer transcribe --device` over copies of the bundled recordings, each a FLAC file on a RAM disk."""
    config = narrowed(job.size.models["0.6b"], max(job.size.models["0.6b"].chunks))
    shm = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="gpu-check-", dir=shm) as name:
        folder = Path(name)
        save(talkative(job, config), Tokenizer.from_labels(config.labels), folder / "model", torch.float32)
        seconds = COPIES * _write(job, folder)
        command = [
            sys.executable, "-m", "streamer", "transcribe", "--device", "cuda", "--json", "--price", str(job.price),
            "--model", str(folder / "model"), "--manifest", str(folder / "all.jsonl"),
        ]  # fmt: skip
        begin = time.perf_counter()
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=max(10.0, job.left_s - 10.0)
        )
        taken = time.perf_counter() - begin
    if done.returncode:
        return {"error": " ".join(done.stderr.split())[-300:]}
    said = [line for line in done.stderr.splitlines() if "RTFx" in line or "hours" in line]
    return {"hours": seconds / 3600, "rtfx_with_start": round(seconds / taken, 1), "said": said}


def _write(job: Job, folder: Path) -> float:
    """The recordings as files, a manifest that names each `COPIES` times; seconds of one copy of them."""
    import json

    import soundfile

    lines, seconds = [], 0.0
    for number, said in enumerate(recordings(job.size.recordings)):
        path = folder / f"{number}.flac"
        soundfile.write(path, (said.pcm.clip(-1, 1) * 32767).astype(np.int16), SAMPLE_RATE)
        lines.append(json.dumps({"audio_filepath": path.name, "text": said.entry.text}))
        seconds += len(said.pcm) / SAMPLE_RATE
    (folder / "all.jsonl").write_text("\n".join(lines * COPIES) + "\n", "utf-8")
    return seconds
