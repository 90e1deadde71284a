"""`streamer bench gpu`: the check of the GPU backend, part by part (docs/gpu.md)."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from streamer.commands import FAILED, OK, CommandError, command, say, unwound_by_sigterm

OUT = Path("docs") / "benchmarks"


def add(verbs: Any) -> None:
    """The flags of the verb."""
    parser = command(
        verbs,
        "gpu",
        "is the GPU backend right, and how fast is it (in the clone)",
        """
        streamer bench gpu
        streamer bench gpu --part parity --part speed-0.6b-80
        streamer bench gpu --device cpu --size small --out /tmp/check
        """,
    )
    parser.add_argument("--part", action="append", default=[], metavar="NAME", help="only this one (again); see --list")
    parser.add_argument("--list", action="store_true", help="name the parts and stop")
    parser.add_argument("--report", action="store_true", help="only write gpu.md of what gpu.json has")
    parser.add_argument("--out", type=Path, default=OUT, metavar="FOLDER", help=f"of gpu.json and gpu.md ({OUT})")
    parser.add_argument("--device", default="cuda", metavar="D", help="cuda, cuda:N, or cpu with --size small (cuda)")
    parser.add_argument("--size", choices=("full", "small"), default="full", help="small: toys, to try the code (full)")
    parser.add_argument("--limit", type=float, metavar="S", help="longest time of a part in seconds (570)")
    parser.add_argument("--price", type=float, default=3.5, metavar="P", help="of a GPU hour (3.5)")
    parser.add_argument(
        "--rung",
        choices=("whole", "unrolled", "bodies", "eager"),
        default="whole",
        help="highest way to launch (whole)",
    )
    parser.add_argument("--inside", metavar="NAME", help=argparse.SUPPRESS)
    parser.add_argument("--answer", type=Path, help=argparse.SUPPRESS)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run what was asked for, part after part, and write both files."""
    from streamer.gpu_check import report, runner
    from streamer.gpu_check.parts import LIMIT_S, NAMES, PARTS
    from streamer.gpu_check.record import Records

    if args.list:
        for part in PARTS:
            print(f"{part.name:18} {part.about} (about {part.minutes:g} min)")
        return OK
    if args.report:
        say(f"{report.save(Records(args.out / 'gpu.json'), args.out)}")
        return OK
    if unknown := [name for name in args.part if name not in NAMES]:
        raise CommandError(f"--part {unknown[0]}: expected one of {', '.join(NAMES)}")
    if args.device == "cpu" and args.size == "full":
        raise CommandError("--device cpu: expected --size small with it; the figures of a check are a GPU's")
    where = "" if args.inside else machine(args.device)
    limit_s = args.limit or LIMIT_S
    plan = runner.Plan(args.device, where, args.out, args.size, limit_s, args.price, args.rung)
    if args.inside:
        return runner.inside(args.inside, plan, args.answer)
    chosen = [part for part in PARTS if part.name in args.part or not args.part]
    with unwound_by_sigterm():  # the part that runs ends with us
        bad = runner.run_all(chosen, plan, say, again=bool(args.part))
    print(report.save(Records(args.out / "gpu.json"), args.out))
    return FAILED if bad else OK


def machine(device: str) -> str:
    """The name of what the check runs on; a sentence where it cannot."""
    if device == "cpu":
        return "cpu"
    import torch

    if not torch.cuda.is_available():
        raise CommandError(
            f"gpu-check: torch {torch.__version__} finds no GPU, expected one and its driver; nothing was run"
        )
    return torch.cuda.get_device_name(torch.device(device))
