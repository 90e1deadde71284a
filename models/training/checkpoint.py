"""A run's folder: its tokenizer and its checkpoint, which holds all that going on needs. Knows nothing of the loop."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.config import ModelConfig
from models.tokenizer import Tokenizer
from models.training.arena import Arena
from models.training.progress import Progress
from models.training.teacher import HEAD
from models.transducer import Model

CHECKPOINT, TOKENIZER = "checkpoint.pt", "tokenizer.model"
RENAMED = ("name", "licence")  # of a model that may change while it learns


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The folder of one run."""

    path: Path

    def begin(self, tokenizer: Tokenizer) -> None:
        """Makes the folder, with its tokenizer."""
        self.path.mkdir(parents=True, exist_ok=True)
        if not (pieces := self.path / TOKENIZER).exists():
            pieces.with_suffix(".part").write_bytes(tokenizer.to_bytes())
            os.replace(pieces.with_suffix(".part"), pieces)

    def state(self, config: ModelConfig, tokenizer: Tokenizer) -> dict[str, Any] | None:
        """The last checkpoint, None for a new run; raises ValueError for a run of another model or tokenizer."""
        pieces = self.path / TOKENIZER
        if pieces.exists() and pieces.read_bytes() != tokenizer.to_bytes():
            raise ValueError(f"{pieces}: got another tokenizer, expected the settings'; a new run needs a new folder")
        path = self.path / CHECKPOINT
        if not path.exists():
            return None
        state = read(path)
        before, now = ModelConfig.from_dict(state["model"]).to_dict(), config.to_dict()
        odd = [key for key in now if before[key] != now[key] and key not in RENAMED]
        if odd:
            said = f"got a model of other {', '.join(odd)}"
            raise ValueError(f"{path}: {said}, expected the settings'; go on with the run's")
        return state

    def save(self, model: Model, arena: Arena, progress: Progress) -> None:
        """A checkpoint, whole or not at all."""
        path = self.path / CHECKPOINT
        with progress.locked():
            state = {"arena": arena.state(), "progress": progress.state()}
        buffers = {name: buffer.cpu().clone() for name, buffer in model.named_buffers()}
        torch.save({**state, "model": model.config.to_dict(), "buffers": buffers}, path.with_suffix(".part"))
        os.replace(path.with_suffix(".part"), path)

    def averaged(self) -> tuple[ModelConfig, dict[str, Tensor], Tokenizer]:
        """Numbers, averaged weights with their buffers by name, and the tokenizer."""
        state = read(self.path / CHECKPOINT)
        config = ModelConfig.from_dict(state["model"])
        tokenizer = Tokenizer.from_bytes(config.tokenizer, (self.path / TOKENIZER).read_bytes())
        weights = {name: w for name, w in state["arena"]["ema"].items() if not name.startswith(f"{HEAD}.")}
        return config, weights | state["buffers"], tokenizer


def read(path: Path) -> dict[str, Any]:
    """Raises ValueError for a file that is no checkpoint of this format."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file, expected the folder of a run that has saved")
    state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
    if "buffers" not in state:
        raise ValueError(f"{path}: got a checkpoint of an earlier format, expected one that this trainer wrote")
    return state
