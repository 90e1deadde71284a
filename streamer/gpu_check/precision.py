"""bfloat16 beside float32 on the model that ships: encoder frames, tokens, word error rate over bundled recordings."""

from __future__ import annotations

import copy
from typing import Any, cast

import torch

from models.bulk import Bulk, InMemory, Staging
from models.store import load
from models.tokenizer import Tokenizer
from models.transcribe import text_of
from models.transducer import Model
from streamer.decoding import Token
from streamer.gpu_check.job import NO_TIME, Job
from streamer.gpu_check.kernels import error
from streamer.gpu_check.random_models import place
from streamer.gpu_check.sounds import ROOT, Said, recordings
from streamer.gpu_check.talks import Talk, agreement, plain, together

SHIPPED = ROOT / "models" / "pretrained" / "streamer-small-en"
SLOTS = 192
FRAMED = 16  # recordings whose encoder frames are compared
LATENCY_S = 90.0  # that a latency may take; with less time left it is not begun
MOST_APART = 0.1  # points of word error rate


def run(job: Job) -> None:
    """The longest latency, on which frames are compared too, then the others."""
    model, tokenizer = load(SHIPPED)
    said = recordings(job.size.recordings)
    latencies = sorted(model.config.latencies_ms, reverse=True)[: None if job.cuda else 1]
    found: dict[str, Any] = {}
    for latency in latencies:
        if not job.has(LATENCY_S if job.cuda else 1.0):
            found[str(latency)] = NO_TIME
            continue
        chunk = model.config.chunk_of(latency)
        found[str(latency)] = _words(job, (model, tokenizer), said, chunk)
        if latency == latencies[0]:
            job.note(frames=_frames(job, model, said[:FRAMED], chunk))
        job.note(latencies=found, recordings=len(said), model=model.config.name)
    apart = {key: figures["apart"] for key, figures in found.items() if isinstance(figures, dict)}
    worst = max((abs(points) for points in apart.values()), default=0.0)
    assert worst <= MOST_APART, f"word error rates: got {apart} points apart, expected at most {MOST_APART}"


def dtypes(job: Job) -> tuple[torch.dtype, torch.dtype]:
    """What is compared; a CPU has float32 alone, and then nothing may differ."""
    return torch.float32, place(job)[1]


def _words(job: Job, loaded: tuple[Model, Tokenizer], said: tuple[Said, ...], chunk: int) -> dict[str, Any]:
    """Every recording streamed, many at once, in both precisions."""
    heard = [_heard(job, loaded, said, (chunk, dtype)) for dtype in dtypes(job)]
    config, tokenizer = loaded[0].config, loaded[1]
    rates = [wer(said, [text_of(config, tokenizer, cast(Any, tokens)) for tokens in one]) for one in heard]
    exact, rough = ([plain(tokens) for tokens in one] for one in heard)
    return {
        "wer_fp32": rates[0],
        "wer_bf16": rates[1],
        "apart": round(rates[1] - rates[0], 3),
        "token_agreement": agreement(rough, exact),
        "tokens": sum(map(len, exact)),
    }


def _heard(
    job: Job, loaded: tuple[Model, Tokenizer], said: tuple[Said, ...], how: tuple[int, torch.dtype]
) -> list[list[Token]]:
    from streamer.backends.device import Options
    from streamer.backends.pytorch import on_device

    chunk, dtype = how
    model, tokenizer = loaded
    slots = min(SLOTS, len(said))
    options = Options(slots, (1, 16, slots), job.rung, kernels=job.cuda)
    backend = on_device(model, tokenizer, (torch.device(job.device), dtype), options)
    return together(backend, [Talk(one.pcm, chunk) for one in said], seed=0, share=1.0)


def wer(said: tuple[Said, ...], texts: list[str]) -> float:
    """Percent of the reference's words."""
    from models.training.text import normalize
    from streamer.commands.evaluate import error_rate

    rate = error_rate([(normalize(one.entry.text), normalize(text)) for one, text in zip(said, texts, strict=True)])
    return round(100 * (rate or 0.0), 3)


def _frames(job: Job, model: Model, said: tuple[Said, ...], chunk: int) -> dict[str, float]:
    """How far encoder frames are apart."""
    longest_first = sorted((one.pcm for one in said), key=len, reverse=True)
    frames = []
    for dtype in dtypes(job):
        bulk = Bulk(copy.deepcopy(model), model.config.context_of(chunk), device=torch.device(job.device), dtype=dtype)
        batch = Staging(bulk.device).load([InMemory(pcm) for pcm in longest_first])
        with torch.inference_mode():
            batch.wait()
            kept = [_real(y, counts) for y, counts in bulk.encoded(batch)][:1]
        frames.append(kept[0])
    return error(frames[1], frames[0])


def _real(y: torch.Tensor, counts: list[int]) -> torch.Tensor:
    """The frames that are somebody's, (n, d_model) float32."""
    return torch.cat([row[: max(0, count)] for row, count in zip(y, counts, strict=False)]).float()
