"""Sentences that nobody spoke, for the part of a transducer that knows language (Meng et al. 2021, "Internal language
model training for domain-adaptive end-to-end speech recognition"). Knows nothing of the loop."""

from __future__ import annotations

import lzma
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.tokenizer import Tokenizer
from models.training.text import normalize
from models.transducer import Model

DRAWN = 16  # with each batch
LONGEST = 80  # labels; longer sentences are cut


class Sentences:
    """The lines of some text files (.xz too), drawn at random."""

    def __init__(self, files: Sequence[str], tokenizer: Tokenizer, plain: bool = False) -> None:
        self.lines = lines_of(files)
        self._tokenizer, self._plain = tokenizer, plain

    def draw(self, rng: np.random.Generator, count: int) -> tuple[Tensor, Tensor]:
        """Labels [count, U] int64, 0 past a sentence's end, and lengths [count]."""
        drawn = [self.lines[place] for place in rng.integers(len(self.lines), size=count)]
        rows = [self._tokenizer.encode(normalize(line) if self._plain else line)[:LONGEST] for line in drawn]
        ids = np.zeros((count, max(1, *(len(row) for row in rows))), np.int64)
        for place, row in enumerate(rows):
            ids[place, : len(row)] = row
        lengths = torch.tensor([len(row) for row in rows], device="cpu")
        return torch.from_numpy(ids), lengths


def lines_of(files: Sequence[str]) -> list[str]:
    """All that are not blank; raises ValueError for files that are none of text, or all blank."""
    lines = [line for name in files for line in _lines(Path(name))]
    if not lines:
        raise ValueError(f"sentences: got no line in {', '.join(files)}, expected sentences")
    return lines


def _lines(path: Path) -> list[str]:
    try:
        data = lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()
        return [line for line in data.decode("utf-8").splitlines() if line.strip()]
    except (OSError, lzma.LZMAError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "neither UTF-8 nor xz of it"
        raise ValueError(f"sentences: got {path} ({reason}), expected a file of sentences") from None


def loss(model: Model, ids: Tensor, lengths: Tensor) -> Tensor:
    """Mean of -log P(label | the labels before it) by predictor and joint alone, blank left out: nothing is heard."""
    start = ids.new_full((len(ids), 1), model.config.blank)
    h, c = model.start(len(ids))
    spoken, _, _ = model.decoder.prediction(torch.cat([start, ids[:, :-1]], 1).T.contiguous(), h, c)
    silence = model.joint.enc.bias
    logits = model.joint(silence, model.joint.pred(spoken).transpose(0, 1))[..., : model.config.blank]
    said = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
    return F.cross_entropy(logits[said].float(), ids[said])
