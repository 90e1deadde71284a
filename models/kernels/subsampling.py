"""Subsampling with channels last: three kernels around the pointwise products, the tails in place by slot.

The same as models/subsampling.py `Subsampling`, which is the twin, for causal models. Between the stages lie the
convolutions' raw sums; whoever reads them masks what is not of the audio and takes the ReLU. Knows nothing of the
encoder's layers or of who owns a slot.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.kernels.dialect import blocks, jit, tl, up
from models.subsampling import Subsampling

MOST_VALUES = 1 << 26  # after the first stage at a time: more rows go in groups
PLACES = 8  # of a program, all channels of each: more would not fit its registers


@dataclass(frozen=True, slots=True)
class SubsamplingParts:
    """Weight and bias of each step: first, wide, deep (9, channels) and (channels,) float32; the products as torch's.

    out has its columns in the order (width, channel).
    """

    first: tuple[Tensor, Tensor]
    wide: tuple[Tensor, Tensor]
    wide_point: tuple[Tensor, Tensor]
    deep: tuple[Tensor, Tensor]
    deep_point: tuple[Tensor, Tensor]
    out: tuple[Tensor, Tensor]

    @classmethod
    def of(cls, subsampling: Subsampling) -> SubsamplingParts:
        """A causal module's own numbers, packed."""
        assert subsampling.causal, "subsampling: expected a causal one"

        def taps(conv: nn.Module) -> tuple[Tensor, Tensor]:
            weight = conv.weight.detach().float().flatten(1)  # (channels, 9)
            return weight.T.contiguous(), conv.bias.detach().float().contiguous()

        def point(conv: nn.Module) -> tuple[Tensor, Tensor]:
            return conv.weight.detach().flatten(1).contiguous(), conv.bias.detach()

        conv, out = subsampling.conv, subsampling.out
        by_width = out.weight.detach().unflatten(1, (conv["6"].out_channels, -1)).transpose(1, 2).flatten(1)
        last = by_width.contiguous(), out.bias.detach()
        return cls(taps(conv["0"]), taps(conv["2"]), point(conv["3"]), taps(conv["5"]), point(conv["6"]), last)


@dataclass(frozen=True, slots=True)
class SubsamplingTails:
    """mel (slots, 1, mels), contiguous; sub1, sub2 (slots, channels, 1, width), of any strides: best channels last."""

    mel: Tensor
    sub1: Tensor
    sub2: Tensor


@dataclass(frozen=True, slots=True)
class SubsamplingRows:
    """(B,) int64: slots, encoder frames done before, mel frames of the utterance or ENDLESS."""

    slots: Tensor
    frames: Tensor
    length: Tensor


@jit
def of_audio(at, frames, length, STAGE: tl.constexpr):
    """Whether place `at` of a chunk after STAGE stages is of the audio. Its first place is 8f-7, 4f-3, 2f-1 or f."""
    position = frames * (8 >> STAGE) - ((8 >> STAGE) - 1) + at
    for _ in tl.static_range(STAGE):
        length = (length >> 1) + 1  # rounds down, also below zero
    return (position >= 0) & (position < length)


@jit
def first_kernel(
    mel, tail, slots, frames, lengths, weight, bias, out, places, height,
    MELS: tl.constexpr, WIDTH: tl.constexpr, CHANNELS: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """Program (block of places of the output, of `height` x WIDTH a row): one channel in, all out."""
    place = tl.program_id(0) * BP + tl.arange(0, BP)
    inside = place < places
    column = place % WIDTH
    line = (place // WIDTH) % height
    row = tl.where(inside, place // (WIDTH * height), 0)
    slot = tl.load(slots + row)
    done = tl.load(frames + row)
    length = tl.load(lengths + row)
    c = tl.arange(0, BC)
    total = tl.zeros((BP, BC), dtype=tl.float32)
    for i in tl.static_range(3):
        above = 2 * line - 1 + i
        start = (row.to(tl.int64) * (2 * height) + above) * MELS
        real = inside & of_audio(above, done, length, 0) & (above >= 0)
        for k in tl.static_range(3):
            beside = 2 * column - 2 + k
            wide = (beside >= 0) & (beside < MELS)
            x = tl.load(mel + start + beside, mask=real & wide, other=0.0).to(tail.dtype.element_ty).to(tl.float32)
            if i == 0:
                before = inside & (above < 0) & wide
                x += tl.load(tail + slot * MELS + beside, mask=before, other=0.0).to(tl.float32)
            w = tl.load(weight + (3 * i + k) * CHANNELS + c, mask=c < CHANNELS, other=0.0)
            total += x[:, None] * w[None, :]
    total += tl.load(bias + c, mask=c < CHANNELS, other=0.0)[None, :]
    to = out + place.to(tl.int64)[:, None] * CHANNELS + c[None, :]
    tl.store(to, total.to(out.dtype.element_ty), mask=inside[:, None] & (c < CHANNELS)[None, :])


@jit
def depthwise_kernel(
    x, tail, slots, frames, lengths, weight, bias, out, places, height,
    tail_slot, tail_channel, tail_width,
    STAGE: tl.constexpr, WIDE: tl.constexpr, WIDTH: tl.constexpr, CHANNELS: tl.constexpr,
    BP: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """Program (block of places of the output): x is what STAGE stages left, WIDE places wide."""
    place = tl.program_id(0) * BP + tl.arange(0, BP)
    inside = place < places
    column = place % WIDTH
    line = (place // WIDTH) % height
    row = tl.where(inside, place // (WIDTH * height), 0)
    slot = tl.load(slots + row)
    done = tl.load(frames + row)
    length = tl.load(lengths + row)
    c = tl.arange(0, BC)
    known = (c < CHANNELS)[None, :]
    total = tl.zeros((BP, BC), dtype=tl.float32)
    for i in tl.static_range(3):
        above = 2 * line - 1 + i
        start = (row.to(tl.int64) * (2 * height) + above) * WIDE
        real = inside & of_audio(above, done, length, STAGE) & (above >= 0)
        for k in tl.static_range(3):
            beside = 2 * column - 2 + k
            wide = (beside >= 0) & (beside < WIDE)
            source = x + (start + beside)[:, None] * CHANNELS + c[None, :]
            value = tl.load(source, mask=(real & wide)[:, None] & known, other=0.0).to(tl.float32)
            value = tl.maximum(value, 0.0)
            if i == 0:
                before = tail + (slot * tail_slot + beside * tail_width)[:, None] + c[None, :] * tail_channel
                there = (inside & (above < 0) & wide)[:, None] & known
                value += tl.load(before, mask=there, other=0.0).to(tl.float32)
            total += value * tl.load(weight + (3 * i + k) * CHANNELS + c, mask=c < CHANNELS, other=0.0)[None, :]
    total += tl.load(bias + c, mask=c < CHANNELS, other=0.0)[None, :]
    to = out + place.to(tl.int64)[:, None] * CHANNELS + c[None, :]
    tl.store(to, total.to(out.dtype.element_ty), mask=inside[:, None] & known)


@jit
def last_kernel(
    x, frames, lengths, places, height,
    WIDTH: tl.constexpr, CHANNELS: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """Program (block of places): mask and ReLU of what three stages left, in place."""
    place = tl.program_id(0) * BP + tl.arange(0, BP)
    inside = place < places
    row = tl.where(inside, place // (WIDTH * height), 0)
    real = of_audio((place // WIDTH) % height, tl.load(frames + row), tl.load(lengths + row), 3)
    c = tl.arange(0, BC)
    at = x + place.to(tl.int64)[:, None] * CHANNELS + c[None, :]
    written = inside[:, None] & (c < CHANNELS)[None, :]
    value = tl.load(at, mask=written & real[:, None], other=0.0)
    tl.store(at, tl.maximum(value.to(tl.float32), 0.0).to(x.dtype.element_ty), mask=written)


@jit
def keep_kernel(
    mel, mel_tail, x1, sub1, x2, sub2, slots, frames, lengths, chunk,
    slot1, channel1, width1, slot2, channel2, width2,
    MELS: tl.constexpr, FIRST: tl.constexpr, SECOND: tl.constexpr, CHANNELS: tl.constexpr,
    BM: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """Program (row, block of columns): the last line of each stage's input becomes the slot's tail."""
    row = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    slot = tl.load(slots + row)
    done = tl.load(frames + row)
    length = tl.load(lengths + row)
    if part == 0:
        m = tl.arange(0, BM)
        real = (m < MELS) & of_audio(8 * chunk - 1, done, length, 0)
        x = tl.load(mel + (row * 8 * chunk + 8 * chunk - 1) * MELS + m, mask=real, other=0.0)
        tl.store(mel_tail + slot * MELS + m, x.to(mel_tail.dtype.element_ty), mask=m < MELS)
    column = part * BP + tl.arange(0, BP)
    c = tl.arange(0, BC)
    known = (c < CHANNELS)[None, :]
    inside = (column < FIRST)[:, None] & known
    at = ((row * 4 * chunk + 4 * chunk - 1) * FIRST + column)[:, None] * CHANNELS + c[None, :]
    value = tl.load(x1 + at, mask=inside & of_audio(4 * chunk - 1, done, length, 1), other=0.0).to(tl.float32)
    to = sub1 + slot * slot1 + column[:, None] * width1 + c[None, :] * channel1
    tl.store(to, tl.maximum(value, 0.0).to(sub1.dtype.element_ty), mask=inside)
    inside = (column < SECOND)[:, None] & known
    at = ((row * 2 * chunk + 2 * chunk - 1) * SECOND + column)[:, None] * CHANNELS + c[None, :]
    value = tl.load(x2 + at, mask=inside & of_audio(2 * chunk - 1, done, length, 2), other=0.0).to(tl.float32)
    to = sub2 + slot * slot2 + column[:, None] * width2 + c[None, :] * channel2
    tl.store(to, tl.maximum(value, 0.0).to(sub2.dtype.element_ty), mask=inside)


def subsample(mel: Tensor, tails: SubsamplingTails, rows: SubsamplingRows, parts: SubsamplingParts) -> Tensor:
    """mel (B, 8T, mels), contiguous, any float dtype -> (B, T, d_model); the tails move on in place."""
    assert mel.is_contiguous(), "mel: expected a contiguous tensor"
    assert tails.mel.is_contiguous(), "mel's tail: expected a contiguous tensor"
    batch, height, _ = mel.shape
    channels, _, width = tails.sub1.shape[1:]
    group = max(1, MOST_VALUES // (height // 2 * width * channels))
    if batch <= group:
        return _group(mel, tails, rows, parts)
    out = torch.empty(batch, height // 8, len(parts.out[1]), dtype=tails.mel.dtype, device=mel.device)
    for start in range(0, batch, group):
        some = slice(start, start + group)
        few = SubsamplingRows(rows.slots[some], rows.frames[some], rows.length[some])
        out[some] = _group(mel[some], tails, few, parts)
    return out


def _group(mel: Tensor, tails: SubsamplingTails, rows: SubsamplingRows, parts: SubsamplingParts) -> Tensor:
    batch, height, mels = mel.shape
    channels, chunk = tails.sub1.shape[1], height // 8
    widths = tails.sub1.shape[3], tails.sub2.shape[3], parts.out[0].shape[1] // channels
    where = rows.slots, rows.frames, rows.length
    cut = {"CHANNELS": channels, "BC": up(channels, 16), "BP": PLACES}

    def raw(stage: int) -> Tensor:
        sizes = batch, height >> stage, widths[stage - 1], channels
        return torch.empty(sizes, dtype=tails.mel.dtype, device=mel.device)

    def grid(x: Tensor) -> tuple[int]:
        return (blocks(x.numel() // channels, PLACES),)

    def depthwise(x: Tensor, tail: Tensor, stage: int, taps: tuple[Tensor, Tensor]) -> Tensor:
        y = raw(stage + 1)
        strides = tail.stride(0), tail.stride(1), tail.stride(3)
        depthwise_kernel[grid(y)](
            x, tail, *where, *taps, y, y.numel() // channels, y.shape[1], *strides,
            STAGE=stage, WIDE=widths[stage - 1], WIDTH=widths[stage], num_warps=8, **cut,
        )  # fmt: skip
        return y

    x1 = raw(1)
    first_kernel[grid(x1)](
        mel, tails.mel, *where, *parts.first, x1, x1.numel() // channels, height // 2,
        MELS=mels, WIDTH=widths[0], num_warps=4, **cut,
    )  # fmt: skip
    x2 = F.linear(depthwise(x1, tails.sub1, 1, parts.wide), *parts.wide_point)
    x3 = F.linear(depthwise(x2, tails.sub2, 2, parts.deep), *parts.deep_point)
    last_kernel[grid(x3)](x3, *where[1:], x3.numel() // channels, chunk, WIDTH=widths[2], **cut)
    sub1, sub2 = tails.sub1, tails.sub2
    keep_kernel[(batch, blocks(widths[0], PLACES))](
        mel, tails.mel, x1, sub1, x2, sub2, *where, chunk,
        sub1.stride(0), sub1.stride(1), sub1.stride(3), sub2.stride(0), sub2.stride(1), sub2.stride(3),
        MELS=mels, FIRST=widths[0], SECOND=widths[1], BM=up(mels), **cut,
    )  # fmt: skip
    return F.linear(x3.flatten(2), *parts.out)
