"""Whether TensorRT-RTX, whose lists do not name Hopper, runs on this GPU; and if it does, the same step times."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from models.config import ModelConfig
from models.tokenizer import Tokenizer
from streamer.gpu_check.job import NO_TIME, NOT_RUN, TOY, Job
from streamer.gpu_check.random_models import make, narrowed, set_blank
from streamer.gpu_check.sounds import speech
from streamer.gpu_check.ticking import step_times

FLAVOUR = "tensorrt_rtx"
SLOTS = 1024
PRECISION = "bf16"
BUILD_S = {"114m": 90.0, "0.6b": 300.0}  # to export and build, as a processor alone took
STEPS_S = 15.0


def run(job: Job) -> None:
    """First a toy, whose engine is built in a second and says whether there is a point in going on."""
    try:
        from streamer.backends.trt_open import module_of

        module, _ = module_of(FLAVOUR)
    except Exception as error:
        job.note(result=f"{NOT_RUN}: {error}")
        return
    job.note(version=str(module.__version__))
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as name:
        folder = Path(name)
        try:
            _exported(narrowed(TOY, 2), 160, folder / "toy")
            job.note(builds=True)
            _opened(job, folder / "toy", 8)
        except Exception as error:  # the answer that the part is there for
            job.note(result=f"does not run here: {type(error).__name__}: {error}"[:500])
            return
        job.note(result="runs here", models={})
        models: dict[str, Any] = {}
        for size in ("114m", "0.6b"):
            config = job.size.models[size]
            models[size] = _steps(job, config, folder / size) if job.has(BUILD_S[size]) else NO_TIME
            job.note(models=models)


def _exported(config: ModelConfig, latency_ms: int, folder: Path) -> None:
    from export.to_trt import Options, export

    model, tokenizer = make(config), Tokenizer.from_labels(config.labels)
    export(model, tokenizer, folder, Options(precision=PRECISION, latencies_ms=(latency_ms,)))


def _opened(job: Job, folder: Path, slots: int) -> Any:
    from streamer.backends import Place, load_backend

    return load_backend("trt", folder, slots, 1, Place(job.device))


def _steps(job: Job, config: ModelConfig, folder: Path) -> dict[str, Any]:
    chunk = min(config.chunks)
    narrow = narrowed(config, chunk)
    _exported(narrow, narrow.latencies_ms[narrow.chunks.index(chunk)], folder)
    backend = _opened(job, folder, SLOTS)
    audio = speech(job.size.recordings)
    rate, _ = set_blank(backend, audio, chunk, job.size.hearing)
    steps: dict[str, Any] = {}
    for rows in (rows for rows in job.size.batches if rows <= SLOTS):
        steps[str(rows)] = step_times(backend, audio, (rows, chunk), job.size.ticks) if job.has(STEPS_S) else NO_TIME
    return {"chunk": chunk, "tokens_a_second": rate, "steps": steps, "about": backend.about}
