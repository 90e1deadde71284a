"""`streamer export`: a checkpoint to files that run without torch, or to TensorRT's engines."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from streamer.commands import OK, CommandError, command, unwound_by_sigterm

PRECISIONS = {"onnx": ("fp32", "int8"), "trt": ("fp16", "bf16", "fp32")}  # the first is the default
TENSORRT = "tensorrt.json"  # the file that makes a folder one of TensorRT's engines
MOST_ROWS = 1 << 14  # of a batch


def add(commands: Any) -> None:
    """The flags of the command."""
    parser = command(
        commands,
        "export",
        "a checkpoint to ONNX or TensorRT (needs the extra torch, or tensorrt)",
        """
        streamer export nemotron.nemo --to onnx --precision int8 --out nemotron-int8
        streamer export runs/mine --out runs/mine
        streamer export nemotron.nemo --to trt --precision bf16 --latency 80,1120
        streamer serve model.path=nemotron-int8
        """,
    )
    parser.add_argument("model", metavar="MODEL", help=".nemo file or model folder")
    parser.add_argument("--to", choices=tuple(PRECISIONS), default="onnx", help="what to write (default: onnx)")
    parser.add_argument(
        "--precision",
        choices=("fp32", "int8", "fp16", "bf16"),
        help="onnx: fp32, which gives the checkpoint's own tokens, or int8, smaller and faster (default: fp32); "
        "trt: fp16, bf16 or fp32 (default: fp16)",
    )
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", help="folder to write (default: MODEL's name and the precision)"
    )
    engines = parser.add_argument_group("with --to trt")
    engines.add_argument(
        "--latency", type=numbers, metavar="MS[,MS...]", help="which of the model's latencies (default: all)"
    )
    engines.add_argument(
        "--buckets",
        type=numbers,
        metavar="B[,B...]",
        help="batch sizes that engines are made fast for; the last is the largest (default: 1,8,64,256,1024)",
    )
    engines.add_argument("--keep-onnx", action="store_true", help="leave the graphs beside the engines")
    parser.set_defaults(run=run)


def numbers(text: str) -> tuple[int, ...]:
    """A flag's type: whole numbers from 1 with commas between."""
    parts = text.split(",")
    if all(part.isascii() and part.isdigit() and len(part) < 9 and 1 <= int(part) <= MOST_ROWS for part in parts):
        return tuple(map(int, parts))
    raise argparse.ArgumentTypeError(f"got {text!r}, expected whole numbers from 1 to {MOST_ROWS}, commas between them")


def run(args: argparse.Namespace) -> int:
    """Write the artefact's folder and say where it is. Files there that are not the exporter's stay."""
    from streamer.artefacts import EXPORTED, export_model

    source, known = Path(args.model), PRECISIONS[args.to]
    if not source.exists():
        raise CommandError(f"model {source}: no such file or folder")
    precision = args.precision or known[0]
    if precision not in known:
        raise CommandError(f"--precision {precision}: expected one of {', '.join(known)} with --to {args.to}")
    out: Path = args.out or Path(_name(source, precision, args.to))
    _check_out(out, source, TENSORRT if args.to == "trt" else EXPORTED)
    if args.to == "trt":
        with unwound_by_sigterm():  # what is half written goes
            _export_engines(source, out, precision, args)
    elif args.latency or args.buckets or args.keep_onnx:
        raise CommandError("--latency, --buckets, --keep-onnx: expected only with --to trt; one ONNX graph serves all")
    else:
        export_model(source, out.resolve(), precision)
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    print(f"{out}  {precision}  {size / 1e6:.1f} MB")
    return OK


def _name(source: Path, precision: str, kind: str) -> str:
    name = f"{source.resolve().name.removesuffix('.nemo')}-{precision}"
    return f"{name}-trt" if kind == "trt" else name


def _check_out(out: Path, source: Path, mark: str) -> None:
    """Refuse to replace what no export of this kind has made."""
    known = (out / mark).is_file() or (out.is_dir() and (out.samefile(source) or not any(out.iterdir())))
    if out.exists() and not known:
        raise CommandError(f"--out {out}: is there already and is no exported model")


def _export_engines(source: Path, out: Path, precision: str, args: argparse.Namespace) -> None:
    from streamer.artefacts import cache_folder, exporter

    engines = exporter("to_trt")
    chosen = {"latencies_ms": args.latency, "buckets": args.buckets}
    options = engines.Options(
        precision=precision,
        keep_onnx=args.keep_onnx,
        timing_cache=cache_folder(),
        **{name: value for name, value in chosen.items() if value},
    )
    engines.export_model(source, out.resolve(), options)
