"""Relative attention over a slot's K/V ring, which takes the chunk's keys and values on the way.

The same as models/attention.py `Ring` and `Attention` between the projections, for streams whose frames come in whole
chunks (frames % chunk == 0 until the last one). Knows nothing of the projections or of who owns a slot.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from models.attention import MASKED
from models.kernels.dialect import jit, tl, up

MOST_KEYS = 128  # of the ring in one tile


@dataclass(frozen=True, slots=True)
class Biases:
    """content (heads, head_dim), added to q before it meets the keys; position (heads, R) float32, to `by_position`."""

    content: Tensor
    position: Tensor


@dataclass(frozen=True, slots=True)
class Store:
    """keys, values (slots, heads, ring, head_dim), contiguous: frame f at f mod ring. Written in place."""

    keys: Tensor
    values: Tensor


@dataclass(frozen=True, slots=True)
class RingRows:
    """slots (B,) int64; frames (B,) done before this chunk, end (B,) the stream's length as known after it, integers.

    left: frames before the chunk that its queries see. Each slot once, but for rows whose output nobody reads.
    """

    slots: Tensor
    frames: Tensor
    end: Tensor
    left: int


@jit
def ring_kernel(
    q, k, v, by_position, content_bias, position_bias, keys, values, slots, frames, ends, out,
    row_stride, frame_stride, head_stride, p_row, p_frame, p_head, p_column, scale, hidden_score,
    HEADS: tl.constexpr, DIM: tl.constexpr, RING: tl.constexpr, POSITIONS: tl.constexpr,
    T: tl.constexpr, LEFT: tl.constexpr, BT: tl.constexpr, BJ: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """Program (head, row): first the chunk's own frames, then the ring's by age, the softmax carried along."""
    head = tl.program_id(0).to(tl.int64)
    row = tl.program_id(1).to(tl.int64)
    slot = tl.load(slots + row)
    done = tl.load(frames + row)
    end = tl.load(ends + row)
    t = tl.arange(0, BT)
    d = tl.arange(0, BD)
    chunk = (t < T)[:, None] & (d < DIM)[None, :]
    mine = row * row_stride + head * head_stride + t[:, None] * frame_stride + d[None, :]
    query = tl.load(q + mine, mask=chunk, other=0.0).to(tl.float32)
    query += tl.load(content_bias + head * DIM + d, mask=d < DIM, other=0.0).to(tl.float32)[None, :]
    query = query.to(q.dtype.element_ty)
    key = tl.load(k + mine, mask=chunk, other=0.0)
    value = tl.load(v + mine, mask=chunk, other=0.0)
    ring = (slot * HEADS + head) * RING * DIM
    # The ring has LEFT + T places or more: none that is read below is written here.
    written = ring + ((done + t) % RING)[:, None] * DIM + d[None, :]
    tl.store(keys + written, key, mask=chunk)
    tl.store(values + written, value, mask=chunk)

    by_position += row * p_row + head * p_head
    position_bias += head * POSITIONS
    # Query t and key s of the chunk are t - s apart; column POSITIONS - RING is distance 0.
    apart = t[:, None] - t[None, :] + (POSITIONS - RING)
    own = (t < T)[:, None] & (t < T)[None, :]
    near = tl.dot(query, tl.trans(key), input_precision="ieee")
    near += tl.load(by_position + t[:, None] * p_frame + apart * p_column, mask=own, other=0.0).to(tl.float32)
    near += tl.load(position_bias + apart, mask=own, other=0.0)
    near = tl.where((done + t < end)[None, :], near * scale, hidden_score)
    near = tl.where((t < T)[None, :], near, float("-inf"))
    top = tl.max(near, 1)
    share = tl.exp(near - top[:, None])
    total = tl.sum(share, 1)
    mixed = tl.dot(share.to(value.dtype), value, input_precision="ieee")
    for first in range(0, LEFT, BJ):
        j = first + tl.arange(0, BJ)  # age: 0 is the frame before the chunk
        frame = done - 1 - j
        seen = (j < LEFT) & (frame >= 0) & (frame < end)
        place = ring + (tl.where(seen, frame, 0) % RING) * DIM
        old_key = tl.load(keys + place[None, :] + d[:, None], mask=seen[None, :] & (d < DIM)[:, None], other=0.0)
        old_value = tl.load(values + place[:, None] + d[None, :], mask=seen[:, None] & (d < DIM)[None, :], other=0.0)
        column = t[:, None] + j[None, :] + (POSITIONS - RING + 1)
        both = (t < T)[:, None] & (j < LEFT)[None, :]
        score = tl.dot(query, old_key, input_precision="ieee")
        score += tl.load(by_position + t[:, None] * p_frame + column * p_column, mask=both, other=0.0).to(tl.float32)
        score += tl.load(position_bias + column, mask=both, other=0.0)
        score = tl.where(seen[None, :], score * scale, hidden_score)
        score = tl.where((j < LEFT)[None, :], score, float("-inf"))
        higher = tl.maximum(top, tl.max(score, 1))
        fade = tl.exp(top - higher)
        weight = tl.exp(score - higher[:, None])
        total = total * fade + tl.sum(weight, 1)
        mixed = mixed * fade[:, None]
        mixed = tl.dot(weight.to(value.dtype), old_value, mixed, input_precision="ieee")
        top = higher
    to = out + (row * T * HEADS + head) * DIM + t[:, None] * (HEADS * DIM) + d[None, :]
    tl.store(to, (mixed / total[:, None]).to(out.dtype.element_ty), mask=chunk)


def ring_attention(
    qkv: tuple[Tensor, Tensor, Tensor],
    by_position: Tensor,
    biases: Biases,
    store: Store,
    rows: RingRows,
    out: Tensor | None = None,
) -> Tensor:
    """Writes the chunk's K and V into the rings, and returns what its queries see, (B, T, heads * head_dim).

    qkv: q, k, v (B, T, heads, head_dim), of one dtype and with the same strides, the last one 1. by_position
    (B, T, heads, R), of any strides: q times the table of positions, without the bias; column p + R - ring is query
    frame minus key frame = p.
    """
    q, k, v = qkv
    batch, chunk, heads, dim = q.shape
    ring, positions = store.keys.shape[2], by_position.shape[3]
    assert q.stride() == k.stride() == v.stride(), f"strides of q {q.stride()}, k {k.stride()}, v {v.stride()}"
    assert q.stride(3) == 1, f"strides of q {q.stride()}: expected 1 at last"
    assert rows.left + chunk <= ring, f"a ring of {ring} frames: expected {rows.left} + {chunk} or more"
    assert store.keys.is_contiguous(), "keys: expected contiguous rings"
    assert store.values.is_contiguous(), "values: expected contiguous rings"
    if out is None:
        out = torch.empty(batch, chunk, heads * dim, dtype=v.dtype, device=v.device)
    ring_kernel[(heads, batch)](
        q, k, v, by_position, biases.content, biases.position, store.keys, store.values,
        rows.slots, rows.frames, rows.end, out, *q.stride()[:3], *by_position.stride(), dim**-0.5, MASKED,
        HEADS=heads, DIM=dim, RING=ring, POSITIONS=positions, T=chunk, LEFT=rows.left,
        **tile(chunk, rows.left, dim, q.dtype),
    )  # fmt: skip
    return out


def tile(chunk: int, left: int, dim: int, dtype: torch.dtype) -> dict[str, int]:
    """Blocks of queries, keys and width; one tile holds all keys of the usual contexts, where tensor cores are."""
    plain = dtype == torch.float32  # such products take registers: parity, not speed
    keys = min(16 if plain else MOST_KEYS, up(left, 16))
    return {"BT": up(chunk, 16), "BJ": keys, "BD": up(dim, 16), "num_warps": 8 if plain else 4, "num_stages": 1}


def ring_attention_torch(
    qkv: tuple[Tensor, Tensor, Tensor],
    by_position: Tensor,
    biases: Biases,
    store: Store,
    rows: RingRows,
) -> Tensor:
    """The same in torch's operators, reading the ring by place."""
    q, k, v = qkv
    chunk, ring = q.shape[1], store.keys.shape[2]
    query = rows.frames[:, None] + torch.arange(chunk, device=q.device)  # (B, T)
    for target, new in ((store.keys, k), (store.values, v)):
        target[rows.slots[:, None], :, query % ring] = new
    newest = rows.frames[:, None] + chunk - 1
    key = newest - (newest - torch.arange(ring, device=q.device)) % ring  # (B, ring): the frame at each place
    seen = (key >= 0) & (key >= rows.frames[:, None] - rows.left) & (key < rows.end[:, None])
    content = (q.float() + biases.content.float()).to(q.dtype).float()
    score = torch.einsum("bthd,bhrd->bhtr", content, store.keys[rows.slots].float())
    column = query[:, :, None] - key[:, None, :] + (by_position.shape[3] - ring)  # (B, T, ring)
    position = by_position.float().transpose(1, 2) + biases.position[None, :, None, :]
    score = score + position.gather(-1, column.clamp(min=0)[:, None].expand(-1, q.shape[2], -1, -1))
    score = (score * (1.0 / math.sqrt(q.shape[3]))).masked_fill(~seen[:, None, None, :], MASKED)
    weight = score.softmax(-1).to(v.dtype).float()
    return torch.einsum("bhtr,bhrd->bthd", weight, store.values[rows.slots].float()).to(v.dtype).flatten(2)
