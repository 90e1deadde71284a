"""The layers' operators on kernels of our own: what models/arena.py `OnArena` computes, in fewer launches.

Per layer: products on the device's library, everything between them fused. Knows nothing of PCM, tokens or graphs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.arena import EncoderArena
from models.attention import Attention
from models.kernels.ring import Biases, RingRows, Store, ring_attention


@dataclass(frozen=True, slots=True)
class PackedAttention:
    """Queries, keys and values in one product (3 d, d); table (heads, head_dim, R) of the relative positions."""

    weight: Tensor
    bias: Tensor | None
    table: Tensor
    biases: Biases

    @classmethod
    def of(cls, attention: Attention, table: Tensor) -> PackedAttention:
        parts = (attention.linear_q, attention.linear_k, attention.linear_v)
        bias = torch.cat([part.bias for part in parts]) if parts[0].bias is not None else None
        position = torch.einsum("hd,hdr->hr", attention.pos_bias_v.float(), table.float()).contiguous()
        content = attention.pos_bias_u.detach().contiguous()
        return cls(torch.cat([part.weight for part in parts]), bias, table.contiguous(), Biases(content, position))


class Fused:
    """Operators of one chunk's rows; `packed` and the arena are the model's, made once."""

    def __init__(self, packed: list[PackedAttention], arena: EncoderArena, rows: RingRows) -> None:
        self._packed, self._arena, self._rows = packed, arena, rows

    def norm(self, x: Tensor, norm: nn.Module) -> Tensor:
        return norm(x)

    def add_norm(self, x: Tensor, y: Tensor, scale: float, norm: nn.Module) -> tuple[Tensor, Tensor]:
        x = torch.add(x, y, alpha=scale)
        return x, norm(x)

    def attend(self, layer: int, attention: nn.Module, x: Tensor) -> Tensor:
        packed, (batch, chunk, _) = self._packed[layer], x.shape
        heads, dim, positions = packed.table.shape
        qkv = F.linear(x, packed.weight, packed.bias).view(batch * chunk, 3, heads, dim)
        by_position = torch.bmm(qkv[:, 0].transpose(0, 1), packed.table).view(heads, batch, chunk, positions)
        q, k, v = qkv.view(batch, chunk, 3, heads, dim).unbind(2)
        store = Store(self._arena.keys[layer], self._arena.values[layer])
        mix = ring_attention((q, k, v), by_position.permute(1, 2, 0, 3), packed.biases, store, self._rows)
        return attention.linear_out(mix)

    def convolve(self, layer: int, convolution: nn.Module, x: Tensor, live: Tensor) -> Tensor:
        tails, slots = self._arena.conv[layer], self._rows.slots
        y, tail = convolution(x, tails[slots], live)
        tails[slots] = tail
        return y
