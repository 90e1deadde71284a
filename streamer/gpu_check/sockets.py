"""The most real-time streams through the WebSocket: a daemon with fronts, and load by processes on the same machine."""

from __future__ import annotations

import dataclasses
import gc
import json
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.store import save
from streamer.bench.machine import cpu_seconds
from streamer.commands import TAIL_MS, daemon
from streamer.gpu_check.job import Job
from streamer.gpu_check.random_models import SPARES, fitting, narrowed, speaker
from streamer.gpu_check.seats import Load
from streamer.gpu_check.sounds import ROOT, speech
from streamer.gpu_check.streams import SPARE_SEATS, confirm, search, summary
from streamer.sockets import allow_many

MODEL = "0.6b"
START_S = 240.0  # the daemon may take: graphs of every shape are made, and steps measured
LOUDEST = 32_767


def run(job: Job, latency_ms: int) -> None:
    """One daemon for all runs."""
    whole = job.size.models[MODEL]
    chunk = whole.chunk_of(latency_ms)
    config = narrowed(whole, chunk)
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as name:
        folder = Path(name)
        spoken = speaker(job, config, chunk, min(job.size.slots, 64), (8, 32, 64))
        job.note(model=MODEL, latency_ms=latency_ms, tokens_a_second=spoken.tokens_a_second, tail_ms=TAIL_MS, tries=[])
        save(spoken.model, spoken.tokenizer, folder / "model", torch.float32)
        del spoken
        gc.collect()
        if job.cuda:
            torch.cuda.empty_cache()
        allow_many()
        slots = fitting(job, config, job.size.slots)
        audio = folder / "speech.npy"
        np.save(audio, (speech(job.size.recordings).clip(-1, 1) * LOUDEST).astype(np.int16))
        daemon.START_S = START_S
        with daemon.Daemon(*options(job, folder / "model", slots)) as serving:
            runner = ThroughSockets(job, serving, audio, latency_ms)
            job.note(slots=slots, fronts=job.size.fronts, generators=job.size.generators)
            top = max(1, int(slots / SPARES * SPARE_SEATS))
            job.note(confirmed=confirm(job, search(job, runner, (chunk, top)), runner, chunk))


def options(job: Job, model: Path, slots: int) -> list[str]:
    """The daemon's."""
    return [
        f"model.path={model}",
        "model.backend=pytorch",
        f"model.device={job.device}",
        f"model.precision={'bf16' if job.cuda else 'fp32'}",
        f"engine.slots={slots}",
        "engine.max_load=100",
        "log.level=warning",
        f"server.fronts={job.size.fronts if job.cuda else 0}",
    ]


class ThroughSockets:
    """Generators against one daemon."""

    def __init__(self, job: Job, serving: daemon.Daemon, audio: Path, latency_ms: int) -> None:
        self._serving, self._audio, self._parts = serving, audio, job.size.generators
        self._path = f"/v1/stream?latency={latency_ms}&endpointing=false"

    def run(self, load: Load) -> dict[str, Any]:
        """Put the load on; what came of it. Processor seconds are a second of the load's, the ramp's included."""
        before = family(self._serving.pid)
        shares = [dataclasses.replace(load, part=part, of=self._parts) for part in range(self._parts)]
        answers = [self._audio.with_name(f"seen-{share.part}.json") for share in shares]
        processes = [self._started(share, answer) for share, answer in zip(shares, answers, strict=True)]
        codes = [process.wait() for process in processes]
        assert not any(codes), f"generators: got exit codes {codes}, expected 0"
        seen = [json.loads(answer.read_text("utf-8")) for answer in answers]
        after = family(self._serving.pid)
        spent = {pid: (after[pid] - before.get(pid, 0.0)) / (load.ramp_s + load.seconds) for pid in after}
        lateness, finals, lags = ([x for one in seen for x in one[kind]] for kind in ("lateness", "finals", "lags"))
        late = sum(seconds > load.chunk_s for seconds in lateness)
        figures = summary(lateness, finals, lags, (late, sum(one["errors"] for one in seen)))
        return figures | {
            "late_share": late / max(1, len(lateness)),
            "messages": dict(sum((Counter(one["messages"]) for one in seen), Counter[str]())),
            "generator_cpu": round(sum(one["cpu"] for one in seen), 3),
            "daemon_cpu": round(sum(spent.values()), 3),
            "daemon_processes_cpu": sorted((round(cpu, 3) for cpu in spent.values()), reverse=True),
        }

    def _started(self, share: Load, answer: Path) -> subprocess.Popen[bytes]:
        order = {
            "host": "127.0.0.1", "port": self._serving.port, "path": self._path, "audio": str(self._audio),
            "load": dataclasses.asdict(share), "answer": str(answer),
        }  # fmt: skip
        command = [sys.executable, "-m", "streamer.gpu_check.generator"]
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE)
        assert process.stdin is not None
        process.stdin.write(json.dumps(order).encode())
        process.stdin.close()
        return process


def family(pid: int) -> dict[int, float]:
    """Processor seconds of a process and of all that it started, by pid; those that have ended are not seen."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(stat.parent.name)] = int(fields[1])
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return {one: seconds for one in found if (seconds := cpu_seconds(one)) is not None}
