"""NeMo checkpoints: .nemo in and out, without NeMo. Owns what a checkpoint means as a whole.

`load` gives a model that computes what NeMo would, or an error that names what stands in the way.
"""

from __future__ import annotations

import dataclasses
import io
import tarfile
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from models.config import ConfigError, ModelConfig
from models.nemo_archive import CONFIG, WEIGHTS, ModelFileError, NemoArchive
from models.nemo_config import Vocabulary, config_of, labels_of
from models.tokenizer import Tokenizer, TokenizerError
from models.transducer import Model
from models.weights import WeightsError, model_of


def load(path: str | Path) -> tuple[Model, Tokenizer]:
    """The model in evaluation mode, float32, and its tokenizer; raises ModelFileError."""
    with NemoArchive(path) as archive:
        config, tokenizer = _describe(archive)
        tensors = archive.weights()
        if archive.config()["encoder"].get("untie_biases", True) is False:
            _check_tied(tensors, archive.where)
        try:
            return model_of(config, tensors, archive.where), tokenizer
        except WeightsError as error:
            raise ModelFileError(str(error)) from error


def _check_tied(tensors: dict[str, Tensor], where: str) -> None:
    """With untied biases off NeMo has one pair for all layers, stored once a layer; it would keep only the last."""
    for side in ("pos_bias_u", "pos_bias_v"):
        biases = [value for name, value in tensors.items() if name.endswith(f".self_attn.{side}")]
        if any(not torch.equal(biases[0], bias) for bias in biases[1:]):
            raise ModelFileError(f"{where}: encoder.untie_biases=False: expected the same {side} in every layer")


def read_config(path: str | Path) -> ModelConfig:
    """What the checkpoint says about itself; its weights are not read."""
    with NemoArchive(path) as archive:
        return _describe(archive)[0]


def _describe(archive: NemoArchive) -> tuple[ModelConfig, Tokenizer]:
    nemo = archive.config()
    try:
        tokenizer = _tokenizer(archive, nemo)
        config = config_of(nemo, Vocabulary(tokenizer.pieces, tokenizer.kind), archive.path.stem)
    except (ConfigError, TokenizerError) as error:
        raise ModelFileError(f"{archive.where}: {error}") from error
    return config, tokenizer


def _tokenizer(archive: NemoArchive, nemo: dict[str, Any]) -> Tokenizer:
    labels = labels_of(nemo)
    if labels is not None:
        return Tokenizer.from_labels(labels)
    return Tokenizer.from_sentencepiece(archive.member(nemo["tokenizer"].get("model_path"), "tokenizer.model_path"))


_CLASSES = {
    # (kind, labels, prompts) -> the class that restores it
    ("rnnt", False, False): "EncDecRNNTBPEModel",
    ("tdt", False, False): "EncDecRNNTBPEModel",
    ("hybrid", False, False): "EncDecHybridRNNTCTCBPEModel",
    ("ctc", False, False): "EncDecCTCModelBPE",
    ("rnnt", True, False): "EncDecRNNTModel",
    ("tdt", True, False): "EncDecRNNTModel",
    ("hybrid", True, False): "EncDecHybridRNNTCTCModel",
    ("ctc", True, False): "EncDecCTCModel",
    ("rnnt", False, True): "EncDecRNNTBPEModelWithPrompt",
    ("hybrid", False, True): "EncDecHybridRNNTCTCBPEModelWithPrompt",
}
_MODULES = {
    "EncDecRNNTBPEModel": "rnnt_bpe_models",
    "EncDecHybridRNNTCTCBPEModel": "hybrid_rnnt_ctc_bpe_models",
    "EncDecCTCModelBPE": "ctc_bpe_models",
    "EncDecRNNTModel": "rnnt_models",
    "EncDecHybridRNNTCTCModel": "hybrid_rnnt_ctc_models",
    "EncDecCTCModel": "ctc_models",
    "EncDecRNNTBPEModelWithPrompt": "rnnt_bpe_models_prompt",
    "EncDecHybridRNNTCTCBPEModelWithPrompt": "hybrid_rnnt_ctc_bpe_models_prompt",
    "EncDecRNNTBPEEOUModel": "asr_eou_models",
}
_PARTS = "nemo.collections.asr.modules."


def save_nemo(model: Model, tokenizer: Tokenizer, path: str | Path) -> None:
    """Writes an archive that NeMo restores and `load` reads back to the same model."""
    buffer = io.BytesIO()
    torch.save({name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}, buffer)
    described = yaml.safe_dump(nemo_config(model.config), allow_unicode=True, sort_keys=False)
    members = {CONFIG: described.encode(), WEIGHTS: buffer.getvalue()}
    if tokenizer.kind == "sentencepiece":
        members |= {"tokenizer.model": tokenizer.to_bytes(), "vocab.txt": b""}
    with tarfile.open(path, "w:") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(f"./{name}")
            info.size, info.mode = len(data), 0o644
            tar.addfile(info, io.BytesIO(data))


def nemo_config(config: ModelConfig) -> dict[str, Any]:
    """The configuration in NeMo's words, no more than it needs to restore the model."""
    labels = config.tokenizer == "labels"
    kind = (config.kind, labels, config.num_prompts > 0)
    if kind not in _CLASSES:
        raise ConfigError("kind", config.kind, "a model that NeMo has a class for, with these labels and prompts")
    # The class for end-of-utterance tokens has neither labels nor prompts; the others carry the tokens all the same.
    name = "EncDecRNNTBPEEOUModel" if config.eou_id is not None and kind == ("rnnt", False, False) else _CLASSES[kind]
    values: dict[str, Any] = {
        "target": f"nemo.collections.asr.models.{_MODULES[name]}.{name}",
        "sample_rate": config.sample_rate,
        "model_defaults": _defaults(config),
        "preprocessor": _preprocessor(config),
        "encoder": _encoder(config),
        "decoding": _decoding(config),
    }
    values |= _transducer_parts(config) if config.transducer else {"decoder": _ctc_part(config)}
    if config.durations:
        values["loss"] = {"loss_name": "tdt", "tdt_kwargs": {"durations": list(config.durations)}}
    if config.kind == "hybrid":
        greedy = {"strategy": "greedy", "greedy": {}}
        values["aux_ctc"] = {"ctc_loss_weight": 0.3, "decoder": _ctc_part(config), "decoding": greedy}
    if labels:
        values["labels"] = list(config.labels)
    else:
        where = {"model_path": "nemo:tokenizer.model", "vocab_path": "nemo:vocab.txt"}
        values["tokenizer"] = {"dir": "", "type": "bpe", **where}
    _check_readable(values, config)
    return values


def _check_readable(values: dict[str, Any], config: ModelConfig) -> None:
    """Refuse, by name, what would be read back as another model: what is written must be."""
    read = config_of(values, Vocabulary(config.labels, config.tokenizer), config.name)
    for field in dataclasses.fields(config):
        ours, theirs = getattr(config, field.name), getattr(read, field.name)
        if ours != theirs and field.name != "licence":  # which a .nemo file has no place for
            raise ConfigError(field.name, ours, f"{theirs!r}, as a .nemo file of this model would be read")


def _defaults(config: ModelConfig) -> dict[str, Any]:
    values: dict[str, Any] = {"enc_hidden": config.d_model}
    if config.transducer:
        values |= {"pred_hidden": config.predictor_hidden, "joint_hidden": config.joint_hidden}
    if config.num_prompts:
        prompts = {"num_prompts": config.num_prompts, "prompt_dictionary": dict(config.prompts)}
        values |= {"initialize_prompt_feature": True, **prompts}
    if config.durations:
        values |= {"tdt_durations": list(config.durations), "num_tdt_durations": len(config.durations)}
    return values


def _preprocessor(config: ModelConfig) -> dict[str, Any]:
    return {
        "_target_": _PARTS + "AudioToMelSpectrogramPreprocessor",
        "sample_rate": config.sample_rate,
        "normalize": "per_feature" if config.normalize == "per_feature" else "NA",
        "window_size": 0.025,
        "window_stride": 0.01,
        "window": "hann",
        "features": config.mels,
        "n_fft": 512,
        "dither": 1e-5,
        "pad_to": 0,
    }


def _encoder(config: ModelConfig) -> dict[str, Any]:
    if config.d_ff % config.d_model:
        raise ConfigError("d_ff", config.d_ff, f"a multiple of d_model={config.d_model}, as NeMo wants it")
    return {
        "_target_": _PARTS + "ConformerEncoder",
        "feat_in": config.mels,
        "feat_out": -1,
        "n_layers": config.layers,
        "d_model": config.d_model,
        "use_bias": config.use_bias,
        "subsampling": "dw_striding",
        "subsampling_factor": 8,
        "subsampling_conv_channels": config.sub_channels,
        "causal_downsampling": config.causal_subsampling,
        "ff_expansion_factor": config.d_ff // config.d_model,
        "self_attention_model": "rel_pos",
        "n_heads": config.heads,
        "att_context_size": [list(pair) for pair in config.contexts],
        "att_context_style": config.style,
        "xscaling": config.xscaling,
        "untie_biases": True,
        "conv_kernel_size": config.conv_kernel,
        "conv_norm_type": config.conv_norm,
        "conv_context_size": list(config.conv_context),
    }


def _decoding(config: ModelConfig) -> dict[str, Any]:
    values: dict[str, Any] = {"strategy": "greedy_batch" if config.transducer else "greedy"}
    values["greedy"] = {"max_symbols": config.max_symbols} if config.transducer else {}
    if config.durations:
        values |= {"model_type": "tdt", "durations": list(config.durations)}
    if config.strip_lang_tags:
        values["strip_lang_tags"] = True
    return values


def _transducer_parts(config: ModelConfig) -> dict[str, Any]:
    prednet = {"pred_hidden": config.predictor_hidden, "pred_rnn_layers": config.predictor_layers}
    net = {
        "joint_hidden": config.joint_hidden,
        "activation": config.joint_activation,
        "dropout": 0.2 if config.joint_dropout else 0.0,
    }
    joint: dict[str, Any] = {"_target_": _PARTS + "RNNTJoint", "jointnet": net}
    if config.durations:
        joint["num_extra_outputs"] = len(config.durations)
    return {"decoder": {"_target_": _PARTS + "RNNTDecoder", "prednet": prednet, "blank_as_pad": True}, "joint": joint}


def _ctc_part(config: ModelConfig) -> dict[str, Any]:
    sizes = {"feat_in": config.d_model, "num_classes": config.vocab_size, "vocabulary": list(config.labels)}
    return {"_target_": _PARTS + "ConvASRDecoder", **sizes}
