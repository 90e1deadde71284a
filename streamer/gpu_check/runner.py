"""Parts one after the other, each in a process of its own with a time limit. Knows nothing of what parts find.

What a part noted is kept whatever becomes of it: an exception, a crash of the driver and a limit that is reached are
all a record with a sentence, and the next part goes on.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streamer.commands.daemon import signalled_with_parent
from streamer.gpu_check.job import SIZES, Job
from streamer.gpu_check.parts import LIMIT_S, Part, named
from streamer.gpu_check.record import CUT, DONE, FAILED, Records, write

SPARE_S = 30.0  # of the limit that a part leaves for its own end
_LAST_LINES = 8
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """How parts are run: where, how large, how long each, into which folder."""

    device: str
    machine: str
    out: Path
    size: str = "full"
    limit_s: float = LIMIT_S
    price: float = 3.5
    rung: str = "whole"


def run_all(parts: Sequence[Part], plan: Plan, say: Say, *, again: bool) -> int:
    """How many of the parts did not end well. Those that did before are left alone unless `again`."""
    records = Records(plan.out / "gpu.json")
    bad = 0
    for number, part in enumerate(parts, 1):
        where = f"{number}/{len(parts)} {part.name}"
        if not again and records.finished(part.name, plan.machine):
            say(f"{where}: done before")
            continue
        say(f"{where}: {part.about} (about {part.minutes:g} min)")
        record = run_one(part, plan)
        records.put(part.name, record)
        bad += record["status"] != DONE
        said = f": {record['error']}" if record["error"] else ""
        say(f"{where}: {record['status']} after {record['seconds']:.0f} s{said}")
    return bad


def run_one(part: Part, plan: Plan) -> dict[str, Any]:
    """The part's record."""
    plan.out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as folder:
        answer = Path(folder) / "answer.json"
        log = plan.out / f"gpu-{part.name}.log"
        code = _process(part, plan, (answer, log))
        kept = _read(answer)
    error = kept.pop("error", None)
    status = DONE if code == 0 and error is None else FAILED
    if code is None:
        status, error = CUT, f"it took longer than {plan.limit_s:g} s"
    elif status == FAILED and error is None:
        error = f"its process ended with code {code}: {_tail(log)}"
    return {
        "status": status,
        "error": error,
        "seconds": round(time.monotonic() - began, 1),
        "date": time.strftime("%Y-%m-%d"),
        "machine": plan.machine,
        "size": plan.size,
        "rung": plan.rung,
        "figures": kept.get("figures", {}),
    }


def _process(part: Part, plan: Plan, files: tuple[Path, Path]) -> int | None:
    """The exit code of the part's process; None where it had to be ended."""
    answer, log = files
    command = [
        sys.executable, "-m", "streamer", "bench", "gpu", "--inside", part.name, "--answer", str(answer), "--device",
        plan.device, "--size", plan.size, "--limit", str(plan.limit_s), "--price", str(plan.price),
        "--rung", plan.rung,
    ]  # fmt: skip
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=file, start_new_session=True, preexec_fn=signalled_with_parent()
        )
        try:
            return process.wait(plan.limit_s)
        except subprocess.TimeoutExpired:
            return None
        finally:  # with all that it started
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def inside(name: str, plan: Plan, answer: Path) -> int:
    """What a part's process does: its work, noting figures in `answer` as they come; the exit code."""
    part = named(name)

    def keep(figures: dict[str, Any]) -> None:
        write(answer, {"figures": figures})

    job = Job(plan.device, SIZES[plan.size], max(1.0, plan.limit_s - SPARE_S), plan.price, plan.rung, keep)
    try:
        part.work()(job)
    except Exception as error:
        traceback.print_exc()
        sentence = " ".join(str(error).split())[:400]
        write(answer, {"figures": job.figures, "error": f"{type(error).__name__}: {sentence}"})
        return 1
    write(answer, {"figures": job.figures})
    return 0


def _read(answer: Path) -> dict[str, Any]:
    try:
        kept = json.loads(answer.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return kept if isinstance(kept, dict) else {}


def _tail(log: Path) -> str:
    lines = [line.strip() for line in log.read_text("utf-8", "replace").splitlines() if line.strip()]
    return " | ".join(lines[-_LAST_LINES:])[-400:] or "it said nothing"
