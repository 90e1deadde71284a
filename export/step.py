"""The three networks of a streaming model as modules with flat inputs and outputs, ready for an exporter.

Wraps the one forward of models/; knows nothing of files or runtimes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.attention import Ring
from models.config import ModelConfig
from models.state import EncoderState
from models.transducer import Model

_LSTM_WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


@torch.library.custom_op("streamer::ring_write", mutates_args=())
def ring_write(ring: Tensor, new: Tensor, at: Tensor) -> Tensor:
    """(B, heads, ring, d) with new (B, heads, T, d) from position `at` (B,) on, modulo the ring: ONNX TensorScatter."""
    places = torch.remainder(at[:, None] + torch.arange(new.shape[2], device=at.device), ring.shape[2])
    return ring.scatter(2, places[:, None, :, None].expand_as(new), new)


@ring_write.register_fake
def _like_ring(ring: Tensor, *_: Tensor) -> Tensor:
    return torch.empty_like(ring)


class RingInPlace(Ring):
    """A ring whose write is one operation, which the runtime does in place when input and output share a buffer."""

    def place(self, chunk: int, end: Tensor) -> RingInPlace:
        super().place(chunk, end)
        self._at = torch.remainder(self._frames, self._ring)
        self._index = self._index.expand(-1, self.keys[0].shape[1], -1, -1)  # once, not in every layer
        return self

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        self.keys[layer] = ring_write(self.keys[layer], k, self._at)
        self.values[layer] = ring_write(self.values[layer], v, self._at)
        return self.keys[layer], self.values[layer]

    def align(self, by_position: Tensor) -> Tensor:
        return by_position.gather(-1, self._index)


class Step(nn.Module):
    """One chunk of every row: features in, the decoder's view of the frames out, state in and out."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model, self.config = model, model.config
        with torch.no_grad():
            tables = model.encoder.position_tables(max(self.config.chunks) - 1, self.config.ring - 1)
        self.tables = [table.detach().clone().contiguous() for table in tables]

    def forward(
        self,
        mel: Tensor,
        counters: tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor],
        tails: tuple[Tensor, Tensor, Tensor],
        conv: list[Tensor],
        keys: list[Tensor],
        values: list[Tensor],
    ) -> tuple[Tensor, Tensor, tuple[Tensor, ...], tuple[Tensor, ...], tuple[Tensor, ...], tuple[Tensor, ...]]:
        """counters: valid, last, active, frames, prompt, left, each (B,). -> scores, real frames, the new state."""
        valid, last, active, frames, prompt, lefts = counters
        old = EncoderState(*tails, tuple(keys), tuple(values), tuple(conv), frames)
        left = lefts[:, None, None] if has_many_lefts(self.config) else self.config.left
        kv = RingInPlace(self.tables, old.keys, old.values, frames, (left, mel.shape[1] // 8 - 1))
        y, new, count = self.model.encoder.step(mel, old, valid, last, kv)
        new = new.where(active, old)
        y = self.model.with_prompt(y, prompt)
        scores = self.model.joint.enc(y) if self.config.transducer else self.model.ctc(y)
        return scores, count, (new.mel, new.sub1, new.sub2), new.conv, new.keys, new.values


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


def step_inputs(config: ModelConfig, rows: int, chunk: int) -> tuple[object, ...]:
    """Zeros in the shape of `Step.forward`'s arguments."""
    state = EncoderState.zeros(config, rows)
    whole = torch.zeros(rows, dtype=torch.int64)
    flags = torch.zeros(rows, dtype=torch.bool)
    counters = (whole + 8 * chunk, flags, ~flags, state.frames, whole, whole + config.left)
    mel = torch.zeros(rows, 8 * chunk, config.mels)
    return mel, counters, (state.mel, state.sub1, state.sub2), list(state.conv), list(state.keys), list(state.values)


def step_names(config: ModelConfig) -> tuple[list[str], list[str]]:
    """Names of the flattened inputs and outputs of `Step`."""
    layers = range(config.layers)
    state = ["mel_tail", "sub1", "sub2"]
    state += [f"{kind}.{layer}" for kind in ("conv", "keys", "values") for layer in layers]
    inputs = ["mel", "valid", "last", "active", "frames", "prompt", "left", *state]
    return inputs, ["scores", "count", *(f"new_{name}" for name in state)]
