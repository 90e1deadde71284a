"""`streamer bench loss`: forms of the RNN-T loss beside each other, and a table of them. Knows nothing of their code.

Each form is a process of its own (loss_trial.py), so that memory is its own; they take turns, so that whatever else the
machine does befalls all of them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from streamer.bench.loss_order import Order
from streamer.bench.machine import machine

ROOT = Path(__file__).resolve().parents[2]
STOP_S = 20.0
PRODUCTS = 8  # runs of them in a round: they are short, and what is left of the machine shows in the quickest
KEPT, AGAIN = 3, 4  # products of a cell: logits kept for the way back, or computed twice
Say = Callable[[str], None]


@dataclass(slots=True, eq=False)
class Line:
    """A form on a batch, and what was found."""

    name: str
    order: Order
    python: str = sys.executable
    once: bool = False  # too slow for more than one run
    runs: list[dict[str, Any]] = field(default_factory=list)
    failed: str = ""
    versions: str = ""

    @property
    def seconds(self) -> float:
        """The quickest run."""
        return float(min(run["seconds"] for run in self.runs))

    @property
    def mib(self) -> float:
        """Of the first run, which found nothing kept by an earlier one."""
        return float(self.runs[0]["mib"])


class Trial:
    """A form's process."""

    def __init__(self, line: Line) -> None:
        self.line = line
        command = [line.python, "-P", "-m", "streamer.bench.loss_trial", json.dumps(asdict(line.order))]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, env=_environment(), text=True
        )
        line.versions = self._answer().get("versions", "")

    def run(self) -> None:
        """Once, if all has gone well so far."""
        if not self.line.failed:
            assert self._process.stdin is not None
            self._process.stdin.write("\n")
            self._process.stdin.flush()
            if found := self._answer():
                self.line.runs.append(found)

    def close(self) -> None:
        """Its memory is free for the next."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        text = self._process.stdout.readline()
        found: dict[str, Any] = json.loads(text) if text else {"failed": f"ended with code {self._process.wait()}"}
        self.line.failed = found.get("failed", "")
        return {} if self.line.failed else found


def _environment() -> dict[str, str]:
    """Ours is found by any Python; kernels that are interpreted are not worth a measurement."""
    kept = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    return kept | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}


def measure(lines: Sequence[Line], rounds: int, say: Say) -> None:
    """On a CPU by turns, but for those that run once; on a GPU, whose memory they would share, one after the other."""
    apart = [line for line in lines if line.once or line.order.device != "cpu"]
    for line in apart:
        _rounds([line], 1 if line.once else rounds, say)
    _rounds([line for line in lines if line not in apart], rounds, say)


def _rounds(lines: Sequence[Line], rounds: int, say: Say) -> None:
    with ExitStack() as stack:
        trials = []
        for line in lines:
            trials.append(Trial(line))
            stack.callback(trials[-1].close)
        for number in range(rounds):
            for trial in trials:
                for _ in range(PRODUCTS if trial.line.order.form == "products" else 1):
                    trial.run()
                _tell(trial.line, number, say)


def _tell(line: Line, number: int, say: Say) -> None:
    result = line.failed or f"{line.runs[-1]['seconds']:.2f} s, {line.runs[-1]['mib']:.0f} MiB"
    say(f"round {number + 1}, {line.name}, {precision(line.order)}: {result}")


def precision(order: Order) -> str:
    """As the table has it."""
    return "bf16" if order.half else "fp32"


def rate(lines: Sequence[Line], half: bool) -> float:
    """Floating-point operations a second of the products alone; `value` is their share of the batch's cells."""
    (line,) = (line for line in lines if line.order.form == "products" and line.order.half == half)
    return float(KEPT * line.runs[0]["value"] * line.order.flop / line.seconds)


def table(lines: Sequence[Line], title: str) -> str:
    """Markdown: time, against the floor and the batched form, and memory; the floors below."""
    reference = next((line for line in lines if line.order.form == "batched" and line.runs), None)
    head = "| form | products | time, s | x floor | x batched | peak, MiB | batched / peak |\n|---|---|" + "---:|" * 5
    rows = [_row(line, lines, reference) for line in lines if line.order.form != "products"]
    return "\n".join([f"## {title}", "", head, *rows, "", *_floors(lines), *_agreement(lines)]).rstrip() + "\n"


def _row(line: Line, lines: Sequence[Line], reference: Line | None) -> str:
    begin = f"| {line.name} | {precision(line.order)} |"
    if not line.runs:
        return f"{begin} {line.failed or 'not run'} | | | | |"
    floor = KEPT * line.order.flop / rate(lines, line.order.half)
    cells = [f"{line.seconds:.2f}", f"{line.seconds / floor:.2f}", "", f"{line.mib:.0f}", ""]
    if reference is not None:
        cells[2], cells[4] = f"{line.seconds / reference.seconds:.2f}", f"{reference.mib / line.mib:.1f}"
    return f"{begin} {' | '.join(cells)} |"


def _floors(lines: Sequence[Line]) -> list[str]:
    said = []
    for half in (False, True):
        if any(line.runs and line.order.form == "products" and line.order.half == half for line in lines):
            order, speed = lines[0].order, rate(lines, half)
            kind, one = "bf16" if half else "fp32", order.flop / speed
            said.append(
                f"- Floor in {kind}: products alone run at {speed / 1e9:.0f} GFLOP/s. One of all cells, "
                f"{order.flop / 1e9:.0f} GFLOP, takes {one:.2f} s; the three of a loss that keeps its logits for "
                f"the way back {KEPT * one:.2f} s, which is what `x floor` counts in; the four of one that computes "
                f"them twice {AGAIN * one:.2f} s."
            )
    return said


def _agreement(lines: Sequence[Line]) -> list[str]:
    """How far the losses are apart."""
    values = [line.runs[0]["value"] for line in lines if line.runs and line.order.form != "products"]
    return [f"- Losses differ by at most {max(values) / min(values) - 1:.0e} of themselves."] if values else []


def about(lines: Sequence[Line]) -> str:
    """The machine, and what ran."""
    versions = sorted({line.versions for line in lines if line.versions})
    found = dict(machine()) | {"versions": "; ".join(versions), "threads": str(lines[0].order.threads)}
    return "| | |\n|---|---|\n" + "".join(f"| {name} | {value} |\n" for name, value in found.items())
