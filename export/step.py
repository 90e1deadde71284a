"""The three networks of a streaming model as modules with flat inputs and outputs, ready for an exporter.

Wraps the one forward of models/; knows nothing of files or runtimes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from export.cpu_operators import AttentionParts, CpuOperators, Places, conv_ring
from export.cpu_subsampling import CpuSubsampling, tail_shapes
from models.config import ModelConfig
from models.state import EncoderState, rows_where
from models.subsampling import within
from models.transducer import Model

_LSTM_WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


class Step(nn.Module):
    """One chunk of every row, or some of them: features in, the decoder's view of the frames out, state in and out."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model, self.config = model, model.config
        with torch.no_grad():
            tables = model.encoder.position_tables(max(self.config.chunks) - 1, self.config.ring - 1)
            layers = zip(model.encoder.layers, tables, strict=True)
            self.subsampling = CpuSubsampling(model.encoder.pre_encode)
            self.parts = [AttentionParts.of(layer.self_attn, table) for layer, table in layers]

    def forward(
        self,
        mel: Tensor,
        counters: tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor],
        tails: tuple[Tensor, Tensor],
        conv: list[Tensor],
        keys: list[Tensor],
        values: list[Tensor],
    ) -> tuple[Tensor, Tensor, tuple[Tensor, ...], list[Tensor], list[Tensor], list[Tensor]]:
        """counters: valid, last, active, frames, prompt, left, chunk, each (B,). -> scores, real frames, the new state.

        As many frames as mel (B, 8T, mels) has: of each row T / chunk chunks, fewer where they are its last. An idle
        row writes into its rings at its own next positions, which nothing of it can see.
        """
        valid, last, active, frames, prompt, lefts, chunks = counters
        encoder, new = self.model.encoder, mel.shape[1] // 8
        left = lefts if has_many_lefts(self.config) else torch.full_like(chunks, self.config.left)
        mel_length, end = encoder.lengths(frames, new, valid, last)
        x, new_tails = self.subsampling(mel, tails, frames, mel_length)
        live = within(frames, new, end).flatten()[:, None]
        operators = CpuOperators(
            self.parts, Places(self.config, frames, end, new, (left, chunks - 1)), (keys, values, conv)
        )
        y = encoder.stack(x, live, operators).unflatten(0, (-1, new))
        y = self.model.with_prompt(y, prompt)
        scores = self.model.joint.enc(y) if self.config.transducer else self.model.ctc(y)
        kept = tuple(rows_where(active, new, old) for new, old in zip(new_tails, tails, strict=True))
        return scores, (end - frames).clamp(min=0), kept, operators.tails, operators.keys, operators.values


class PredictorStep(nn.Module):
    """One label per row, state with rows first: labels (n,), h and c (n, layers, hidden) -> g (n, joint), h, c.

    The LSTM cell is written out: the first layer's input product becomes a table by label, since there is one row
    of it for each; the exporter's own translation of torch's LSTM loops over a time axis that we do not have.
    """

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.project = model.joint.pred
        lstm = model.decoder.prediction.dec_rnn["lstm"]
        weights = [[getattr(lstm, f"{kind}_l{layer}") for kind in _LSTM_WEIGHTS] for layer in range(lstm.num_layers)]
        with torch.no_grad():
            w_ih, _, b_ih, b_hh = weights[0]
            self.by_label = model.decoder.prediction.embed.weight @ w_ih.T + (b_ih + b_hh)
            self.recurrent = [w_hh.T.contiguous() for _, w_hh, _, _ in weights]
            self.inputs = [(w_ih.T.contiguous(), b_ih + b_hh) for w_ih, _, b_ih, b_hh in weights[1:]]

    def forward(self, labels: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        gates = self.by_label[labels]
        hs: list[Tensor] = []
        cs: list[Tensor] = []
        for layer, recurrent in enumerate(self.recurrent):
            if layer:
                weight, bias = self.inputs[layer - 1]
                gates = hs[-1] @ weight + bias
            i, f, g, o = (gates + h[:, layer] @ recurrent).chunk(4, dim=-1)
            cs.append(f.sigmoid() * c[:, layer] + i.sigmoid() * g.tanh())
            hs.append(o.sigmoid() * cs[-1].tanh())
        return self.project(hs[-1]), torch.stack(hs, 1), torch.stack(cs, 1)


class JointStep(nn.Module):
    """f and g (n, joint), projected -> logits (n, vocabulary + blank + durations)."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.joint = model.joint

    def forward(self, f: Tensor, g: Tensor) -> Tensor:
        return self.joint(f, g)


def has_many_lefts(config: ModelConfig) -> bool:
    """Whether the left context depends on the latency; then it is an input of the step."""
    return len({left for left, _ in config.contexts}) > 1


def step_inputs(config: ModelConfig, rows: int, chunk: int) -> tuple[Any, ...]:
    """Zeros in the shape of `Step.forward`'s arguments."""
    state = EncoderState.zeros(config, rows)
    conv = [torch.zeros(rows, conv_ring(config), config.d_model) for _ in range(config.layers)]
    tails = tuple(torch.zeros(rows, *shape) for shape in tail_shapes(config).values())
    whole = torch.zeros(rows, dtype=torch.int64)
    flags = torch.zeros(rows, dtype=torch.bool)
    counters = (whole + 8 * chunk, flags, ~flags, state.frames, whole, whole + config.left, whole + chunk)
    mel = torch.zeros(rows, 8 * chunk, config.mels)
    return mel, counters, tails, conv, list(state.keys), list(state.values)


def step_names(config: ModelConfig) -> tuple[list[str], list[str]]:
    """Names of the flattened inputs and outputs of `Step`."""
    layers = range(config.layers)
    state = list(tail_shapes(config))
    state += [f"{kind}.{layer}" for kind in ("conv", "keys", "values") for layer in layers]
    inputs = ["mel", "valid", "last", "active", "frames", "prompt", "left", "chunk", *state]
    return inputs, ["scores", "count", *(f"new_{name}" for name in state)]
