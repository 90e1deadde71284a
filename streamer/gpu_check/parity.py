"""Golden models in float32 on the device: the tokens and frames of the CPU, in any company, slot and way to launch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from models.store import load
from models.tokenizer import Tokenizer
from models.transducer import Model
from streamer.backends.base import Backend
from streamer.backends.device import DeviceBackend, Options
from streamer.backends.graphs import RUNGS
from streamer.backends.pytorch import TorchBackend, on_device
from streamer.gpu_check.job import NO_TIME, Job
from streamer.gpu_check.sounds import GOLDEN, Pcm, clips
from streamer.gpu_check.talks import Plain, Talk, alone, furthest, plain, together

SLOTS = 7
BUCKETS = (1, 4, 7)
MODEL_S = 30.0  # that a way of launching may take; with less time left it is not begun
LONGEST_S = 1.7  # of a clip: enough for words, and the eager rungs are slow


@dataclass(frozen=True, slots=True)
class Case:
    """A clip at a chunk length in a language."""

    clip: str
    pcm: Pcm
    chunk: int
    prompt: int | None

    def talk(self) -> Talk:
        return Talk(self.pcm, self.chunk, self.prompt)


def run(job: Job) -> None:
    """The highest rung for every model first, then the others with the time that is left."""
    ways = (
        [(rung, True) for rung in RUNGS[RUNGS.index(job.rung) :]] + [("eager", False)]
        if job.cuda
        else [("eager", False)]
    )
    found: dict[str, dict[str, Any]] = {name: {} for name in job.size.golden}
    models = {name: load(GOLDEN / "models" / name / f"{name}.nemo") for name in found}
    wanted = {name: _reference(*models[name], job) for name in found}
    for rung, kernels in ways:
        for name, (model, tokenizer) in models.items():
            way = f"{rung}, {'own' if kernels else 'torch'} kernels"
            if not job.has(MODEL_S):
                found[name][way] = NO_TIME
            else:
                options = Options(SLOTS, BUCKETS, rung, kernels)
                found[name][way] = _compared(model, tokenizer, (job.device, options), wanted[name])
            job.note(models=found, wrong=_wrong(found))
    assert not _wrong(found), f"other tokens than the CPU's: {', '.join(_wrong(found))}"


def _wrong(found: dict[str, dict[str, Any]]) -> list[str]:
    return [
        f"{name} ({way})"
        for name, ways in found.items()
        for way, figures in ways.items()
        if isinstance(figures, dict) and (figures["wrong_alone"] or figures["wrong_together"])
    ]


def cases(backend: Backend, job: Job) -> list[Case]:
    """Every clip, chunk and language; a toy's check is content with the shortest clip."""
    prompts: list[int | None] = [index for _, index in backend.config.prompts]
    sounds = clips() if job.size.name == "full" else {"short": clips()["short"]}
    most = int(LONGEST_S * 16_000)
    return [
        Case(name, pcm[:most] if chunk == 1 else pcm, chunk, prompt)
        for name, pcm in sounds.items()
        for chunk in backend.config.chunks
        for prompt in prompts or [None]
    ]


Reference = list[tuple[Case, list[Any]]]


def _reference(model: Model, tokenizer: Tokenizer, job: Job) -> Reference:
    """What the CPU hears."""
    backend = TorchBackend(model, tokenizer, 1)
    return [(case, alone(backend, case.talk())) for case in cases(backend, job)]


def _compared(model: Model, tokenizer: Tokenizer, how: tuple[str, Options], wanted: Reference) -> dict[str, Any]:
    """Each case alone, then all of them at once; which say something else, and how far probabilities are apart."""
    name, options = how
    backend = on_device(model, tokenizer, (torch.device(name), torch.float32), options)
    lonely = [alone(backend, case.talk(), slot=place % SLOTS) for place, (case, _) in enumerate(wanted)]
    company = together(backend, [case.talk() for case, _ in wanted], seed=0)
    right = [plain(tokens) for _, tokens in wanted]
    return {
        "cases": len(wanted),
        "tokens": sum(map(len, right)),
        "wrong_alone": _names(wanted, [plain(tokens) for tokens in lonely], right),
        "wrong_together": _names(wanted, [plain(tokens) for tokens in company], right),
        "furthest_logp": max(
            (furthest(got, want) for got, (_, want) in zip(lonely, wanted, strict=True) if plain(got) == plain(want)),
            default=0.0,
        ),
        **_launched(backend),
    }


def _names(wanted: Reference, got: list[Plain], right: list[Plain]) -> list[str]:
    return [
        f"{case.clip} at {80 * case.chunk} ms"
        for (case, _), one, other in zip(wanted, got, right, strict=True)
        if one != other
    ]


def _launched(backend: DeviceBackend) -> dict[str, Any]:
    """The rung that it came to, and why not higher."""
    reasons = [captured.reasons for captured in backend.rungs().values() if captured and captured.reasons]
    return {"about": backend.about, "reasons": reasons[0] if reasons else {}}
