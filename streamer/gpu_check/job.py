"""How a part of the check is run: where, until when, how large, and where its figures go. Knows nothing of parts.

`FULL` is the check; `SMALL` goes through the same code with toys, in fractions of a second and on any machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from models.config import ModelConfig

Hearing = tuple[float, int]  # seconds of speech, halvings
Note = Callable[[dict[str, Any]], None]
NOT_RUN = "not run"
NO_TIME = "not run (time)"

WORDS_EVERY = 3  # labels: every third one begins a word
LETTERS = "etaoinshrdlcumwfgypbvk"


def labels(count: int) -> tuple[str, ...]:
    """A vocabulary in which random tokens make words of a few letters."""
    return tuple(" " if i % WORDS_EVERY == 0 else LETTERS[i % len(LETTERS)] for i in range(count))


def _streaming(name: str, left: int, chunks: tuple[int, ...], **numbers: Any) -> ModelConfig:
    return ModelConfig(
        name=name,
        kind="rnnt",
        contexts=tuple((left, chunk - 1) for chunk in chunks),
        labels=labels(numbers["vocab_size"]),
        tokenizer="labels",
        **numbers,
    )


# The two sizes that are published: 80 mels and one predictor layer as parakeet_realtime_eou_120m, 128 mels and two as
# nemotron 3.5. A left context of 70 frames has no chunk of 4 (320 ms).
M114 = _streaming(
    "random-114m", 70, (14, 7, 2, 1), mels=80, d_model=512, layers=17, heads=8, d_ff=2048, vocab_size=1024,
    predictor_hidden=640, predictor_layers=1, joint_hidden=640,
)  # fmt: skip
B06 = _streaming(
    "random-0.6b", 56, (14, 7, 4, 2, 1), mels=128, d_model=1024, layers=24, heads=8, d_ff=4096, vocab_size=1024,
    predictor_hidden=640, predictor_layers=2, joint_hidden=640,
)  # fmt: skip
_TOY = {
    "mels": 80, "d_model": 16, "layers": 2, "heads": 2, "d_ff": 32, "vocab_size": 16, "conv_kernel": 5,
    "conv_context": (4, 0), "sub_channels": 8, "predictor_hidden": 12, "predictor_layers": 1, "joint_hidden": 12,
}  # fmt: skip
TOY = _streaming("random-toy", 56, (14, 7, 4, 2, 1), **_TOY)


@dataclass(frozen=True, slots=True)
class Size:
    """How much a part does."""

    name: str
    models: Mapping[str, ModelConfig]
    batches: tuple[int, ...]  # rows of timed ticks
    profiled: tuple[int, ...]  # rows of profiled ones
    ticks: int  # timed of each kind
    copy_bytes: int  # of the array that is copied to find the bandwidth
    matrix: int  # rows of the square matrices whose product is timed
    slots: int  # most streams that an arena is made for; memory may say less
    golden: tuple[str, ...]  # models of tests/golden
    recordings: int  # of tests/recordings
    search_s: float
    confirm_s: float
    utterance_s: tuple[float, float]  # a stream's length
    first_streams: int  # that a search begins with
    generators: int  # processes that make load
    fronts: int  # front processes of the daemon
    bulk_hours: float
    hearing: Hearing  # with which the blank's bias of random weights is found


GOLDEN = (
    "hybrid_bpe", "rnnt_bpe_bn128", "tdt_bpe", "rnnt_char", "ctc_bpe", "eou_bpe", "prompt_rnnt", "prompt_hybrid",
)  # fmt: skip
FULL = Size(
    name="full", models={"114m": M114, "0.6b": B06}, batches=tuple(1 << k for k in range(13)),
    profiled=(1, 64, 1024), ticks=30, copy_bytes=2 << 30, matrix=8192, slots=20_480, golden=GOLDEN, recordings=1000,
    search_s=20.0, confirm_s=120.0, utterance_s=(10.0, 40.0), first_streams=1000, generators=5, fronts=8,
    bulk_hours=30.0, hearing=(4.0, 9),
)  # fmt: skip
SMALL = Size(
    name="small", models={"114m": TOY, "0.6b": TOY}, batches=(1, 2), profiled=(1, 2), ticks=2, copy_bytes=1 << 16,
    matrix=32, slots=4, golden=("hybrid_bpe",), recordings=1, search_s=1.0, confirm_s=1.0, utterance_s=(0.8, 1.6),
    first_streams=1, generators=1, fronts=1, bulk_hours=0.001, hearing=(0.2, 2),
)  # fmt: skip
SIZES = {size.name: size for size in (FULL, SMALL)}


@dataclass(slots=True)
class Job:
    """One part's run. `figures` is its record; what was noted is kept even if the part does not end."""

    device: str  # cuda, cuda:1 or cpu
    size: Size
    seconds: float  # that it may take
    price: float = 3.5  # of a GPU hour, for what transcription costs
    rung: str = "whole"  # the highest way to launch, of streamer.backends.graphs.RUNGS
    keep: Note = lambda _figures: None
    clock: Callable[[], float] = time.monotonic
    figures: dict[str, Any] = field(default_factory=dict)
    began: float = 0.0

    def __post_init__(self) -> None:
        self.began = self.clock()

    @property
    def cuda(self) -> bool:
        return self.device.startswith("cuda")

    @property
    def left_s(self) -> float:
        return self.began + self.seconds - self.clock()

    def has(self, seconds: float) -> bool:
        """Whether so much time is left."""
        return self.left_s >= seconds

    def note(self, **figures: Any) -> None:
        """Figures that are known from here on."""
        self.figures |= figures
        self.keep(self.figures)
