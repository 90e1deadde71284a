"""What a run starts from: a tokenizer, the model's numbers, and weights that are new or of another model.

Knows nothing of the loop. `init` is whatever `models.store.load` reads: a .nemo file or a model folder.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models import store
from models.config import ConfigError, ModelConfig
from models.features_np import filterbank, window
from models.tokenizer import Tokenizer
from models.training.data import Corpus
from models.training.objective import build, start_ctc
from models.training.settings import Settings
from models.transducer import Model

ENCODER = ("encoder.", "prompt_kernel.")  # what does not depend on the vocabulary
NEAR = 1e-5  # a filterbank written by another librosa differs by 1e-8


@dataclass(frozen=True, slots=True)
class Origin:
    """`init` is the model that weights come from, if any; `config` is the run's."""

    config: ModelConfig
    tokenizer: Tokenizer
    init: Model | None


def read(told: Settings) -> Origin:
    """Raises ConfigError for a loss that the model has no head for."""
    init, tokenizer = store.load(told.init) if told.init else (None, None)
    if told.tokenizer:
        tokenizer = Tokenizer.from_sentencepiece(Path(told.tokenizer).read_bytes())
    assert tokenizer is not None, "settings name a tokenizer or an init"
    numbers = init.config.to_dict() if init else {}
    spelled = {"vocab_size": len(tokenizer), "labels": list(tokenizer.pieces), "tokenizer": tokenizer.kind}
    if init and init.config.labels != tokenizer.pieces:
        spelled |= {"eou_id": None, "eob_id": None}
    config = ModelConfig.from_dict({**numbers, **(told.model or {}), **spelled})
    for stage in told.stages:
        if stage.fast_emit and config.durations:
            raise ConfigError(f"stages.{stage.name}.fast_emit", stage.fast_emit, "0 for a TDT model")
        for weight, head, kinds in (
            (stage.ctc_weight, config.ctc, "ctc_weight: 0"),
            (stage.rnnt_weight, config.transducer, "rnnt_weight: 0"),
            (stage.sentence_weight, config.transducer, "sentence_weight: 0"),
        ):
            if weight and not head:
                raise ConfigError(f"stages.{stage.name}", config.kind, f"{kinds}, for a model without such a head")
    if init is not None:
        _check_features(init, str(told.init))
    return Origin(config, tokenizer, init)


def _check_features(init: Model, where: str) -> None:
    for name, buffer, ours in (
        ("filterbank", init.preprocessor.featurizer.fb, filterbank(init.config.mels)[None]),
        ("window", init.preprocessor.featurizer.window, window()),
    ):
        if (most := float((buffer - torch.from_numpy(ours)).abs().max())) > NEAR:
            raise ValueError(f"init {where}: got a {name} that differs by {most:.1e}, expected that of our features")


def new_model(told: Settings, origin: Origin, corpus: Corpus, log: Callable[[str], None] = print) -> Model:
    """The model with its first weights, on the CPU: new ones fit this corpus."""
    torch.manual_seed(told.seed)
    config = origin.config
    model = Model(config, told.dropout)
    set_features(model)
    counts = corpus.label_counts(config.vocab_size)
    if origin.init is None:
        sample = np.concatenate([part[:: max(1, len(part) // 2000)] for part in corpus.parts]).astype(np.float32)
        build(model, float(sample.mean()), float(sample.std()), corpus.batch(corpus.balanced(8)), counts)
        return model
    start_ctc(model, counts)
    weights = model.state_dict()
    taken = _fitting(origin.init, model)
    model.load_state_dict(weights | taken)
    if new := sorted({name.split(".")[0] for name in weights if name not in taken}):
        log(f"init {told.init}: new weights for {', '.join(new)}: another vocabulary, or a head that it has not")
    return model


def _fitting(init: Model, model: Model) -> dict[str, Tensor]:
    """The tensors of `init` that go on: all of the encoder, and the heads if the vocabulary is the same."""
    same = init.config.labels == model.config.labels
    wanted, found = model.state_dict(), init.state_dict()
    if init.config.kind == "ctc" and model.config.transducer:
        found = {name.replace("decoder.", "ctc_decoder.", 1): value for name, value in found.items()}
    elif model.config.kind == "ctc" and init.config.transducer:
        found = {n.replace("ctc_decoder.", "decoder."): v for n, v in found.items() if not n.startswith("decoder.")}
    taken = {}
    for name, like in wanted.items():
        here = found.get(name)
        fits = here is not None and here.shape == like.shape
        if name.startswith(ENCODER) and not fits:
            got = "nothing" if here is None else str(tuple(here.shape))
            raise ValueError(f"init: {name}: got {got}, expected {tuple(like.shape)}, as `model` says")
        if here is not None and fits and (same or name.startswith((*ENCODER, "preprocessor."))):
            taken[name] = here
    return taken


def set_features(model: Model) -> None:
    """Gives the model the filterbank and window that its training features were made with."""
    model.preprocessor.featurizer.fb.copy_(torch.from_numpy(filterbank(model.config.mels))[None])
    model.preprocessor.featurizer.window.copy_(torch.from_numpy(window()))
