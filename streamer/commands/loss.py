"""`streamer bench loss`: time and memory of every form of the RNN-T loss, as a table that can be kept."""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamer.artefacts import how_to_add
from streamer.commands import OK, CommandError, command, say, whole
from streamer.engine.machine import processors

if TYPE_CHECKING:
    from streamer.bench.loss import Line
    from streamer.bench.loss_order import Order

STATUS = Path("/proc/self/status")
HEAD = """\
# The RNN-T loss: forward and back, the joint included

`streamer bench loss` wrote this. From the joint's two inputs, float32, to the loss and the gradients of both inputs and
of the last layer. Each form is a process of its own and they take turns; time is the quickest run. Memory is what a
process grew by at its peak in its first run, gradients included, after it had done two rows and given their memory
back; on a GPU all that torch had allocated, inputs included. fp32 and bf16 are the numbers that are multiplied. The
floor is the matrix products alone, of the cells without padding, at the rate of this machine in the same run. "batched"
is the reference: all logits in float32; "batched, autocast" what is usual: bf16 products, their logits made float32 for
the loss. NeMo's loss is given the same logits; on a CPU its Numba form is a loop in Python, and it ran once.
"""


def add(verbs: Any) -> None:
    """The flags of the verb."""
    parser = command(
        verbs,
        "loss",
        "time and memory of every form of the RNN-T loss (needs the extra train)",
        """
        streamer bench loss
        streamer bench loss --nemo-python nemo/bin/python --out docs/benchmarks
        """,
    )
    flag = parser.add_argument
    flag("--rows", type=whole(1), default=32, metavar="B", help="of the CPU's batch (default: 32)")
    flag("--frames", type=whole(1), default=150, metavar="T", help="of its longest row, 80 ms each (default: 150)")
    flag("--labels", type=whole(1), default=40, metavar="U", help="of its longest row (default: 40)")
    flag("--vocab", type=whole(1), default=1024, metavar="V", help="labels beside blank (default: 1024)")
    flag("--hidden", type=whole(1), default=640, metavar="H", help="width of the joint (default: 640)")
    flag("--rounds", type=whole(1), default=3, metavar="N", help="runs of each form (default: 3)")
    flag("--threads", type=whole(1), metavar="N", help="of the CPU's forms (default: every processor)")
    flag("--nemo-python", type=Path, metavar="PATH", help="Python that has NeMo, whose loss then is in the table")
    flag("--out", type=Path, metavar="FOLDER", help="also write transducer-loss.md there")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """The CPU's table; the GPU's where there is one, else that it was not run."""
    if not STATUS.exists():
        raise CommandError(f"{STATUS}: is not there, expected a Linux that tells a process's memory")
    if find_spec("torch") is None:
        raise CommandError(f"the loss needs torch, which is not installed: {how_to_add('train')}")
    if args.nemo_python is not None and not args.nemo_python.is_file():
        raise CommandError(f"--nemo-python {args.nemo_python}: no such file")
    import torch

    from streamer.bench.loss import about, measure, table

    gpu = torch.cuda.is_available()
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
    lines, text = [], HEAD
    for title, part in sections(args):
        if part[0].order.device == "cpu" or gpu:
            measure([line for line in part if line.order.form != "nemo" or args.nemo_python], args.rounds, say)
        text += f"\n{table(part, title)}"
        lines += part
    name = torch.cuda.get_device_name() if gpu else "none"
    text += f"\n{about(lines)}| GPU | {name} |\n"
    print(text, end="")
    if args.out:
        (args.out / "transducer-loss.md").write_text(text, "utf-8")
    return OK


def sections(args: argparse.Namespace) -> list[tuple[str, list[Line]]]:
    """Titles and lines of the document."""
    from streamer.bench.loss_order import Order

    sizes = {"words": args.vocab, "hidden": args.hidden, "threads": args.threads or processors()}
    own = Order("", False, args.rows, args.frames, args.labels, least=0.6, **sizes)
    found = [(f"CPU, {_shape(own)}, each row 60 to 100 % of both", _lines(own, args.nemo_python))]
    for rows in (1024, 32):
        large = Order("", False, rows, 500, 100, device="cuda", **sizes)
        found.append((f"GPU, {_shape(large)}, 40 s of audio in each row", _lines(large, args.nemo_python)))
    return found


def _shape(order: Order) -> str:
    return f"batch {order.rows}, T = {order.frames}, U = {order.labels}, V = {order.words}, joint {order.hidden}"


def _lines(order: Order, nemo_python: Path | None) -> list[Line]:
    import sys
    from dataclasses import replace

    from streamer.bench.loss import Line

    gpu = order.device != "cpu"
    forms = [
        ("batched", "batched", False),
        ("batched, autocast", "autocast", True),
        ("sample-wise", "sample-wise", False),
        ("sample-wise", "sample-wise", True),
        ("tiled", "tiled", False),
        ("tiled", "tiled", True),
        *([("Triton kernels", "kernels", True)] if gpu else []),
        ("NeMo's Numba loss, batched", "nemo", False),
        ("products", "products", False),
        ("products", "products", True),
    ]
    return [
        Line(
            name,
            replace(order, form=form, half=half),
            str(nemo_python) if form == "nemo" else sys.executable,
            once=form == "nemo" and not gpu,
        )
        for name, form, half in forms
    ]
