"""Greedy label looping with static shapes, so that a CUDA graph can hold it. Knows nothing of graphs, audio or text.

A loop decodes a window of T encoder frames for B rows. Each trip looks at all frames that a row has left, takes its
first token, and runs the predictor once for the rows that emitted, until no row works (Bataev et al. 2024, in the
window form of models/decoding.py, which is the reference). Rows that are done are masked, never compacted, and nothing
is read back by the host but `working`. What streams carry lies in an arena, indexed by slot and written in place.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from models.config import ModelConfig
from models.transducer import ACTIVATIONS, Model


@dataclass(frozen=True, slots=True)
class Networks:
    """Predictor and joint as the loop runs them, in the dtype of the products; gates and logits are float32.

    by_label: (V + 1, 4 hidden), the first layer's input product of each label, both biases in it
    inputs:   for each later layer (4 hidden, hidden) and its biases (4 hidden,) float32
    recurrent: for each layer (4 hidden, hidden)
    project, out: weight and float32 bias of the joint's two layers; out has V + 1 + durations rows
    """

    by_label: Tensor
    inputs: tuple[tuple[Tensor, Tensor], ...]
    recurrent: tuple[Tensor, ...]
    project: tuple[Tensor, Tensor]
    out: tuple[Tensor, Tensor]
    activation: str
    blank: int
    max_symbols: int
    durations: tuple[int, ...]

    @classmethod
    def of(cls, model: Model, dtype: torch.dtype, device: torch.device) -> Networks:
        """A transducer's own weights, packed."""
        config, lstm = model.config, model.decoder.prediction.dec_rnn["lstm"]

        def weight(tensor: Tensor) -> Tensor:
            return tensor.detach().to(device, dtype).contiguous()

        def bias(tensor: Tensor) -> Tensor:
            return tensor.detach().to(device, torch.float32).contiguous()

        def named(kind: str, layer: int) -> Tensor:
            return getattr(lstm, f"{kind}_l{layer}").detach()

        layers = range(config.predictor_layers)
        biases = [named("bias_ih", layer) + named("bias_hh", layer) for layer in layers]
        by_label = model.decoder.prediction.embed.weight.detach() @ named("weight_ih", 0).T + biases[0]
        out = model.joint.joint_net[-1]
        return cls(
            weight(by_label),
            tuple((weight(named("weight_ih", layer)), bias(biases[layer])) for layer in layers[1:]),
            tuple(weight(named("weight_hh", layer)) for layer in layers),
            (weight(model.joint.pred.weight), bias(model.joint.pred.bias)),
            (weight(out.weight), bias(out.bias)),
            config.joint_activation,
            config.blank,
            config.max_symbols,
            config.durations,
        )


@dataclass(frozen=True, slots=True)
class Memory:
    """What decoding carries from window to window, one row per slot, written in place.

    h, c: (slots, layers, hidden) float32; g: (slots, joint) float32, the predictor's last output as the joint wants it;
    label: (slots,) int32, the last token, for CTC the last argmax, blank included; jump: (slots,) int32, frames of the
    coming window that a TDT duration already skipped.
    """

    h: Tensor
    c: Tensor
    g: Tensor
    label: Tensor
    jump: Tensor

    @classmethod
    def zeros(cls, config: ModelConfig, slots: int, device: torch.device) -> Memory:
        sizes = (slots, config.predictor_layers, config.predictor_hidden)
        return cls(
            torch.zeros(sizes, device=device),
            torch.zeros(sizes, device=device),
            torch.zeros(slots, config.joint_hidden, device=device),
            torch.full((slots,), config.blank, dtype=torch.int32, device=device),
            torch.zeros(slots, dtype=torch.int32, device=device),
        )


class LabelLoop:
    """Buffers of one window shape. `begin`, then `trip` until `working` holds 0, then `end`; or `run` for all.

    Filled by the caller: `scores` (B, T, joint) the encoder side of the joint, `slots` (B,) int64 each once (but for
    rows without frames, which may share one), `counts` (B,) int32 real frames, `first` (B,) int32 the stream's frame at
    the window's start. Results: `said` (B,) int32 tokens per row, and for each its `labels`, `at` (stream frame),
    both (B, most + 1) int32, and `logps` float32, over vocabulary and blank; the last column is nobody's.
    """

    def __init__(self, networks: Networks, memory: Memory, shape: tuple[int, int]) -> None:
        rows, frames = shape
        self.networks, self.memory = networks, memory
        self.rows, self.frames, self.most = rows, frames, frames * networks.max_symbols
        device, dtype = memory.h.device, networks.by_label.dtype

        def whole(*sizes: int) -> Tensor:
            return torch.zeros(sizes, dtype=torch.int32, device=device)

        _, layers, hidden = memory.h.shape
        self.scores = torch.zeros(rows, frames, memory.g.shape[1], dtype=dtype, device=device)
        self.slots = torch.zeros(rows, dtype=torch.int64, device=device)
        self.counts, self.first = whole(rows), whole(rows)
        self.position, self.repeats, self.last_at = whole(rows), whole(rows), whole(rows)
        self.emitted = whole(rows)  # this trip's label of each row, -1 for none
        self.new_h = torch.zeros(rows, layers, hidden, device=device)
        self.working = whole(1)
        self.said, self.labels, self.at = whole(rows), whole(rows, self.most + 1), whole(rows, self.most + 1)
        self.logps = torch.zeros(rows, self.most + 1, device=device)
        self.durations = torch.tensor(networks.durations or (0,), dtype=torch.int32, device=device)

    def begin(self) -> None:
        """Every row at its first frame that no duration skipped, nothing said."""
        self.position.copy_(self.memory.jump[self.slots])
        self.repeats.zero_()
        self.last_at.fill_(-1)
        self.said.zero_()
        self.working.copy_((self.position < self.counts).any()[None])

    def trip(self) -> None:
        """Move each working row to its next token, or to its end."""
        advance_torch(self)

    def end(self) -> None:
        """Frames of the next window that the last duration skips."""
        self.memory.jump.index_copy_(0, self.slots, (self.position - self.counts).clamp(min=0))

    def run(self) -> None:
        """All trips, the host looking after each whether there is work."""
        self.begin()
        while self.working.item():
            self.trip()
        self.end()


def advance_torch(loop: LabelLoop) -> None:
    """One trip in torch operators: the reference of the kernels, and what runs where they cannot."""
    best, logp, step = _look(loop)
    frame, found = _first_token(loop, best, step)
    _note(loop, (frame, found), best, logp, step)
    _predict(loop)


def _look(loop: LabelLoop) -> tuple[Tensor, Tensor, Tensor]:
    """Of every frame (B, T): the label, its log-probability, the frames to move on after it (blank never stays)."""
    networks = loop.networks
    act = ACTIVATIONS[networks.activation]()
    hidden = act(loop.scores.float() + loop.memory.g[loop.slots][:, None])
    weight, bias = networks.out
    logits = F.linear(hidden.to(weight.dtype).float(), weight.float(), bias)
    words = logits[..., : networks.blank + 1]
    top, best = words.max(-1)
    logp = top - words.logsumexp(-1)
    silent = best == networks.blank
    if not networks.durations:
        return best.int(), logp, silent.int()
    step = loop.durations[logits[..., networks.blank + 1 :].argmax(-1)]
    return best.int(), logp, torch.maximum(step, silent.int())


def _first_token(loop: LabelLoop, best: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
    """Each row's frame after the blanks before its next token (B,) int32, and whether there is one."""
    position = loop.position.clone()
    for _ in range(loop.frames):
        inside = torch.minimum(position, loop.counts - 1).clamp(min=0).long()[:, None]
        silent = (position < loop.counts) & (best.gather(1, inside)[:, 0] == loop.networks.blank)
        position = position + step.gather(1, inside)[:, 0] * silent
    return position, position < loop.counts


def _note(loop: LabelLoop, where: tuple[Tensor, Tensor], best: Tensor, logp: Tensor, step: Tensor) -> None:
    """Add the tokens, and step off a frame that has had its number of symbols."""
    frame, found = where
    inside = frame.clamp(max=loop.frames - 1).long()[:, None]
    label, stride = best.gather(1, inside)[:, 0], step.gather(1, inside)[:, 0]
    column = loop.said.masked_fill(~found, loop.most).long()[:, None]
    loop.labels.scatter_(1, column, label[:, None])
    loop.at.scatter_(1, column, (loop.first + frame)[:, None])
    loop.logps.scatter_(1, column, logp.gather(1, inside))
    loop.said += found
    repeats = loop.repeats * (loop.last_at == frame) + 1
    loop.repeats.copy_(torch.where(found, repeats, loop.repeats))
    loop.last_at.copy_(torch.where(found, frame, loop.last_at))
    full = (repeats >= loop.networks.max_symbols) & (stride == 0)
    loop.position.copy_(torch.where(found, frame + stride + full, torch.maximum(frame, loop.counts)))
    loop.emitted.copy_(label.masked_fill(~found, -1))
    loop.working.copy_((loop.position < loop.counts).any()[None])


def _predict(loop: LabelLoop) -> None:
    """One step of the predictor for the rows that emitted."""
    networks, memory, slots = loop.networks, loop.memory, loop.slots
    emits = loop.emitted >= 0
    dtype = networks.by_label.dtype
    h, c = memory.h[slots], memory.c[slots]
    gates = networks.by_label[loop.emitted.clamp(min=0)].float()
    new_c = []
    for layer, recurrent in enumerate(networks.recurrent):
        if layer:
            weight, bias = networks.inputs[layer - 1]
            gates = F.linear(loop.new_h[:, layer - 1].to(dtype).float(), weight.float(), bias)
        gates = gates + F.linear(h[:, layer].to(dtype).float(), recurrent.float())
        i, f, g, o = gates.chunk(4, dim=-1)
        new_c.append(f.sigmoid() * c[:, layer] + i.sigmoid() * g.tanh())
        loop.new_h[:, layer] = o.sigmoid() * new_c[-1].tanh()
    weight, bias = networks.project
    g_out = F.linear(loop.new_h[:, -1].to(dtype).float(), weight.float(), bias)
    deep, wide = emits[:, None, None], emits[:, None]
    memory.h[slots] = torch.where(deep, loop.new_h, h)
    memory.c[slots] = torch.where(deep, torch.stack(new_c, 1), c)
    memory.g[slots] = torch.where(wide, g_out, memory.g[slots])
    memory.label[slots] = torch.where(emits, loop.emitted, memory.label[slots])


def start_memory(networks: Networks, memory: Memory) -> tuple[Tensor, Tensor, Tensor]:
    """h, c (layers, hidden) and g (joint,) of a stream that heard nothing: blank on a zero state."""
    tensors = (memory.h, memory.c, memory.g, memory.label, memory.jump)
    h, c, g, label, jump = (torch.zeros_like(tensor[:1]) for tensor in tensors)
    scratch = Memory(h, c, g, label, jump)
    loop = LabelLoop(networks, scratch, (1, 1))
    loop.emitted.fill_(networks.blank)
    _predict(loop)
    return scratch.h[0], scratch.c[0], scratch.g[0]


def collapse(logprobs: Tensor, counts: Tensor, first: Tensor, memory: Memory, slots: Tensor) -> tuple[Tensor, ...]:
    """CTC of one window, logprobs (B, T, V + 1) -> said (B,), labels, at (B, T + 1), logps, as in LabelLoop."""
    rows, frames, classes = logprobs.shape
    blank = classes - 1
    logp, best = logprobs.max(-1)
    before = torch.cat([memory.label[slots].long()[:, None], best[:, :-1]], dim=1)
    index = torch.arange(frames, device=best.device)
    heard = (index < counts[:, None]) & (best != before) & (best != blank)
    order = heard.cumsum(1)
    column = (order - 1).masked_fill(~heard, frames)
    labels = torch.zeros(rows, frames + 1, dtype=torch.int32, device=best.device).scatter_(1, column, best.int())
    at = torch.zeros_like(labels).scatter_(1, column, (first[:, None] + index).int())
    logps = torch.zeros(rows, frames + 1, device=best.device).scatter_(1, column, logp)
    newest = best.gather(1, (counts.long() - 1).clamp(min=0)[:, None])[:, 0].int()
    memory.label.index_copy_(0, slots, torch.where(counts > 0, newest, memory.label[slots]))
    return order[:, -1].int(), labels, at, logps
