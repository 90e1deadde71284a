"""Cached utterances to augmented batches of near-equal length, the order a function of seed, epoch and place."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models.config import HOP, SAMPLE_RATE, SUBSAMPLING, ModelConfig
from models.features_np import per_feature
from models.tokenizer import Tokenizer
from models.training import cache
from models.training.augment import Augment, masked, sounded
from models.training.manifest import ManifestError, Spelling
from models.training.teacher import Teacher
from models.training.text import normalize

FRAMES_PER_S = SAMPLE_RATE // HOP
ROUND_FRAMES = 64  # batches are padded to multiples of this, so that few shapes occur


@dataclass(frozen=True, slots=True)
class Utterance:
    """Frames of one utterance in a part of the corpus, and its token ids."""

    part: int
    offset: int
    frames: int
    ids: tuple[int, ...]
    text: str
    source: str
    prompt: int  # of its language; 0 for a model without
    row: int = 0  # in its part


@dataclass(frozen=True, slots=True)
class Batch:
    """Padded rows: past a row's frames the mel is 0.0, past its ids the label is 0."""

    mel: Tensor  # [B, T, mels] float32
    frames: Tensor  # [B] int64, mel frames
    ids: Tensor  # [B, U] int64
    id_lengths: Tensor  # [B] int64
    prompts: Tensor  # [B] int64
    texts: tuple[str, ...]
    sources: tuple[str, ...]
    taught: Tensor | None = None  # [B, T', dims] float32: what the teacher makes of the encoder's frames, 0.0 past them

    def to(self, device: torch.device) -> Batch:
        """The same where the model is."""
        tensors = {
            f.name: value for f in dataclasses.fields(self) if isinstance(value := getattr(self, f.name), Tensor)
        }
        moved = {name: tensor.to(device, non_blocking=True) for name, tensor in tensors.items()}
        return dataclasses.replace(self, **moved)

    @property
    def seconds(self) -> float:
        return float(self.frames.sum()) / FRAMES_PER_S


def fits_ctc(ids: Sequence[int], frames: int) -> bool:
    """Whether CTC has a path: every token needs an encoder frame, a repeated one a blank before it too."""
    repeats = sum(a == b for a, b in itertools.pairwise(ids))
    return len(ids) > 0 and len(ids) + repeats <= frames // SUBSAMPLING


class Corpus:
    """The usable utterances of some cached manifests, in memory-mapped features."""

    def __init__(
        self,
        folder: Path,
        names: Sequence[str],
        tokenizer: Tokenizer,
        config: ModelConfig,
        max_s: float = math.inf,
        plain: bool = False,
        teacher: Teacher | None = None,
    ) -> None:
        self.parts: list[np.ndarray] = []
        self.teacher = teacher
        self.utterances: list[Utterance] = []
        self.skipped = 0
        self._per_feature = config.normalize == "per_feature"
        # convolutions that see ahead take as many frames as there are, or they would give more than the mask knows
        self._round = ROUND_FRAMES if config.causal_subsampling else 1
        said: Callable[[str], str] = normalize if plain else str
        prompts = config.num_prompts > 0
        for part, name in enumerate(names):
            frames, items = cache.load(folder, name, config.mels)
            self.parts.append(frames)
            if faults := Spelling(tokenizer).faults((row, said(item.text)) for row, item in enumerate(items, 1)):
                raise ManifestError(f"cache {name}", faults)
            for row, item in enumerate(items):
                text = said(item.text)
                ids, prompt = tuple(tokenizer.encode(text)), config.prompt_index(item.language if prompts else None)
                if fits_ctc(ids, item.frames) and item.frames <= max_s * FRAMES_PER_S:
                    place = (part, item.offset, item.frames)
                    self.utterances.append(Utterance(*place, ids, text, item.source, prompt or 0, row))
                else:
                    self.skipped += 1

    @property
    def seconds(self) -> float:
        return sum(u.frames for u in self.utterances) / FRAMES_PER_S

    def label_counts(self, vocab_size: int) -> Tensor:
        """[V] float32: how often each label occurs."""
        ids = np.concatenate([np.array(u.ids) for u in self.utterances])
        return torch.from_numpy(np.bincount(ids, minlength=vocab_size).astype(np.float32))

    def plan(self, batch_s: float, seed: int, epoch: int, up_to_s: float = math.inf) -> list[list[int]]:
        """Every utterance of up to `up_to_s` once, in batches of at most `batch_s` padded seconds (or one utterance).

        Lengths are jittered by 5 %: company changes from epoch to epoch.
        """
        rng = np.random.default_rng((seed, epoch))
        jittered = np.array([u.frames for u in self.utterances]) * rng.uniform(0.95, 1.05, len(self.utterances))
        batches: list[list[int]] = []
        longest = 0
        for index in np.argsort(jittered, kind="stable").tolist():
            frames = self.utterances[index].frames
            if frames > up_to_s * FRAMES_PER_S:
                continue
            longest = max(longest, frames)
            if not batches or longest * (len(batches[-1]) + 1) > batch_s * FRAMES_PER_S:
                batches.append([])
                longest = frames
            batches[-1].append(index)
        if not batches:
            raise ValueError(f"corpus: got no utterance of up to {up_to_s} s, expected some")
        rng.shuffle(batches)
        return batches

    def batch(
        self, indices: Sequence[int], rng: np.random.Generator | None = None, augment: Augment | None = None
    ) -> Batch:
        """The rows of a batch, longest first, augmented when both `rng` and `augment` are given."""
        rows = sorted((self.utterances[i] for i in indices), key=lambda u: -u.frames)
        places = -(-rows[0].frames // self._round) * self._round
        mel = np.zeros((len(rows), places, self.parts[0].shape[1]), np.float32)
        ids = np.zeros((len(rows), max(len(u.ids) for u in rows)), np.int64)
        for row, u in enumerate(rows):
            part = self.parts[u.part][u.offset : u.offset + u.frames].astype(np.float32)
            if rng is not None and augment is not None:
                part = sounded(part, rng, augment)
            mel[row, : u.frames] = per_feature(part) if self._per_feature else part
            ids[row, : len(u.ids)] = u.ids
            if rng is not None and augment is not None:
                masked(mel[row, : u.frames], rng, augment)
        return Batch(
            torch.from_numpy(mel),
            _whole([u.frames for u in rows]),
            torch.from_numpy(ids),
            _whole([len(u.ids) for u in rows]),
            _whole([u.prompt for u in rows]),
            tuple(u.text for u in rows),
            tuple(u.source for u in rows),
            None if self.teacher is None else torch.from_numpy(_taught(self.teacher, rows)),
        )

    def balanced(self, per_source: int, seed: int = 0) -> list[int]:
        """A fixed random choice of up to `per_source` utterances of every source, shortest first."""
        order = np.random.default_rng(seed).permutation(len(self.utterances)).tolist()
        counts: dict[str, int] = {}
        chosen = []
        for index in order:
            source = self.utterances[index].source
            counts[source] = counts.get(source, 0) + 1
            if counts[source] <= per_source:
                chosen.append(index)
        return sorted(chosen, key=lambda i: self.utterances[i].frames)


def _taught(teacher: Teacher, rows: Sequence[Utterance]) -> np.ndarray:
    """[B, T', dims] float32, T' at least the encoder frames of the longest row."""
    targets = np.zeros((len(rows), rows[0].frames // SUBSAMPLING + 2, teacher.dims), np.float32)
    for row, u in enumerate(rows):
        count = u.frames // SUBSAMPLING + 2
        targets[row, :count] = teacher.frames(u.part, u.row, count, u.frames)
    return targets


def _whole(numbers: list[int]) -> Tensor:
    """[n] int64 on the CPU, whatever torch's default device is."""
    return torch.tensor(numbers, dtype=torch.int64, device="cpu")
