"""A run's averaged weights as a model folder (models/store.py), in float16. Knows nothing of the loop."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from models import store
from models.config import ModelConfig
from models.features_np import filterbank, window
from models.tokenizer import Tokenizer
from models.transducer import Model

CHECKPOINT, TOKENIZER = "checkpoint.pt", "tokenizer.model"


def read_weights(folder: Path) -> dict[str, Tensor]:
    """A released folder's weights in float32, by name."""
    return store.load_folder(folder)[0].state_dict()


def set_features(model: Model) -> None:
    """Gives the model the filterbank and window that its training features were made with."""
    model.preprocessor.featurizer.fb.copy_(torch.from_numpy(filterbank(model.config.mels))[None])
    model.preprocessor.featurizer.window.copy_(torch.from_numpy(window()))


def averaged(run: Path, kind: str | None = None) -> tuple[Model, Tokenizer]:
    """The model of the run's last checkpoint with the moving average of its weights.

    `kind` "ctc" leaves the transducer of a hybrid model away, for a run whose transducer has not been trained yet.
    """
    state = torch.load(run / CHECKPOINT, weights_only=True)
    values, weights = dict(state["model"]), state["arena"]["ema"]
    if kind == "ctc" and values["kind"] == "hybrid":
        values |= {"kind": "ctc", "predictor_hidden": 0, "predictor_layers": 0, "joint_hidden": 0}
        weights = {name.replace("ctc_decoder.", "decoder."): w for name, w in weights.items() if _outside(name)}
    elif kind not in (None, values["kind"]):
        raise ValueError(f"release.kind: got {kind!r}, expected {values['kind']} or, for a hybrid model, ctc")
    model = Model(ModelConfig.from_dict(values)).eval()
    set_features(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(weights[name])
    return model, Tokenizer.from_sentencepiece((run / TOKENIZER).read_bytes())


def _outside(name: str) -> bool:
    return not name.startswith(("decoder.", "joint."))


def release(run: Path, out: Path, kind: str | None = None, name: str | None = None) -> None:
    """Writes the averaged model to the folder `out`, under another `name` than the run's where one is given."""
    model, tokenizer = averaged(run, kind)
    if name:
        model.config = replace(model.config, name=name)
    store.save(model, tokenizer, out, torch.float16)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="release a run's averaged weights")
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--kind", choices=("hybrid", "ctc"), help="ctc: without the transducer of a hybrid model")
    parser.add_argument("--name", help="what the model is called (default: as in the run's configuration)")
    args = parser.parse_args(argv)
    release(args.run, args.out, args.kind, args.name)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
