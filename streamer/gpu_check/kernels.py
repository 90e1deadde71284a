"""Our kernels beside torch's operators: the suite's own tests on this device, then whole ticks of the real sizes."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch
from torch import Tensor

from models.config import FRAME_MS, FRAME_SAMPLES, ModelConfig
from models.kernels import why_not
from models.tick import HEADER, Arena, DeviceModel, Rows, Tick, TorchEncoder
from streamer.gpu_check.job import NO_TIME, Job
from streamer.gpu_check.random_models import make, narrowed, place
from streamer.gpu_check.sounds import ROOT, cut, speech

TESTS = "tests/models/kernels"
TESTS_S = 240
CHUNKS = 3  # of a stream, so that rings, tails and memories have a past
CASE_S = 25.0  # of one size; with less time left it is not begun
ROWS = (1, 48)
# Largest error over the root mean square of what is right. bfloat16 has 8 bits: 24 layers of it are apart by as much
# in whatever order they are added up; both are measured against float32 below.
NEAR = {torch.float32: 1e-3, torch.bfloat16: 0.5}


def run(job: Job) -> None:
    """The tests need pytest; the ticks need nothing."""
    if job.cuda:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False  # float32 means float32
        job.note(tests=_tests())
    reason = why_not(torch.device(job.device))
    job.note(why_not=reason, ticks={})
    ticks: dict[str, Any] = {}
    dtypes = (torch.float32, torch.bfloat16) if job.cuda else (torch.float32,)
    for name, config, chunk in _sizes(job):
        for dtype in dtypes:
            key = f"{name}, {FRAME_MS * chunk} ms, {str(dtype).removeprefix('torch.')}"
            ticks[key] = _compared(job, narrowed(config, chunk), chunk, dtype) if job.has(CASE_S) else NO_TIME
            job.note(ticks=ticks)
    far = [key for key, figures in ticks.items() if isinstance(figures, dict) and not figures["near"]]
    tests = job.figures.get("tests", {"tests": 1, "failed": []})  # on a CPU the suite itself runs them
    failed = tests.get("failed", []) if tests.get("tests") else [f"tests that did not run ({tests.get('error')})"]
    wrong = ", ".join([*far, *failed])[:300]
    assert not wrong, f"kernels: got {wrong} apart, expected torch's numbers"


def _sizes(job: Job) -> list[tuple[str, ModelConfig, int]]:
    """Longest and shortest chunks of both sizes; of toys, which may be interpreted, the shortest of one."""
    models = job.size.models.items()
    sizes = [(name, config, chunk) for name, config in models for chunk in (max(config.chunks), min(config.chunks))]
    return sizes if job.size.name == "full" else sizes[1:2]


def _tests() -> dict[str, Any]:
    """The kernels' tests of the suite, on this device. Its plugins need not be here."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [
            sys.executable, "-m", "pytest", TESTS, "-q", "-c", "/dev/null", "--rootdir", str(ROOT), "-p",
            "no:cacheprovider", f"--junit-xml={report}",
        ]  # fmt: skip
        try:
            done = subprocess.run(
                command, cwd=ROOT, capture_output=True, text=True, timeout=TESTS_S, check=False,
                env=os.environ | {"TRITON_INTERPRET": "0"},
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return {"error": f"they took longer than {TESTS_S} s"}
        if not report.exists():
            return {"error": " ".join((done.stdout + done.stderr).split())[-300:]}
        return counted(ElementTree.parse(report).getroot())


def counted(report: ElementTree.Element) -> dict[str, Any]:
    """How many tests there were, and which of them failed or were skipped."""
    tests = list(report.iter("testcase"))
    kinds = {"failed": ("failure", "error"), "skipped": ("skipped",)}
    named = {
        kind: [test.get("name", "?") for test in tests if any(test.find(tag) is not None for tag in tags)]
        for kind, tags in kinds.items()
    }
    return {"tests": len(tests), "failed": named["failed"], "skipped": len(named["skipped"])}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What some chunks of some streams came to: the last one's scores, all that the arena holds, all that was said."""

    scores: Tensor
    state: dict[str, Tensor]
    said: list[Tensor]


def _compared(job: Job, config: ModelConfig, chunk: int, dtype: torch.dtype) -> dict[str, Any]:
    model = make(config)
    device, _ = place(job)
    on_device = DeviceModel(model, dtype, device)
    exact = on_device if dtype == torch.float32 else DeviceModel(model, torch.float32, device)
    own = why_not(device) is None
    found: dict[str, Any] = {}
    for rows in ROWS if job.size.name == "full" else ROWS[:1]:
        sound = _sound(job, rows, chunk, device)
        right = _outcome(exact, (rows, chunk), sound, kernels=False)
        torchs = _outcome(on_device, (rows, chunk), sound, kernels=False)
        found[f"torch {rows}"] = error(torchs.scores, right.scores)
        if own:
            ours = _outcome(on_device, (rows, chunk), sound, kernels=True)
            found[f"own {rows}"] = error(ours.scores, right.scores)
            found[f"own beside torch {rows}"] = error(ours.scores, torchs.scores)
            found[f"tokens {rows}"] = _agreement(ours.said, torchs.said)
    apart = [figures["max"] for key, figures in found.items() if key.startswith("own beside")]
    found["near"] = all(value <= NEAR[dtype] for value in apart)
    return found


def _sound(job: Job, rows: int, chunk: int, device: torch.device) -> list[Tensor]:
    """For each chunk the rows' samples (rows, 1280 chunk)."""
    audio, size = speech(job.size.recordings), FRAME_SAMPLES * chunk
    heard = [cut(audio, row * len(audio) // rows, size * CHUNKS) for row in range(rows)]
    whole = torch.stack([torch.from_numpy(pcm.copy()) for pcm in heard]).to(device)
    return [whole[:, at : at + size] for at in range(0, whole.shape[1], size)]


@torch.inference_mode()
def _outcome(model: DeviceModel, shape: tuple[int, int], sound: list[Tensor], *, kernels: bool) -> Outcome:
    """Streams in slots from the last to the first, and a row of nobody."""
    rows, chunk = shape
    arena = Arena(model, rows)
    arena.reset(torch.arange(rows, device=model.device))
    encoder = _Listening(TorchEncoder(model, arena, kernels))
    tick = Tick(model, arena, encoder, (rows + 1, chunk), kernels)
    said = []
    for index, pcm in enumerate(sound):
        header = torch.zeros(len(HEADER), rows + 1, dtype=torch.int32, device=model.device)
        header[0] = torch.arange(rows, -1, -1, device=model.device).roll(-1)  # the spare slot is the last row's
        header[1, :rows], header[2, :rows], header[5, :rows] = index * chunk, 8 * chunk, pcm.shape[1]
        header[3, rows] = 1
        tick.input[: header.numel()].copy_(header.view(torch.float32).flatten())
        tick.input[header.numel() :].view(rows + 1, -1)[:rows].copy_(pcm)
        tick.run()
        said.append(tick.output[:rows].clone())
    return Outcome(encoder.scores[:rows].float(), arena.rows(), said)


class _Listening:
    """A StepEncoder that keeps what it gave last."""

    def __init__(self, inner: TorchEncoder) -> None:
        self._encode: Callable[[Tensor, Rows], tuple[Tensor, Tensor]] = inner.encode
        self.scores = torch.zeros(0)

    def encode(self, mel: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
        scores, counts = self._encode(mel, rows)
        self.scores = scores.clone()
        return scores, counts


def error(got: Tensor, want: Tensor) -> dict[str, float]:
    """Largest and mean difference over the root mean square of what is right."""
    scale = want.square().mean().sqrt().clamp(min=1e-12)
    apart = (got - want).abs() / scale
    return {"max": float(apart.max()), "mean": float(apart.mean())}


def _agreement(got: list[Tensor], want: list[Tensor]) -> float:
    """Share of rows and chunks that say the same tokens."""
    same = [torch.equal(a[row, : 2 + int(b[row, 0])], b[row, : 2 + int(b[row, 0])])
            for a, b in zip(got, want, strict=True) for row in range(len(b))]  # fmt: skip
    return round(sum(same) / max(1, len(same)), 5)
