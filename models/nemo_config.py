"""NeMo's model_config.yaml into a ModelConfig, by the tables of models.nemo_options. Knows no tensors or archives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from models.config import ConfigError, ModelConfig
from models.nemo_options import (
    CTC_HEAD,
    ENCODER,
    JOINT,
    JOINTNET,
    PREDICTOR,
    PREDNET,
    PREPROCESSOR,
    check_decoding,
    checked,
    refuse,
)

# Class -> has a language prompt. A file without `target` is told apart by its sections.
TARGETS = {
    "EncDecRNNTModel": False,
    "EncDecRNNTBPEModel": False,
    "EncDecCTCModel": False,
    "EncDecCTCModelBPE": False,
    "EncDecHybridRNNTCTCModel": False,
    "EncDecHybridRNNTCTCBPEModel": False,
    "EncDecRNNTBPEModelWithPrompt": True,
    "EncDecHybridRNNTCTCBPEModelWithPrompt": True,
    "EncDecRNNTBPEEOUModel": False,
    "EncDecHybridRNNTCTCBPEEOUModel": False,
}
EOU, EOB = "<EOU>", "<EOB>"
MAX_SYMBOLS, DEFAULT_SYMBOLS = 1000, 10  # tokens on one frame; NeMo GreedyBatchedRNNTInferConfig
OPTIONS = {  # ModelConfig's key -> the option that it comes from
    "mels": "preprocessor.features",
    "normalize": "preprocessor.normalize",
    "d_model": "encoder.d_model",
    "layers": "encoder.n_layers",
    "heads": "encoder.n_heads",
    "d_ff": "encoder.ff_expansion_factor",
    "sub_channels": "encoder.subsampling_conv_channels",
    "contexts": "encoder.att_context_size",
    "style": "encoder.att_context_style",
    "conv_norm": "encoder.conv_norm_type",
    "conv_kernel": "encoder.conv_kernel_size",
    "conv_context": "encoder.conv_context_size",
    "predictor_hidden": "decoder.prednet.pred_hidden",
    "predictor_layers": "decoder.prednet.pred_rnn_layers",
    "joint_hidden": "joint.jointnet.joint_hidden",
    "joint_activation": "joint.jointnet.activation",
    "durations": "decoding.durations",
    "max_symbols": "decoding.greedy.max_symbols",
    "num_prompts": "model_defaults.num_prompts",
    "prompts": "model_defaults.prompt_dictionary",
}


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The pieces by id and where they come from: "sentencepiece" or "labels"."""

    pieces: tuple[str, ...]
    kind: str


def labels_of(nemo: dict[str, Any]) -> tuple[str, ...] | None:
    """The alphabet of a character model; None where a tokenizer model has to be read."""
    tokenizer = nemo.get("tokenizer")
    if tokenizer is not None:
        if not isinstance(tokenizer, dict):
            raise refuse("tokenizer", tokenizer, "a mapping of options")
        kind = tokenizer.get("type", "bpe")
        if kind != "bpe":
            raise refuse("tokenizer.type", kind, "bpe (a SentencePiece model)")
        return None
    labels = nemo.get("labels")
    for section in ("joint", "decoder"):
        given = nemo.get(section)
        labels = labels or (given.get("vocabulary") if isinstance(given, dict) else None)
    if not isinstance(labels, list) or not labels or not all(isinstance(label, str) and label for label in labels):
        raise refuse("labels", labels, "a tokenizer section, or a list of labels")
    return tuple(labels)


def config_of(nemo: dict[str, Any], vocabulary: Vocabulary, name: str) -> ModelConfig:
    """Raises ConfigError, naming the option, for anything that we would not compute as NeMo does."""
    for key in ("adapters", "multisoftmax"):
        if nemo.get(key):
            raise refuse(key, nemo[key], "nothing (not supported)")
    sample_rate = nemo.get("sample_rate", 16000)
    if sample_rate != 16000:
        raise refuse("sample_rate", sample_rate, "16000")
    pieces = vocabulary.pieces
    values: dict[str, Any] = {
        "name": name,
        "vocab_size": len(pieces),
        "labels": pieces,
        "tokenizer": vocabulary.kind,
        "eou_id": pieces.index(EOU) if EOU in pieces else None,
        "eob_id": pieces.index(EOB) if EOB in pieces else None,
    }
    values |= _preprocessor(nemo) | _encoder(nemo) | _heads(nemo, len(pieces)) | _prompts(nemo)
    if values.pop("feat_in") != values["mels"]:
        raise refuse("encoder.feat_in", nemo["encoder"]["feat_in"], f"preprocessor.features={values['mels']}")
    try:
        return ModelConfig.from_dict(values)
    except ConfigError as error:  # the reader of the message has a .nemo file, not our names
        raise ConfigError(_option_of(error.where, nemo), error.got, error.expected) from error


def _option_of(key: str, nemo: dict[str, Any]) -> str:
    """What the .nemo file calls the option behind one of ModelConfig's keys."""
    if key in ("vocab_size", "labels"):
        return "tokenizer" if nemo.get("tokenizer") is not None else "labels"
    return OPTIONS.get(key, key)


def _preprocessor(nemo: dict[str, Any]) -> dict[str, Any]:
    given = checked("preprocessor", nemo.get("preprocessor"), PREPROCESSOR)
    for seconds, samples, right in (("window_size", "n_window_size", 400), ("window_stride", "n_window_stride", 160)):
        if given[seconds] is None and given.get(samples) is None:
            raise refuse(f"preprocessor.{seconds}", None, f"{right / 16000} s")
    normalize = given["normalize"]
    if normalize == "all_features" or isinstance(normalize, dict):
        raise refuse("preprocessor.normalize", normalize, "per_feature, or none (NA)")
    mels = _whole("preprocessor.features", given["features"])
    return {"mels": mels, "normalize": "per_feature" if normalize == "per_feature" else "none"}


def _encoder(nemo: dict[str, Any]) -> dict[str, Any]:
    given = checked("encoder", nemo.get("encoder"), ENCODER)
    width = _whole("encoder.d_model", given.get("d_model"))
    if given["feat_out"] not in (None, -1, 0, width):
        raise refuse("encoder.feat_out", given["feat_out"], f"-1 or d_model={width}")
    channels = given["subsampling_conv_channels"]
    for key in ("use_bias", "xscaling", "causal_downsampling"):
        if not isinstance(given[key], bool):
            raise refuse(f"encoder.{key}", given[key], "true or false")
    kernel = _whole("encoder.conv_kernel_size", given["conv_kernel_size"])
    return {
        "feat_in": _whole("encoder.feat_in", given.get("feat_in")),
        "d_model": width,
        "layers": _whole("encoder.n_layers", given.get("n_layers")),
        "heads": _whole("encoder.n_heads", given["n_heads"]),
        "d_ff": width * _whole("encoder.ff_expansion_factor", given["ff_expansion_factor"]),
        "use_bias": given["use_bias"],
        "xscaling": given["xscaling"],
        "causal_subsampling": given["causal_downsampling"],
        "sub_channels": width if channels == -1 else _whole("encoder.subsampling_conv_channels", channels),
        "style": given["att_context_style"],
        "contexts": _contexts(given["att_context_size"]),
        "conv_norm": given["conv_norm_type"],
        "conv_kernel": kernel,
        "conv_context": _conv_context(given["conv_context_size"], kernel),
    }


def _contexts(given: Any) -> list[list[int]]:
    """One [left, right] or a list of them, the first being the default; nothing means unlimited."""
    if given is None:
        return [[-1, -1]]
    if _is_pair(given):
        return [given]
    if isinstance(given, list) and 0 < len(given) <= 64 and all(_is_pair(pair) for pair in given):
        return given
    raise refuse("encoder.att_context_size", given, "[left, right] or a list of such pairs")


def _is_pair(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(_is_int(v) for v in value)


def _conv_context(given: object, kernel: int) -> list[int]:
    if given == "causal":
        return [kernel - 1, 0]
    if given is None:
        return [(kernel - 1) // 2, (kernel - 1) // 2]
    if _is_pair(given) and isinstance(given, list) and min(given) >= 0 and sum(given) == kernel - 1:
        return given
    raise refuse("encoder.conv_context_size", given, f"causal, nothing, or [left, right] with the sum {kernel - 1}")


def _heads(nemo: dict[str, Any], pieces: int) -> dict[str, Any]:
    """Kind of model and the numbers of its heads, told by the sections there are."""
    target = str(nemo.get("target") or "").rsplit(".", 1)[-1]
    if target and target not in TARGETS:
        raise refuse("target", target, "one of " + ", ".join(TARGETS))
    decoder = nemo.get("decoder")
    if not isinstance(decoder, dict):
        raise refuse("decoder", decoder, "a mapping of options")
    decoding = check_decoding("decoding", nemo.get("decoding"))
    if str(decoder.get("_target_")).endswith("ConvASRDecoder"):
        _ctc_head("decoder", decoder, pieces)
        return {"kind": "ctc"}
    values = _transducer(nemo, pieces) | _search(nemo, decoding)
    values["kind"] = "tdt" if values["durations"] else "rnnt"
    if nemo.get("aux_ctc") is not None:
        values["kind"] = _hybrid(nemo["aux_ctc"], pieces)
    return values


def _transducer(nemo: dict[str, Any], pieces: int) -> dict[str, Any]:
    predictor = checked("decoder", nemo["decoder"], PREDICTOR)
    prednet = checked("decoder.prednet", predictor.get("prednet"), PREDNET)
    joint = checked("joint", nemo.get("joint"), JOINT)
    net = checked("joint.jointnet", joint.get("jointnet"), JOINTNET)
    _same_size("decoder.vocab_size", predictor["vocab_size"], pieces)
    _same_size("joint.num_classes", joint["num_classes"], pieces)
    dropout = net["dropout"]
    if not isinstance(dropout, (int, float)) or not 0 <= dropout < 1:
        raise refuse("joint.jointnet.dropout", dropout, "0 to 1")
    hidden = _whole("decoder.prednet.pred_hidden", prednet.get("pred_hidden"))
    if net["pred_hidden"] not in (None, hidden):
        raise refuse("joint.jointnet.pred_hidden", net["pred_hidden"], f"decoder.prednet.pred_hidden={hidden}")
    return {
        "predictor_hidden": hidden,
        "predictor_layers": _whole("decoder.prednet.pred_rnn_layers", prednet["pred_rnn_layers"]),
        "joint_hidden": _whole("joint.jointnet.joint_hidden", net.get("joint_hidden")),
        "joint_activation": net["activation"] if "activation" in net else _no_activation(),
        "joint_dropout": dropout > 0,
    }


def _no_activation() -> str:
    raise refuse("joint.jointnet.activation", None, "relu, tanh or sigmoid")


def _search(nemo: dict[str, Any], decoding: dict[str, Any]) -> dict[str, Any]:
    """Durations, symbols per frame, and whether language tags are hidden."""
    durations = decoding.get("durations") or []
    extra = nemo["joint"].get("num_extra_outputs", 0)
    if not isinstance(durations, list) or not all(_is_int(d) and d >= 0 for d in durations):
        raise refuse("decoding.durations", durations, "a list of frames")
    if (decoding.get("model_type") == "tdt") != bool(durations):
        raise refuse("decoding.model_type", decoding.get("model_type"), "tdt with decoding.durations, rnnt without")
    if extra != len(durations):
        raise refuse("joint.num_extra_outputs", extra, f"as many as decoding.durations={durations}")
    most = _most_symbols(decoding)
    hide = decoding.get("strip_lang_tags") or False
    if not isinstance(hide, bool):
        raise refuse("decoding.strip_lang_tags", hide, "true or false")
    return {"durations": durations, "max_symbols": most, "strip_lang_tags": hide}


def _most_symbols(decoding: dict[str, Any]) -> int:
    """Tokens that one frame may have. Without a limit: the 10 of NeMo's CUDA graphs (docs/decisions.md)."""
    greedy = decoding.get("greedy")
    if not isinstance(greedy, dict):
        return DEFAULT_SYMBOLS
    most = greedy.get("max_symbols") or greedy.get("max_symbols_per_step")  # NeMo rnnt_decoding.py:418
    if most is None:
        return DEFAULT_SYMBOLS
    if not _is_int(most) or not 1 <= most <= MAX_SYMBOLS:
        raise refuse("decoding.greedy.max_symbols", most, f"1 to {MAX_SYMBOLS}, here or in max_symbols_per_step")
    return int(most)


def _hybrid(aux: object, pieces: int) -> str:
    if not isinstance(aux, dict):
        raise refuse("aux_ctc", aux, "a mapping of options")
    _ctc_head("aux_ctc.decoder", aux.get("decoder"), pieces)
    check_decoding("aux_ctc.decoding", aux.get("decoding"))
    return "hybrid"


def _ctc_head(where: str, given: object, pieces: int) -> None:
    head = checked(where, given, CTC_HEAD)
    _same_size(f"{where}.num_classes", head["num_classes"], pieces)


def _prompts(nemo: dict[str, Any]) -> dict[str, Any]:
    defaults = nemo.get("model_defaults") or {}
    if not isinstance(defaults, dict):
        raise refuse("model_defaults", defaults, "a mapping of options")
    target = str(nemo.get("target") or "").rsplit(".", 1)[-1]
    if not TARGETS.get(target, bool(defaults.get("initialize_prompt_feature"))):
        return {}
    if not defaults.get("initialize_prompt_feature", True):
        return {}
    table = defaults.get("prompt_dictionary")
    good = isinstance(table, dict) and table and all(isinstance(k, str) and _is_int(v) for k, v in table.items())
    if not good:
        raise refuse("model_defaults.prompt_dictionary", table, "a mapping of languages to indices")
    assert isinstance(table, dict)
    count = _whole("model_defaults.num_prompts", defaults.get("num_prompts", 128))
    return {"num_prompts": count, "prompts": list(table.items())}


def _same_size(where: str, given: object, pieces: int) -> None:
    """NeMo fills in -1 from the vocabulary."""
    if given not in (None, -1, pieces):
        raise refuse(where, given, f"the vocabulary's {pieces} pieces")


def _whole(where: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise refuse(where, value, "a whole number from 1")
    return value


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
