"""One chunk of B streams on a device, PCM in and tokens out, in static buffers: what a CUDA graph holds.

`head` makes features and encoder frames, `trip` moves the label loop on, `tail` packs the answer. Streams are rows of
arenas, written in place; the host keeps the counters. No operator of a tick has a Python number for a tensor (`where`
would copy it to the device, which no capture allows). Knows nothing of graphs, threads or who owns a slot.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.arena import ArenaRing, EncoderArena, OnArena
from models.chunk_mel import ChunkMel
from models.config import FRAME_SAMPLES, SUBSAMPLING, ModelConfig
from models.features_np import LEAD, TAIL
from models.fused import Fused, PackedLayer
from models.kernels.ring import RingRows
from models.kernels.search import KernelLoop
from models.kernels.subsampling import SubsamplingParts, SubsamplingRows, SubsamplingTails, subsample
from models.label_loop import LabelLoop, Memory, Networks, collapse, start_memory
from models.operators import Operators
from models.transducer import Model

HEADER = ("slot", "frames", "valid", "last", "prompt", "used")  # int32 words of a row before its samples


@dataclass(frozen=True, slots=True)
class Rows:
    """One chunk's rows, each tensor (B,): int64, `last` bool. Rows of nobody name the spare slot and have no audio.

    frames: encoder frames done before; valid: mel places of the chunk that precede the audio's end.
    """

    slots: Tensor
    frames: Tensor
    valid: Tensor
    last: Tensor
    prompts: Tensor


class StepEncoder(Protocol):
    """The encoder over the arena: on torch here, on TensorRT in streamer/backends/trt.py."""

    def encode(self, mel: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
        """mel (B, 8C, mels) float32 -> what the decoder reads (B, C, joint or V + 1) and real frames (B,) int64.

        Moves the rows' encoder state on, in place. The decoder reads the joint's encoder side, or log-probabilities.
        """


class DeviceModel:
    """A streaming model as a device runs it, with or without its encoder: weights in their dtype, constants made once.

    `dtype` is that of products; features, softmax, LayerNorm's statistics, gates and scores are float32 in any case.
    """

    def __init__(self, model: Model, dtype: torch.dtype, device: torch.device) -> None:
        buffers = model.preprocessor.featurizer
        self.config: ModelConfig = model.config
        self.dtype, self.device = dtype, device
        self.front = ChunkMel(buffers.fb.float().cpu(), buffers.window.float().cpu()).to(device)
        self.model = copy.deepcopy(model).eval().requires_grad_(False).to(device, dtype)
        for new, old in zip(self.model.modules(), model.modules(), strict=True):
            if isinstance(old, nn.BatchNorm1d):  # its statistics are no weights: kept exact, as for whole files
                new.float().load_state_dict(old.state_dict())
        self.networks = Networks.of(model, dtype, device) if self.config.transducer else None


class Arena:
    """All that the streams of a device carry: samples, encoder state, decoder memory; the last slot is a spare."""

    def __init__(self, model: DeviceModel, slots: int) -> None:
        self.tail = torch.zeros(slots + 1, TAIL, device=model.device)
        self.encoder = EncoderArena.zeros(model.config, slots + 1, model.dtype, model.device)
        self.memory = Memory.zeros(model.config, slots + 1, model.device)
        self._start = start_memory(model.networks, self.memory) if model.networks is not None else None
        self._blank = model.config.blank

    def reset(self, slots: Tensor) -> None:
        """New streams in these slots (n,) int64."""
        self.tail.index_fill_(0, slots, 0.0)
        self.encoder.reset(slots)
        self._forget(slots)

    def scrub(self, slots: Tensor) -> None:
        """Take everything out of these slots, numbers that are none included."""
        self.tail.index_fill_(0, slots, 0.0)
        self.encoder.scrub(slots)
        self._forget(slots)

    def _forget(self, slots: Tensor) -> None:
        memory = self.memory
        memory.label.index_fill_(0, slots, self._blank)
        memory.jump.index_fill_(0, slots, 0)
        if self._start is not None:
            for tensor, start in zip((memory.h, memory.c, memory.g), self._start, strict=True):
                tensor[slots] = start

    def copy(self, source: int, target: int) -> None:
        """Make `target` the stream that `source` is."""
        self.encoder.copy(source, target)
        for tensor in (self.tail, *self._memory().values()):
            tensor[target].copy_(tensor[source])

    def rows(self) -> dict[str, Tensor]:
        """Every tensor with the slot first, by the names that a stream's state has."""
        return {"tail": self.tail, **self.encoder.rows(), **self._memory()}

    def _memory(self) -> dict[str, Tensor]:
        return {name: getattr(self.memory, name) for name in ("h", "c", "g", "label", "jump")}

    @property
    def bytes_per_slot(self) -> int:
        return sum(tensor[0].numel() * tensor.element_size() for tensor in self.rows().values())


class TorchEncoder:
    """The model's own modules, their state in the arena, `kernels` between the products where wanted."""

    def __init__(self, model: DeviceModel, arena: Arena, kernels: bool = False) -> None:
        self._model, self._arena = model, arena.encoder
        config, encoder = model.config, model.model.encoder
        with torch.no_grad():
            tables = encoder.position_tables(max(config.chunks) - 1, config.ring - 1)
        # In front, so that distance 0 stays where it is: products want rows of whole 16 bytes.
        self._tables = [F.pad(table, (-table.shape[-1] % 8, 0)).contiguous() for table in tables]
        self._parts: SubsamplingParts | None = None
        self._packed: list[PackedLayer] = []
        if kernels:
            self._parts = SubsamplingParts.of(encoder.pre_encode)
            self._packed = [PackedLayer.of(*pair) for pair in zip(encoder.layers, self._tables, strict=True)]

    def encode(self, mel: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
        encoder, chunk = self._model.model.encoder, mel.shape[1] // SUBSAMPLING
        mel_length, end = encoder.lengths(rows.frames, chunk, rows.valid, rows.last)
        x = self._subsample(mel.to(self._model.dtype), rows, mel_length)
        y = encoder.through(x, rows.frames, end, self._operators(rows, chunk, end))
        return scores_of(self._model.model, y, rows.prompts), (end - rows.frames).clamp(min=0)

    def _subsample(self, mel: Tensor, rows: Rows, mel_length: Tensor) -> Tensor:
        arena = self._arena
        if self._parts is not None:
            tails = SubsamplingTails(arena.mel, arena.sub1, arena.sub2)
            return subsample(mel, tails, SubsamplingRows(rows.slots, rows.frames, mel_length), self._parts)
        kept = (arena.mel, arena.sub1, arena.sub2)
        old = tuple(tail[rows.slots] for tail in kept)
        x, new = self._model.model.encoder.pre_encode(mel, old, rows.frames, mel_length)
        for tail, value in zip(kept, new, strict=True):
            tail[rows.slots] = value
        return x

    def _operators(self, rows: Rows, chunk: int, end: Tensor) -> Operators:
        context = self._model.config.context_of(chunk)
        if self._packed:
            return Fused(self._packed, self._arena, RingRows(rows.slots, rows.frames, end, context[0]))
        ring = ArenaRing(self._tables, self._arena, rows.slots, rows.frames, context)
        ring.place(chunk, end)
        return OnArena(self._arena, rows.slots, ring)


def scores_of(model: Model, frames: Tensor, prompts: Tensor) -> Tensor:
    """Encoder frames (B, T, d_model) as the decoder reads them."""
    frames = model.with_prompt(frames, prompts)
    return model.joint.enc(frames) if model.config.transducer else model.ctc(frames)


class Tick:
    """The buffers and the program of one shape (B rows, C frames).

    `input` is float32 words: HEADER as int32, field by field (6, B), then samples (B, 1280 C), each row's from its
    stream's first chunk 1080 places late, zeros around them. `output` is int32 (B, 2 + 3 most): tokens said, 1 where
    the row's numbers are none, then `most` labels, stream frames and log-probabilities (float32 bits).
    """

    def __init__(
        self,
        model: DeviceModel,
        arena: Arena,
        encoder: StepEncoder,
        shape: tuple[int, int],
        kernels: bool = False,
    ) -> None:
        self.rows, self.chunk = shape
        self.compiled = kernels
        self._model, self._arena, self._encoder = model, arena, encoder
        device, config = model.device, model.config
        self.input = torch.zeros(self.rows * words_per_row(self.chunk), device=device)
        self._header = self.input[: len(HEADER) * self.rows].view(torch.int32).view(len(HEADER), self.rows)
        self._pcm = self.input[len(HEADER) * self.rows :].view(self.rows, -1)
        self.loop: LabelLoop | None = None
        if model.networks is not None:
            self.loop = (KernelLoop if kernels else LabelLoop)(model.networks, arena.memory, shape)
        self.loops = self.loop is not None
        self.most_trips = self.chunk * config.max_symbols + 1  # the last one finds that nothing is left
        self.most = most_tokens(config, self.chunk)
        self.output = torch.zeros(self.rows, 2 + 3 * self.most, dtype=torch.int32, device=device)

    def run(self) -> None:
        """The whole tick, the host looking after each trip whether there is work."""
        self.head()
        while self.loop is not None and self.flag.item():
            self.trip()
        self.tail()

    @property
    def flag(self) -> Tensor:
        """(1,) int32 on the device: not 0 while another trip is needed."""
        assert self.loop is not None, "loop: got a model without one"
        return self.loop.working

    def head(self) -> None:
        """Everything before the label loop's first trip; all of it for a model without one."""
        slot, frames, valid, last, prompt, used = self._header.long()
        rows = Rows(slot, frames, valid, last > 0, prompt)
        arena = self._arena
        first = (frames == 0) * LEAD
        mel, tails = self._model.front(arena.tail[slot], self._pcm, (used, first, valid))
        arena.tail[slot] = tails
        scores, counts = self._encoder.encode(mel, rows)
        place = torch.arange(self.chunk, device=counts.device)[None, :]
        real = (place < counts[:, None])[:, :, None]
        bad = (~torch.isfinite(scores) & real).flatten(1).any(1)
        scores = scores.masked_fill(bad[:, None, None] | ~real, 0.0)
        counts = counts.masked_fill(bad, 0)
        self.output[:, 1] = bad.int()
        if self.loop is None:
            self._pack(*collapse(scores.float(), counts.int(), frames, arena.memory, slot))
            return
        self.loop.scores.copy_(scores)
        self.loop.slots.copy_(slot)
        self.loop.counts.copy_(counts)
        self.loop.first.copy_(frames)
        self.loop.begin()

    def trip(self) -> None:
        assert self.loop is not None
        self.loop.trip()

    def tail(self) -> None:
        """What is left when no row works any more."""
        if self.loop is not None:
            self.loop.end()
            self._pack(self.loop.said, self.loop.labels, self.loop.at, self.loop.logps)

    def _pack(self, said: Tensor, labels: Tensor, at: Tensor, logps: Tensor) -> None:
        """The tables' last column is nobody's."""
        self.output[:, 0] = said
        for index, table in enumerate((labels, at, logps.view(torch.int32))):
            self.output[:, 2 + index * self.most :][:, : self.most] = table[:, : self.most]


def most_tokens(config: ModelConfig, chunk: int) -> int:
    """Tokens that a row can say in a chunk."""
    return chunk * config.max_symbols if config.transducer else chunk


def words_per_row(chunk: int) -> int:
    """32-bit words of a row of a tick's input."""
    return len(HEADER) + FRAME_SAMPLES * chunk
