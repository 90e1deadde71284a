"""The FastConformer encoder and its one forward: training, whole files and streams. Knows nothing of PCM or tokens."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.attention import Attention, PassThrough, Ring, sinusoids
from models.config import ModelConfig
from models.operators import Operators, Plain
from models.state import EncoderState
from models.subsampling import ENDLESS, Subsampling, within


class FeedForward(nn.Module):
    """Linear, SiLU, Linear (NeMo ConformerFeedForward)."""

    def __init__(self, config: ModelConfig, dropout: float) -> None:
        super().__init__()
        self.linear1 = nn.Linear(config.d_model, config.d_ff, bias=config.use_bias)
        self.linear2 = nn.Linear(config.d_ff, config.d_model, bias=config.use_bias)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        return self.linear2(drop(F.silu(self.linear1(x)), self.dropout, self.training))


class Convolution(nn.Module):
    """Pointwise, GLU, depthwise with its left frames as state, norm, SiLU, pointwise (NeMo ConformerConvolution)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        d, bias = config.d_model, config.use_bias
        self.context = config.conv_context
        self.pointwise_conv1 = nn.Conv1d(d, 2 * d, kernel_size=1, bias=bias)
        self.depthwise_conv = nn.Conv1d(d, d, kernel_size=config.conv_kernel, groups=d, bias=bias)
        # NeMo's name for either norm
        self.batch_norm = nn.LayerNorm(d) if config.conv_norm == "layer_norm" else nn.BatchNorm1d(d)
        self.pointwise_conv2 = nn.Conv1d(d, d, kernel_size=1, bias=bias)

    def forward(self, x: Tensor, tail: Tensor, live: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, T, d), tail (B, left, d), live (B, T, 1) bool: frames of the audio -> (B, T, d) and the new tail."""
        left, right = self.context
        h = F.glu(pointwise(self.pointwise_conv1, x), dim=-1).masked_fill(~live, 0.0)
        h = torch.cat([tail.to(h.dtype), h], dim=1)
        new_tail = h[:, h.shape[1] - left :]
        h = self.depthwise_conv(F.pad(h, (0, 0, 0, right)).transpose(1, 2))
        if isinstance(self.batch_norm, nn.BatchNorm1d):
            h = self.batch_norm(h).transpose(1, 2)
        else:
            h = self.batch_norm(h.transpose(1, 2))
        return pointwise(self.pointwise_conv2, F.silu(h)), new_tail


def pointwise(conv: nn.Conv1d, x: Tensor) -> Tensor:
    """A convolution of kernel 1 on (B, T, d), as the matrix product it is."""
    return F.linear(x, conv.weight.squeeze(-1), conv.bias)


def drop(x: Tensor, probability: float, training: bool) -> Tensor:
    return F.dropout(x, probability, training) if training and probability else x


class ConformerLayer(nn.Module):
    """Half feed-forward, attention, convolution, half feed-forward, norm (NeMo conformer_modules.py:160-233)."""

    def __init__(self, config: ModelConfig, dropout: float) -> None:
        super().__init__()
        d = config.d_model
        self.norm_feed_forward1 = nn.LayerNorm(d)
        self.feed_forward1 = FeedForward(config, dropout)
        self.norm_self_att = nn.LayerNorm(d)
        self.self_attn = Attention(config)
        self.norm_conv = nn.LayerNorm(d)
        self.conv = Convolution(config)
        self.norm_feed_forward2 = nn.LayerNorm(d)
        self.feed_forward2 = FeedForward(config, dropout)
        self.norm_out = nn.LayerNorm(d)
        self.dropout = dropout

    def forward(self, x: Tensor, layer: int, ops: Operators, live: Tensor) -> Tensor:
        y = self.feed_forward1(ops.norm(x, self.norm_feed_forward1))
        x, h = ops.add_norm(x, self._drop(y), 0.5, self.norm_self_att)
        y = ops.attend(layer, self.self_attn, h)
        x, h = ops.add_norm(x, self._drop(y), 1.0, self.norm_conv)
        y = ops.convolve(layer, self.conv, h, live)
        x, h = ops.add_norm(x, self._drop(y), 1.0, self.norm_feed_forward2)
        _, h = ops.add_norm(x, self._drop(self.feed_forward2(h)), 0.5, self.norm_out)
        return h

    def _drop(self, x: Tensor) -> Tensor:
        return drop(x, self.dropout, self.training)


class Encoder(nn.Module):
    """Mel frames in, encoder frames out; what a chunk needs of the past comes in as a state and goes out as one."""

    def __init__(self, config: ModelConfig, dropout: float = 0.0) -> None:
        super().__init__()
        self.config = config
        self.pre_encode = Subsampling(config)
        self.layers = nn.ModuleList(ConformerLayer(config, dropout) for _ in range(config.layers))

    def forward(
        self, mel: Tensor, state: EncoderState, valid: Tensor, last: Tensor, context: tuple[int, int]
    ) -> tuple[Tensor, EncoderState, Tensor]:
        """One chunk of every row, or some: mel (B, 8T, mels), T a multiple of C = right context + 1.

        valid (B,) counts the mel positions before the audio's end (the seven before its start included) and matters
        where last (B,) is true. Returns frames (B, C, d_model), the new state, and how many frames are real (B,).
        """
        tables = self.position_tables(max(self.config.chunks) - 1, self.config.ring - 1)
        kv = Ring(tables, state.keys, state.values, state.frames, context)
        return self.step(mel, state, valid, last, kv)

    def step(
        self, mel: Tensor, state: EncoderState, valid: Tensor, last: Tensor, kv: Ring
    ) -> tuple[Tensor, EncoderState, Tensor]:
        """`forward` with the positional tables already projected: what backends and the exporter run."""
        chunk = mel.shape[1] // 8
        mel_length, end = self.lengths(state.frames, chunk, valid, last)
        out = (end - state.frames).clamp(min=0)
        ops = Plain(kv.place(chunk, end), state.conv)
        x, (tail, sub1, sub2) = self.pre_encode(mel, (state.mel, state.sub1, state.sub2), state.frames, mel_length)
        y = self.through(x, state.frames, end, ops)
        new = EncoderState(tail, sub1, sub2, tuple(kv.keys), tuple(kv.values), tuple(ops.tails), state.frames + out)
        return y, new, out

    def offline(self, mel: Tensor, lengths: Tensor, context: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Whole utterances: mel (B, L, mels), lengths (B,) mel frames -> (B, T, d_model) and frames (B,).

        Frames at or after a row's own count are meaningless.
        """
        frames = self._frames_of(lengths)
        count = max(1, int(frames.max()))
        if self.config.causal_subsampling:
            mel = F.pad(mel, (0, 0, 7, max(0, 8 * count - 7 - mel.shape[1])))[:, : 8 * count]
        state = EncoderState.zeros(self.config, mel.shape[0], ring=0)
        tables = self.position_tables(count - 1, count - 1)
        kv = PassThrough.over(tables, frames, self.config, context)
        x, _ = self.pre_encode(mel, (state.mel, state.sub1, state.sub2), state.frames, lengths)
        return self.through(x, state.frames, frames, Plain(kv, state.conv)), frames

    def lengths(self, frames: Tensor, chunk: int, valid: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
        """Mel and encoder frames of each row's stream (B,) as known with this chunk; the mel frames may be ENDLESS."""
        mel_length = (8 * frames - 7 + valid).masked_fill(~last, ENDLESS)
        return mel_length, torch.where(last, self._frames_of(mel_length), frames + chunk)

    def through(self, x: Tensor, first: Tensor, end: Tensor, ops: Operators) -> Tensor:
        """All layers: x (B, T, d_model) from stream frame `first` (B,) on, of which those before `end` (B,) count."""
        return self.stack(x, within(first, x.shape[1], end)[:, :, None], ops)

    def stack(self, x: Tensor, live: Tensor, ops: Operators) -> Tensor:
        """All layers over frames in whatever shape `ops` knows them; live says which frames are of the audio."""
        if self.config.xscaling:
            x = x * math.sqrt(self.config.d_model)
        for index, layer in enumerate(self.layers):
            x = layer(x, index, ops, live)
        return x

    def position_tables(self, ahead: int, behind: int) -> list[Tensor]:
        """For each layer (heads, head_dim, ahead + 1 + behind): positions -ahead ... behind (query minus key)."""
        encodings = sinusoids(-ahead, behind, self.config.d_model).to(self.layers[0].self_attn.linear_pos.weight)
        return [layer.self_attn.table(encodings) for layer in self.layers]

    def _frames_of(self, mel_length: Tensor) -> Tensor:
        """Encoder frames of so many mel frames; none where there are none (NeMo would invent one)."""
        frames = mel_length
        for _ in range(3):
            frames = frames // 2 + 1 if self.config.causal_subsampling else (frames - 1) // 2 + 1
        return torch.where(mel_length > 0, frames, torch.zeros_like(frames))
