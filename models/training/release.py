"""A run's averaged weights as a model: our folder (models/store.py) in float16, or a .nemo file that NeMo restores.

Knows nothing of the loop.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from torch import Tensor, float16

from models import nemo, store
from models.config import ModelConfig
from models.tokenizer import Tokenizer
from models.training.checkpoint import RunFolder
from models.transducer import Model
from models.weights import model_of


def averaged(run: Path, kind: str | None = None) -> tuple[Model, Tokenizer]:
    """The model of the run's last checkpoint with the moving average of its weights.

    `kind` "ctc" leaves the transducer of a hybrid model away, for a run whose transducer has not been trained yet.
    """
    config, weights, tokenizer = RunFolder(run).averaged()
    if kind == "ctc" and config.kind == "hybrid":
        config, weights = _ctc_alone(config, weights)
    elif kind not in (None, config.kind):
        raise ValueError(f"release.kind: got {kind!r}, expected {config.kind} or, for a hybrid model, ctc")
    return model_of(config, weights, str(run)), tokenizer


def _ctc_alone(config: ModelConfig, weights: dict[str, Tensor]) -> tuple[ModelConfig, dict[str, Tensor]]:
    alone = replace(config, kind="ctc", predictor_hidden=0, predictor_layers=0, joint_hidden=0)
    kept = {name: w for name, w in weights.items() if not name.startswith(("decoder.", "joint."))}
    return alone, {name.replace("ctc_decoder.", "decoder."): w for name, w in kept.items()}


def release(run: Path, out: Path, kind: str | None = None, name: str | None = None) -> None:
    """Writes the averaged model to `out`, under another `name` than the run's where one is given."""
    model, tokenizer = averaged(run, kind)
    if name:
        model.config = replace(model.config, name=name)
    if out.suffix == ".nemo":
        out.parent.mkdir(parents=True, exist_ok=True)
        nemo.save_nemo(model, tokenizer, out)
    else:
        store.save(model, tokenizer, out, float16)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="release a run's averaged weights")
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument("out", type=Path, help="model folder to write, or a .nemo file")
    parser.add_argument("--kind", choices=("hybrid", "ctc"), help="ctc: without the transducer of a hybrid model")
    parser.add_argument("--name", help="what the model is called (default: as in the run's configuration)")
    args = parser.parse_args(argv)
    try:
        release(args.run, args.out, args.kind, args.name)
    except (ValueError, OSError) as error:
        print(f"release: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
