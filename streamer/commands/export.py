"""`streamer export`: a checkpoint to files that run without torch."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from streamer.commands import OK, CommandError, command


def add(commands: Any) -> None:
    """The flags of the command."""
    parser = command(
        commands,
        "export",
        "a checkpoint to ONNX (needs the extra torch)",
        """
        streamer export nemotron.nemo --to onnx --precision int8 --out nemotron-int8
        streamer export runs/mine --out runs/mine
        streamer serve model.path=nemotron-int8
        """,
    )
    parser.add_argument("model", metavar="MODEL", help=".nemo file or model folder")
    parser.add_argument("--to", choices=("onnx",), default="onnx", help="what to write (default: onnx)")
    parser.add_argument(
        "--precision",
        choices=("fp32", "int8"),
        default="fp32",
        help="int8 is smaller and faster, fp32 gives the checkpoint's own tokens (default: fp32)",
    )
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", help="folder to write (default: MODEL's name and the precision)"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the artefact's folder and say where it is. Files there that are not the exporter's stay."""
    from streamer.artefacts import EXPORTED, export_model

    source = Path(args.model)
    if not source.exists():
        raise CommandError(f"model {source}: no such file or folder")
    out: Path = args.out or Path(f"{source.resolve().name.removesuffix('.nemo')}-{args.precision}")
    known = (out / EXPORTED).is_file() or (out.is_dir() and (out.samefile(source) or not any(out.iterdir())))
    if out.exists() and not known:
        raise CommandError(f"--out {out}: is there already and is no exported model")
    export_model(source, out.resolve(), args.precision)
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    print(f"{out}  {args.precision}  {size / 1e6:.1f} MB")
    return OK
