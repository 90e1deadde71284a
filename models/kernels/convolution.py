"""The middle of the convolution block: GLU, causal depthwise convolution over a slot's last frames, norm, SiLU.

The same as models/encoder.py `Convolution` between its pointwise products. Knows nothing of layers or of who owns a
slot.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.encoder import Convolution
from models.kernels.dialect import jit, tl, up


@dataclass(frozen=True, slots=True)
class ConvolutionParts:
    """weight (kernel, d), bias (d,) of the depthwise convolution; scale, shift (d,) of what follows. All float32.

    eps: LayerNorm's, whose affine part scale and shift are; None for a BatchNorm, of which they are all.
    """

    weight: Tensor
    bias: Tensor
    scale: Tensor
    shift: Tensor
    eps: float | None

    @classmethod
    def of(cls, convolution: Convolution) -> ConvolutionParts:
        """A causal block's own numbers, packed."""
        assert convolution.context[1] == 0, f"right context {convolution.context[1]}: expected a causal convolution"
        depthwise, norm = convolution.depthwise_conv, convolution.batch_norm
        weight = depthwise.weight.detach().float()[:, 0].T.contiguous()
        bias = torch.zeros_like(weight[0]) if depthwise.bias is None else depthwise.bias.detach().float()
        scale, shift = norm.weight.detach().float(), norm.bias.detach().float()
        if not isinstance(norm, nn.BatchNorm1d):
            return cls(weight, bias, scale, shift, norm.eps)
        scale = scale * (norm.running_var.float() + norm.eps).rsqrt()
        return cls(weight, bias, scale, shift - norm.running_mean.float() * scale, None)


@dataclass(frozen=True, slots=True)
class ConvolutionRows:
    """slots (B,) int64, each once but for rows nobody reads; live (B, T) bool: the frames of the audio.

    advance (B,) bool or None: rows whose tail moves on though no frame of theirs is live; the others' stays then.
    """

    slots: Tensor
    live: Tensor
    advance: Tensor | None = None


@jit
def gated_frame(gated, live, d, inside, DIM: tl.constexpr):
    """a * sigmoid(b) of one frame (2 d,), rounded as it is kept; zero where the audio is not."""
    heard = inside & (tl.load(live) != 0)
    a = tl.load(gated + d, mask=heard, other=0.0).to(tl.float32)
    b = tl.load(gated + DIM + d, mask=heard, other=0.0).to(tl.float32)
    return (a * tl.sigmoid(b)).to(gated.dtype.element_ty)


@jit
def convolution_kernel(
    gated, tails, slots, live, advance, weight, bias, scale, shift, out, eps,
    T: tl.constexpr, LEFT: tl.constexpr, DIM: tl.constexpr, STATISTICS: tl.constexpr, ADVANCE: tl.constexpr,
    BD: tl.constexpr,
):  # fmt: skip
    """Program (row): all its frames, newest first, since `out` holds the gated frames until they are done with."""
    row = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots + row)
    d = tl.arange(0, BD)
    inside = d < DIM
    gated += row * T * 2 * DIM
    live += row * T
    out += row * T * DIM
    tails += slot * LEFT * DIM
    moves = 0
    if ADVANCE:
        moves = tl.load(advance + row).to(tl.int32)
    for t in range(0, T):
        tl.store(out + t * DIM + d, gated_frame(gated + t * 2 * DIM, live + t, d, inside, DIM), mask=inside)
        moves += tl.load(live + t).to(tl.int32)
    tl.debug_barrier()  # a thread may read below what another one wrote above
    by_channel_bias = tl.load(bias + d, mask=inside, other=0.0)
    by_channel_scale = tl.load(scale + d, mask=inside, other=0.0)
    by_channel_shift = tl.load(shift + d, mask=inside, other=0.0)
    for back in range(0, T):
        t = T - 1 - back
        total = by_channel_bias
        for k in range(0, LEFT + 1):
            source = t + k - LEFT  # frame of the chunk; the tail's are before 0
            early = inside & (source < 0)
            x = tl.load(tails + (source + LEFT) * DIM + d, mask=early, other=0.0).to(tl.float32)
            x += tl.load(out + source * DIM + d, mask=inside & (source >= 0), other=0.0).to(tl.float32)
            total += x * tl.load(weight + k * DIM + d, mask=inside, other=0.0)
        if STATISTICS:
            mean = tl.sum(tl.where(inside, total, 0.0), 0) / DIM
            centred = tl.where(inside, total - mean, 0.0)
            total = centred * (1.0 / tl.sqrt(tl.sum(centred * centred, 0) / DIM + eps))
        total = total * by_channel_scale + by_channel_shift
        total = total * tl.sigmoid(total)
        tl.debug_barrier()  # all have read frame t before it is written over
        tl.store(out + t * DIM + d, total.to(out.dtype.element_ty), mask=inside)
    if moves > 0:
        for i in range(0, LEFT):
            source = i + T - LEFT
            if source < 0:
                kept = tl.load(tails + (source + LEFT) * DIM + d, mask=inside, other=0.0)
            else:
                kept = gated_frame(gated + source * 2 * DIM, live + source, d, inside, DIM).to(tails.dtype.element_ty)
            tl.debug_barrier()  # place i + T was read for place i before it is written
            tl.store(tails + i * DIM + d, kept, mask=inside)


def convolve(
    gated: Tensor, tails: Tensor, rows: ConvolutionRows, parts: ConvolutionParts, out: Tensor | None = None
) -> Tensor:
    """gated (B, T, 2d), the first pointwise product, contiguous -> (B, T, d), what the second one takes.

    tails (slots, kernel - 1, d), contiguous, move on in place.
    """
    batch, frames, double = gated.shape
    dim, left = double // 2, tails.shape[1]
    assert gated.is_contiguous(), "gated: expected a contiguous tensor"
    assert tails.is_contiguous(), "tails: expected a contiguous tensor"
    assert rows.live.is_contiguous(), "live: expected a contiguous tensor"
    assert parts.weight.shape == (left + 1, dim), f"weight {tuple(parts.weight.shape)}: expected {(left + 1, dim)}"
    if out is None:
        out = torch.empty(batch, frames, dim, dtype=gated.dtype, device=gated.device)
    live = rows.live.view(torch.uint8)
    advance = live if rows.advance is None else rows.advance.view(torch.uint8)
    convolution_kernel[(batch,)](
        gated, tails, rows.slots, live, advance, parts.weight, parts.bias, parts.scale, parts.shift, out,
        parts.eps or 0.0, T=frames, LEFT=left, DIM=dim, STATISTICS=parts.eps is not None,
        ADVANCE=rows.advance is not None, **tile(dim),
    )  # fmt: skip
    return out


def tile(dim: int) -> dict[str, int]:
    return {"BD": up(dim, 16), "num_warps": 8 if dim >= 1024 else 4, "num_stages": 1}


def convolve_torch(gated: Tensor, tails: Tensor, rows: ConvolutionRows, parts: ConvolutionParts) -> Tensor:
    """The same in torch's operators."""
    left = tails.shape[1]
    h = F.glu(gated.float(), dim=-1).masked_fill(~rows.live[:, :, None], 0.0).to(gated.dtype)
    h = torch.cat([tails[rows.slots].to(h.dtype), h], dim=1)
    moves = rows.live.any(1) if rows.advance is None else rows.live.any(1) | rows.advance
    tails[rows.slots] = torch.where(moves[:, None, None], h[:, h.shape[1] - left :].to(tails.dtype), tails[rows.slots])
    y = F.conv1d(h.float().transpose(1, 2), parts.weight.T[:, None], parts.bias, groups=h.shape[2]).transpose(1, 2)
    if parts.eps is not None:
        y = F.layer_norm(y, y.shape[-1:], eps=parts.eps)
    return F.silu(y * parts.scale + parts.shift).to(gated.dtype)
