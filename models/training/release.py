"""A run's averaged weights as a model folder: model.safetensors (float16), config.json, tokenizer.model."""
from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from models import store
from models.config import ModelConfig
from models.features_np import filterbank, window
from models.tokenizer import Tokenizer
from models.weights import model_of


def read_weights(folder: Path) -> dict[str, Tensor]:
    """A released folder's weights in float32."""
    return {name: value.float() for name, value in load_file(folder / "model.safetensors").items()}


def release(run: Path, out: Path) -> None:
    """Writes the folder of the run's last checkpoint; the features' buffers stay float32, as NeMo stores them."""
    state = torch.load(run / "checkpoint.pt", weights_only=True)
    config = ModelConfig.from_dict(state["model"])
    weights = dict(state["arena"]["ema"])
    weights["preprocessor.featurizer.fb"] = torch.from_numpy(filterbank(config.mels))[None]
    weights["preprocessor.featurizer.window"] = torch.from_numpy(window())
    tokenizer = Tokenizer.from_sentencepiece((run / "tokenizer.model").read_bytes())
    store.save(model_of(config, weights, str(run)), tokenizer, out)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="release a run's averaged weights")
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument("out", type=Path, help="folder to write")
    args = parser.parse_args(argv)
    release(args.run, args.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
