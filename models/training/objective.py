"""The loss of one batch: CTC, and RNN-T with the joint computed for a few utterances at a time."""
from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.training.data import Batch
from models.training.losses import rnnt_loss
from models.training.settings import Stage
from models.transducer import Model


def build(model: Model, mean: float, deviation: float) -> None:
    """Initial weights that leave the blank plateau soon, for features of this mean and deviation.

    The first convolution standardises its input, the others keep their input's size through ReLU, and the CTC head
    starts near an even guess.
    """
    for name, conv in model.encoder.pre_encode.conv.items():
        nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
        nn.init.zeros_(conv.bias)
        if name == "0":
            with torch.no_grad():
                conv.weight.div_(deviation)
                conv.bias.sub_(mean * conv.weight.sum((1, 2, 3)))
    if model.config.ctc:
        with torch.no_grad():
            model.ctc.decoder_layers[0].weight.mul_(0.1)
            nn.init.zeros_(model.ctc.decoder_layers[0].bias)


def full_precision_subsampling(model: Model) -> None:
    """Keeps the subsampling out of autocast: its depthwise convolutions are twice as fast in float32 (docs/log.md)."""
    plain: Callable[..., Any] = model.encoder.pre_encode.forward

    def forward(*tensors: Any) -> Any:
        with torch.autocast("cpu", enabled=False):
            return plain(*tensors)

    model.encoder.pre_encode.forward = forward  # type: ignore[method-assign]


def groups(frames: Tensor, labels: Tensor, cells: int) -> Iterator[slice]:
    """Cuts rows, longest first, into runs whose padded (frames x labels + 1) rectangles hold at most `cells` cells."""
    start = 0
    while start < len(frames):
        stop = start + 1
        while stop < len(frames) and _cells(frames, labels, start, stop + 1) <= cells:
            stop += 1
        yield slice(start, stop)
        start = stop


def _cells(frames: Tensor, labels: Tensor, start: int, stop: int) -> int:
    return (stop - start) * int(frames[start:stop].max()) * (int(labels[start:stop].max()) + 1)


def transducer_loss(model: Model, enc: Tensor, frames: Tensor, batch: Batch, fast_emit: float, cells: int) -> Tensor:
    """Sum over the rows of -log P(labels) under the transducer; encoder frames [B, T, D] in float32."""
    f = model.joint.enc(enc)
    start = torch.full((len(batch.ids), 1), model.config.blank)
    h, c = model.start(len(batch.ids))
    spoken, _, _ = model.decoder.prediction(torch.cat([start, batch.ids], 1).T.contiguous(), h, c)
    g = model.joint.pred(spoken).transpose(0, 1)
    total = enc.new_zeros(())
    for rows in groups(frames, batch.id_lengths, cells):
        most_frames, most_labels = int(frames[rows].max()), int(batch.id_lengths[rows].max())
        hidden = f[rows, :most_frames, None] + g[rows, None, : most_labels + 1]
        with torch.autocast("cpu", torch.bfloat16, enabled=torch.is_autocast_enabled("cpu")):
            logits = model.joint.joint_net(hidden)
        ids = batch.ids[rows, :most_labels]
        total = total + rnnt_loss(logits.float(), ids, frames[rows], batch.id_lengths[rows], fast_emit).sum()
    return total


def loss_of(model: Model, batch: Batch, context: tuple[int, int], stage: Stage, bf16: bool, cells: int) -> Tensor:
    """Weighted losses per label of a batch, under one attention context."""
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        enc, frames = model.encoder.offline(batch.mel, batch.frames, context)
        logprobs = model.ctc(enc) if stage.ctc_weight else None
    labels = batch.id_lengths.sum()
    loss = enc.new_zeros((), dtype=torch.float32)
    if logprobs is not None:
        ctc = F.ctc_loss(
            logprobs.transpose(0, 1), batch.ids, frames, batch.id_lengths, model.config.blank, "sum", zero_infinity=True
        )
        loss = loss + stage.ctc_weight * ctc / labels
    if stage.rnnt_weight:
        rnnt = transducer_loss(model, enc.float(), frames, batch, stage.fast_emit, cells)
        loss = loss + stage.rnnt_weight * rnnt / labels
    return loss
