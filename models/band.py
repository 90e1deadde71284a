"""K and V of a piece of a whole file, read in blocks of queries that see what their chunks may see and no more.

So a file of any length under a chunk mask takes memory that grows with its length alone. Several pieces follow each
other with what they leave behind. Knows nothing of weights, mel or tokens.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.attention import visible
from models.config import ModelConfig
from models.operators import Plain

Context = tuple[int, int]
LEAST_BLOCK = 64  # frames: blocks that are short against what they look back on read it too often


class Bands:
    """What all pieces of one context share: the positional tables of each layer."""

    def __init__(self, tables: list[Tensor], config: ModelConfig, context: Context) -> None:
        """tables cover positions -(block_of(context) - 1) ... left + block_of(context) - 1 (query minus key)."""
        self.config, self.context = config, context
        self.left, self.chunk = context[0], context[1] + 1
        self.longest = block_of(context)
        self._descending = [table.flip(-1) for table in tables]

    def block(self, frames: int) -> int:
        """Queries of a block, so that blocks of equal length cover `frames` with little beyond them."""
        blocks = -(-frames // self.longest)
        return -(-frames // (blocks * self.chunk)) * self.chunk

    def tables(self, block: int) -> list[Tensor]:
        """For each layer (heads, head_dim, left + 2 block - 1): positions left + block - 1 down to -(block - 1)."""
        spare = self.longest - block
        return [table[..., spare : table.shape[-1] - spare] for table in self._descending]


def block_of(context: Context) -> int:
    """The longest block of a context in frames: whole chunks, about as long as what they look back on."""
    left, chunk = context[0], context[1] + 1
    return max(1, round(max(left, LEAST_BLOCK) / chunk)) * chunk


class Band:
    """The K/V store of one piece (models.attention.KeyValues): rows are B files of n blocks, block after block.

    `past` holds for each layer K and V (B, heads, left, head_dim) of the frames before the piece.
    """

    def __init__(self, bands: Bands, past: list[tuple[Tensor, Tensor]], span: tuple[int, int], end: Tensor) -> None:
        """span: the piece's first frame, a whole number of chunks, and its frames; end (B,) frames of each file."""
        first, frames = span
        self.past = list(past)
        self.block = bands.block(frames)
        self.blocks = -(-frames // self.block)
        self._left, self._tables = bands.left, bands.tables(self.block)
        start = first + self.block * torch.arange(self.blocks, device=end.device)[:, None]
        query = start + torch.arange(self.block, device=end.device)
        key = start - self._left + torch.arange(self._left + self.block, device=end.device)
        seen = visible(query[:, :, None], key[:, None, :], bands.context, bands.config.style) & (key >= 0)[:, None]
        alive = key[None] < end[:, None, None]  # (B, n, left + block)
        self.hidden = ~(seen[None] & alive[:, :, None]).flatten(0, 1)[:, None]

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        (seen_k, past_k), (seen_v, past_v) = (
            self._spread(new, past) for new, past in zip((k, v), self.past[layer], strict=True)
        )
        self.past[layer] = past_k, past_v
        return seen_k, seen_v

    def _spread(self, new: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """New frames (B n, heads, block, d) behind those of the past -> (B n, heads, left + block, d), the new past."""
        _, heads, block, width = new.shape
        whole = new.unflatten(0, (-1, self.blocks)).transpose(1, 2).reshape(-1, heads, self.blocks * block, width)
        whole = torch.cat([past, whole], dim=2)
        windows = whole.unfold(2, self._left + block, block)  # (B, heads, n, d, left + block)
        spread = windows.permute(0, 2, 1, 4, 3).reshape(-1, heads, self._left + block, width)
        return spread, whole[:, :, whole.shape[2] - self._left :].clone()  # a view would keep the whole alive

    def positions(self, layer: int) -> Tensor:
        return self._tables[layer]

    def align(self, by_position: Tensor) -> Tensor:
        """Query i holds its position to key j at column j - i + block - 1: the shift of Transformer-XL."""
        b, h, t, r = by_position.shape
        skewed = F.pad(by_position, (1, 0)).view(b, h, r + 1, t)[:, :, 1:].reshape(b, h, t, r)
        return skewed[..., : self._left + t]


class Banded(Plain):
    """The layers' operators over a band: attention sees blocks as rows, all else whole pieces."""

    def __init__(self, band: Band, tails: tuple[Tensor, ...]) -> None:
        super().__init__(band, tails)
        self._band = band

    def attend(self, layer: int, attention: nn.Module, x: Tensor) -> Tensor:
        frames = x.shape[1]
        x = F.pad(x, (0, 0, 0, self._band.blocks * self._band.block - frames))
        y = attention(x.reshape(-1, self._band.block, x.shape[-1]), layer, self._band)
        return y.reshape(len(x), -1, x.shape[-1])[:, :frames]
