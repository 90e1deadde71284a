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
from models.encoder import ConformerLayer, pointwise
from models.kernels.convolution import ConvolutionParts, ConvolutionRows
from models.kernels.convolution import convolve as fused_convolve
from models.kernels.norm import add_norm as fused_add_norm
from models.kernels.norm import norm as fused_norm
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


@dataclass(frozen=True, slots=True)
class PackedLayer:
    """What the kernels of one layer read."""

    attention: PackedAttention
    convolution: ConvolutionParts

    @classmethod
    def of(cls, layer: ConformerLayer, table: Tensor) -> PackedLayer:
        return cls(PackedAttention.of(layer.self_attn, table), ConvolutionParts.of(layer.conv))


class Fused:
    """Operators of one chunk's rows; `packed` and the arena are the model's, made once."""

    def __init__(self, packed: list[PackedLayer], arena: EncoderArena, rows: RingRows) -> None:
        self._packed, self._arena, self._rows = packed, arena, rows

    def norm(self, x: Tensor, norm: nn.Module) -> Tensor:
        return fused_norm(x, norm.weight, norm.bias, norm.eps)

    def add_norm(self, x: Tensor, y: Tensor, scale: float, norm: nn.Module) -> tuple[Tensor, Tensor]:
        return fused_add_norm(x, y, scale, norm.weight, norm.bias, norm.eps)

    def attend(self, layer: int, attention: nn.Module, x: Tensor) -> Tensor:
        packed, (batch, chunk, _) = self._packed[layer].attention, x.shape
        heads, dim, positions = packed.table.shape
        qkv = F.linear(x, packed.weight, packed.bias).view(batch * chunk, 3, heads, dim)
        by_position = torch.bmm(qkv[:, 0].transpose(0, 1), packed.table).view(heads, batch, chunk, positions)
        q, k, v = qkv.view(batch, chunk, 3, heads, dim).unbind(2)
        store = Store(self._arena.keys[layer], self._arena.values[layer])
        mix = ring_attention((q, k, v), by_position.permute(1, 2, 0, 3), packed.biases, store, self._rows)
        return attention.linear_out(mix)

    def convolve(self, layer: int, convolution: nn.Module, x: Tensor, live: Tensor) -> Tensor:
        gated = pointwise(convolution.pointwise_conv1, x)
        rows = ConvolutionRows(self._rows.slots, live[:, :, 0])
        h = fused_convolve(gated, self._arena.conv[layer], rows, self._packed[layer].convolution)
        return pointwise(convolution.pointwise_conv2, h)
