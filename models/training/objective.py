"""The loss of one batch: CTC, and RNN-T with the joint's logits held for a few utterances at a time."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from models.training import teacher
from models.training.data import Batch
from models.training.joint_loss import Output, Targets, Tiled, joint_loss
from models.training.settings import Stage
from models.training.tdt_loss import tdt_loss
from models.transducer import Model

GPU_LATTICE = 8_000_000  # cells of alphas and betas at once: a GPU wants fewer and longer steps
BLANK_SHARE = 0.6  # of frames, about where CTC's plateau lies


def build(model: Model, mean: float, deviation: float, sample: Batch, counts: Tensor) -> None:
    """Initial weights that leave the blank plateau soon, for features of this mean and deviation.

    The first convolution standardises its input, the others keep their input's size through ReLU; what enters the
    first layer varies around zero with deviation 1 on `sample`. Residual branches start small: else every layer adds a
    vector that is the same at all times, and ten of them drown what changes (docs/log.md). For the same reason the CTC
    head starts from how often each label occurs (`counts` [V]): nothing constant is left to learn.
    """
    for name, conv in model.encoder.pre_encode.conv.items():
        nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
        nn.init.zeros_(conv.bias)
        if name == "0":
            with torch.no_grad():
                conv.weight.div_(deviation)
                conv.bias.sub_(mean * conv.weight.sum((1, 2, 3)))
    with torch.no_grad():
        _centre(model, sample)
        for layer in model.encoder.layers:
            for last in (
                layer.feed_forward1.linear2,
                layer.feed_forward2.linear2,
                layer.self_attn.linear_out,
                layer.conv.pointwise_conv2,
            ):
                last.weight.mul_((2.0 * model.config.layers) ** -0.5)
                if last.bias is not None:
                    last.bias.zero_()
        start_ctc(model, counts)


@torch.no_grad()
def start_ctc(model: Model, counts: Tensor) -> None:
    """A CTC head, where there is one, that knows nothing but how often each label occurs (`counts` [V])."""
    if model.config.ctc:
        model.ctc.decoder_layers[0].weight.mul_(0.1)
        share = (counts + 1.0) / (counts + 1.0).sum() * (1.0 - BLANK_SHARE)
        model.ctc.decoder_layers[0].bias.copy_(torch.cat([share, share.new_tensor([BLANK_SHARE])]).log())


def _centre(model: Model, sample: Batch) -> None:
    """Sets the subsampling's last layer so that its output, scaled as the encoder does, has mean 0 and deviation 1."""
    outputs: list[Tensor] = []
    hook = model.encoder.pre_encode.register_forward_hook(lambda *call: outputs.append(call[2][0]))
    _, frames = model.encoder.offline(sample.mel, sample.frames, model.config.contexts[0])
    hook.remove()
    heard = torch.cat([row[1:count] for row, count in zip(outputs[0], frames.tolist(), strict=True)])
    out = model.encoder.pre_encode.out
    size = heard.std(0).mean() * (math.sqrt(model.config.d_model) if model.config.xscaling else 1.0)
    out.bias.copy_((out.bias - heard.mean(0)) / size)
    out.weight.div_(size)


def full_precision_subsampling(model: Model) -> None:
    """Keeps the subsampling out of a CPU's autocast: its convolutions are twice as fast in float32 (docs/log.md)."""
    plain: Callable[..., Any] = model.encoder.pre_encode.forward

    def forward(*tensors: Any) -> Any:
        with torch.autocast("cpu", enabled=False):
            return plain(*tensors)

    model.encoder.pre_encode.forward = forward  # type: ignore[method-assign, assignment]


def transducer_loss(
    model: Model, enc: Tensor, frames: Tensor, batch: Batch, stage: Stage, limits: tuple[bool, int]
) -> Tensor:
    """Sum over the rows of -log P(labels) under the transducer; encoder frames [B, T, D] in float32.

    `limits`: whether the joint runs in bfloat16, and how many cells of it are computed at once.
    """
    bf16, cells = limits
    f = model.joint.enc(enc)
    start = batch.ids.new_full((len(batch.ids), 1), model.config.blank)
    h, c = model.start(len(batch.ids))
    spoken, _, _ = model.decoder.prediction(torch.cat([start, batch.ids], 1).T.contiguous(), h, c)
    g = model.joint.pred(spoken).transpose(0, 1)
    if model.config.durations:
        return duration_loss(model, f, g, frames, batch, bf16)
    last = model.joint.joint_net[-1]
    output = Output(last.weight, last.bias, model.config.joint_activation)
    targets = Targets(batch.ids, frames, batch.id_lengths)
    form = Tiled(cells) if f.device.type == "cpu" else Tiled(cells, GPU_LATTICE)
    return joint_loss(f, g, output, targets, form, fast_emit=stage.fast_emit, half=bf16)


def duration_loss(model: Model, f: Tensor, g: Tensor, frames: Tensor, batch: Batch, bf16: bool) -> Tensor:
    """The same of a TDT model, from its joint's projections of encoder [B, T, H] and predictor [B, U + 1, H].

    A row's logits are made twice, and never live beside another row's.
    """
    cells = f.new_zeros(len(f), f.shape[1], g.shape[1], 2 + len(model.config.durations))
    for row, (t, u) in enumerate(zip(frames.tolist(), batch.id_lengths.tolist(), strict=True)):
        with _half(batch, bf16):
            inputs = (f[row, :t], g[row, : u + 1], batch.ids[row, :u])
            cells[row, :t, : u + 1] = checkpoint(_outcomes, model, *inputs, use_reentrant=False)
    losses = tdt_loss(cells[..., 0], cells[..., 1], cells[..., 2:], model.config.durations, frames, batch.id_lengths)
    return losses.sum().float()


def _outcomes(model: Model, f: Tensor, g: Tensor, ids: Tensor) -> Tensor:
    """One row's log-probabilities of blank, of the next label, and of each duration [T, U + 1, 2 + D]."""
    logits = model.joint(f[:, None], g[None]).float()
    labels, steps = logits[..., : model.config.blank + 1], logits[..., model.config.blank + 1 :]
    logp = labels.log_softmax(-1)
    index = F.pad(ids, (0, 1))[None, :, None].expand(len(f), -1, 1)
    return torch.cat([logp[..., -1:], logp.gather(-1, index), steps.log_softmax(-1)], -1)


def loss_of(model: Model, batch: Batch, context: tuple[int, int], stage: Stage, bf16: bool, cells: int) -> Tensor:
    """The weighted losses of a batch under one attention context, summed over its rows."""
    between: list[Tensor] = []
    taught: list[Tensor] = []
    count = len(model.encoder.layers)
    inner = sorted({(count - 1) // 3, 2 * (count - 1) // 3}) if stage.inter_ctc_weight else []
    hooks = [model.encoder.layers[i].register_forward_hook(lambda *call: between.append(call[2])) for i in inner]
    if stage.teacher_weight and batch.taught is not None:
        hooks.append(teacher.layer_of(model).register_forward_hook(lambda *call: taught.append(call[2])))
    with _half(batch, bf16):
        enc, frames = model.encoder.offline(batch.mel, batch.frames, context)
        enc = model.with_prompt(enc, batch.prompts)
    for hook in hooks:
        hook.remove()
    loss = enc.new_zeros((), dtype=torch.float32)
    inner_weight = stage.inter_ctc_weight / max(1, len(between))
    for weight, hidden in [(stage.ctc_weight, enc), *((inner_weight, hidden) for hidden in between)]:
        if weight and model.config.ctc:
            loss = loss + weight * ctc_loss(model, hidden, frames, batch, bf16)
    for hidden in taught:
        assert batch.taught is not None
        with _half(batch, bf16):
            loss = loss + stage.teacher_weight * teacher.loss(model, hidden, frames, batch.taught)
    if stage.rnnt_weight:
        loss = loss + stage.rnnt_weight * transducer_loss(model, enc.float(), frames, batch, stage, (bf16, cells))
    return loss


def ctc_loss(model: Model, hidden: Tensor, frames: Tensor, batch: Batch, bf16: bool) -> Tensor:
    """Sum over the rows of -log P(labels) by the CTC head on encoder frames [B, T, D]."""
    with _half(batch, bf16):
        logprobs = model.ctc(hidden).transpose(0, 1)
    return F.ctc_loss(logprobs, batch.ids, frames, batch.id_lengths, model.config.blank, "sum", zero_infinity=True)


def _half(batch: Batch, bf16: bool) -> torch.autocast:
    """Matrix products in bfloat16 where the batch is, if so told."""
    return torch.autocast(batch.mel.device.type, torch.bfloat16, enabled=bf16)
