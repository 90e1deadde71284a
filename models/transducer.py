"""Predictor, joint, CTC head and prompt, and the assembled model. Knows nothing of files, chunks or search."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.config import FFT, WINDOW, ModelConfig
from models.encoder import Encoder, drop

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid}


class Prediction(nn.Module):
    """Embedding and LSTM; blank is the start and embeds to zero (NeMo RNNTDecoder, blank_as_pad)."""

    def __init__(self, config: ModelConfig, dropout: float = 0.0) -> None:
        super().__init__()
        hidden, self.dropout = config.predictor_hidden, dropout
        self.embed = nn.Embedding(config.vocab_size + 1, hidden, padding_idx=config.blank)
        self.dec_rnn = nn.ModuleDict({"lstm": nn.LSTM(hidden, hidden, config.predictor_layers)})

    def forward(self, labels: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """labels (U, B), h and c (layers, B, hidden) -> (U, B, hidden), h, c."""
        embedded = drop(self.embed(labels), self.dropout, self.training)
        y, (h, c) = self.dec_rnn["lstm"](embedded, (h, c))
        return drop(y, self.dropout, self.training), h, c


class Decoder(nn.Module):
    """NeMo's `decoder`: the prediction network of a transducer."""

    def __init__(self, config: ModelConfig, dropout: float = 0.0) -> None:
        super().__init__()
        self.prediction = Prediction(config, dropout)


class CTCHead(nn.Module):
    """NeMo's ConvASRDecoder: one pointwise convolution; blank is last."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.decoder_layers = nn.ModuleList([nn.Conv1d(config.d_model, config.vocab_size + 1, kernel_size=1)])

    def forward(self, frames: Tensor) -> Tensor:
        """(B, T, d_model) -> log-probabilities (B, T, V + 1) float32."""
        conv = self.decoder_layers[0]
        return F.linear(frames, conv.weight.squeeze(-1), conv.bias).float().log_softmax(-1)


class Joint(nn.Module):
    """out(act(enc(f) + pred(g))): logits over vocabulary and blank, then the durations of a TDT model."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        outputs = config.vocab_size + 1 + len(config.durations)
        self.enc = nn.Linear(config.d_model, config.joint_hidden)
        self.pred = nn.Linear(config.predictor_hidden, config.joint_hidden)
        dropout = [nn.Identity()] if config.joint_dropout else []
        activation = ACTIVATIONS[config.joint_activation]()
        self.joint_net = nn.Sequential(activation, *dropout, nn.Linear(config.joint_hidden, outputs))

    def forward(self, f: Tensor, g: Tensor) -> Tensor:
        """f and g (..., joint_hidden), already through `enc` and `pred` -> logits (..., V + 1 + durations)."""
        return self.joint_net(f + g)


class FeatureBuffers(nn.Module):
    """The filterbank and window that the checkpoint carries; kept as they are."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.register_buffer("window", torch.zeros(WINDOW))
        self.register_buffer("fb", torch.zeros(1, config.mels, FFT // 2 + 1))


class Preprocessor(nn.Module):
    """NeMo's `preprocessor`: holds the feature buffers; models.features computes with them."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.featurizer = FeatureBuffers(config)


class Model(nn.Module):
    """A whole checkpoint. The module tree is NeMo's, so that its state dict loads strictly, key by key."""

    def __init__(self, config: ModelConfig, dropout: float = 0.0) -> None:
        super().__init__()
        self.config = config
        self.preprocessor = Preprocessor(config)
        self.encoder = Encoder(config, dropout)
        if config.transducer:
            self.decoder: nn.Module = Decoder(config, dropout)
            self.joint = Joint(config)
        if config.ctc:
            setattr(self, self._ctc_name, CTCHead(config))
        if config.num_prompts:
            d = config.d_model
            self.prompt_kernel = nn.Sequential(nn.Linear(d + config.num_prompts, 2 * d), nn.ReLU(), nn.Linear(2 * d, d))

    @property
    def _ctc_name(self) -> str:
        return "ctc_decoder" if self.config.transducer else "decoder"

    @property
    def ctc(self) -> CTCHead:
        head = getattr(self, self._ctc_name)
        assert isinstance(head, CTCHead), "the model has no CTC head"
        return head

    def with_prompt(self, frames: Tensor, prompt: Tensor) -> Tensor:
        """Applies the language prompt (B,) to encoder frames (B, T, d); a model without prompts leaves them alone.

        It comes after the encoder, chunk by chunk: no cache depends on it.
        """
        if not self.config.num_prompts:
            return frames
        one_hot = F.one_hot(prompt, self.config.num_prompts).to(frames.dtype)
        spread = one_hot[:, None].expand(-1, frames.shape[1], -1)
        return self.prompt_kernel(torch.cat([frames, spread], dim=-1))

    def start(self, rows: int) -> tuple[Tensor, Tensor]:
        """h and c (layers, rows, hidden) of a predictor that has heard nothing."""
        shape = (self.config.predictor_layers, rows, self.config.predictor_hidden)
        device = self.joint.pred.weight.device
        return torch.zeros(shape, device=device), torch.zeros(shape, device=device)

    def predict(self, labels: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One label per row (B,): the predictor's output as the joint wants it (B, joint_hidden), and h, c."""
        y, h, c = self.decoder.prediction(labels[None], h, c)
        return self.joint.pred(y[0]), h, c
