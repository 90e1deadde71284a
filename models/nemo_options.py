"""Every option a NeMo checkpoint's configuration may name: which we follow, which have no effect, which we refuse.

Tables only, and the one function that applies them. Defaults are NeMo's, for options a file leaves out.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from models.config import ConfigError

_SHORT = reprlib.Repr()
_SHORT.maxstring, _SHORT.maxother, _SHORT.maxlist, _SHORT.maxlevel = 80, 80, 6, 2


class _Shown(str):
    """A value shortened for a message; prints without further quotes."""

    def __repr__(self) -> str:
        return str(self)


def refuse(where: str, got: object, expected: str) -> ConfigError:
    """The error that names an option; long or nested values are shortened."""
    return ConfigError(where, _Shown(_SHORT.repr(got)), expected)


@dataclass(frozen=True, slots=True)
class Section:
    """One block of the configuration. `fixed` maps an option to the values it may have and how to say them."""

    followed: frozenset[str]
    inert: frozenset[str]
    fixed: Mapping[str, tuple[Callable[[Any], bool], str]]
    defaults: Mapping[str, Any] = field(default_factory=dict)


def checked(where: str, given: object, section: Section) -> dict[str, Any]:
    """The block with NeMo's defaults filled in; raises for the first option that we do not compute as NeMo does."""
    if not isinstance(given, dict):
        raise refuse(where, given, "a mapping of options")
    values = {**section.defaults, **given}
    for key, value in values.items():
        if key in section.fixed:
            good, expected = section.fixed[key]
            if not good(value):
                raise refuse(f"{where}.{key}", value, expected)
        elif key not in section.followed and key not in section.inert:
            raise refuse(f"{where}.{key}", value, "no such option (it is unknown, so its effect is too)")
    return values


def _only(*values: object) -> tuple[Callable[[Any], bool], str]:
    """Equal, and as true or false as Python says: 1 and True are one."""
    shown = " or ".join("nothing" if v is None else str(v) for v in values)
    return (lambda got: any(got == v for v in values)), shown


def _near(value: float) -> tuple[Callable[[Any], bool], str]:
    def good(got: Any) -> bool:
        return isinstance(got, (int, float)) and abs(got - value) <= 1e-9

    return good, f"{value:.12g}"


def _target(*names: str) -> tuple[Callable[[Any], bool], str]:
    return (lambda got: str(got).rsplit(".", 1)[-1] in names), " or ".join(names)


def _absent() -> tuple[Callable[[Any], bool], str]:
    return (lambda got: not got), "nothing (not supported)"


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


PREPROCESSOR = Section(
    followed=_names("features normalize"),
    # window, range and norm of the filterbank are in the stored `fb` and `window` buffers
    inert=_names("dither pad_to rng nb_augmentation_prob nb_max_freq lowfreq highfreq mel_norm window stft_conv"),
    fixed={
        "_target_": _target("AudioToMelSpectrogramPreprocessor"),
        "sample_rate": _only(16000),
        "window_size": _only(None, 0.025),
        "window_stride": _only(None, 0.01),
        "n_window_size": _only(None, 400),
        "n_window_stride": _only(None, 160),
        "n_fft": _only(None, 512),
        "preemph": _near(0.97),
        "log": _only(True),
        "log_zero_guard_type": _only("add"),
        "log_zero_guard_value": _near(2.0**-24),
        "frame_splicing": _only(1),
        "exact_pad": _only(False),
        "stft_exact_pad": _only(False),
        "pad_value": _near(0.0),
        "mag_power": _near(2.0),
        "use_torchaudio": _only(False),
    },
    defaults={"window_size": 0.02, "window_stride": 0.01, "normalize": "per_feature", "features": 64},
)

ENCODER = Section(
    followed=_names(
        "feat_in feat_out n_layers d_model use_bias causal_downsampling ff_expansion_factor n_heads att_context_size"
        " att_context_style xscaling conv_kernel_size conv_norm_type conv_context_size subsampling_conv_channels"
    ),
    inert=_names(
        "dropout dropout_pre_encoder dropout_emb dropout_att stochastic_depth_drop_prob stochastic_depth_mode"
        " stochastic_depth_start_layer att_context_probs pos_emb_max_len untie_biases use_pytorch_sdpa"
        " use_pytorch_sdpa_backends sync_max_audio_length subsampling_conv_chunking_factor reduction_position"
        " reduction_factor global_tokens_spacing global_attn_separate"
    ),
    fixed={
        "_target_": _target("ConformerEncoder"),
        "subsampling": _only("dw_striding"),
        "subsampling_factor": _only(8),
        "self_attention_model": _only("rel_pos"),
        "reduction": _absent(),
        "global_tokens": _only(0),
        "att_context_style": _only("chunked_limited", "regular"),
        "conv_norm_type": _only("layer_norm", "batch_norm"),
        "att_chunk_context_size": _absent(),
        "conv_context_style": _only(None, "regular"),
        "adapters": _absent(),
        "adapter": _absent(),
    },
    defaults={
        "feat_out": -1,
        "causal_downsampling": False,
        "subsampling": "striding",
        "subsampling_factor": 4,
        "subsampling_conv_channels": -1,
        "ff_expansion_factor": 4,
        "self_attention_model": "rel_pos",
        "n_heads": 4,
        "att_context_size": None,
        "att_context_style": "regular",
        "xscaling": True,
        "use_bias": True,
        "conv_kernel_size": 31,
        "conv_norm_type": "batch_norm",
        "conv_context_size": None,
    },
)

PREDICTOR = Section(
    followed=_names("prednet vocab_size"),
    inert=_names("random_state_sampling"),
    fixed={
        "_target_": _target("RNNTDecoder"),
        "normalization_mode": _only(None),
        "blank_as_pad": _only(True),
        "adapters": _absent(),
    },
    defaults={"normalization_mode": None, "blank_as_pad": True, "vocab_size": None},
)

PREDNET = Section(
    followed=_names("pred_hidden pred_rnn_layers"),
    # the rest seeds weights or is noise in training
    inert=_names("t_max dropout forget_gate_bias weights_init_scale hidden_hidden_bias_scale"),
    fixed={"rnn_hidden_size": _only(None, -1, 0)},
    defaults={"pred_rnn_layers": 1},
)

JOINT = Section(
    followed=_names("jointnet num_classes num_extra_outputs vocabulary"),
    # log_softmax moves scores, never an argmax; the rest is about training losses
    inert=_names(
        "log_softmax preserve_memory fuse_loss_wer fused_batch_size experimental_fuse_loss_wer masking_prob n_samples"
    ),
    fixed={"_target_": _target("RNNTJoint", "SampledRNNTJoint"), "adapters": _absent(), "multisoftmax": _absent()},
    defaults={"num_extra_outputs": 0, "num_classes": None, "vocabulary": None},
)

JOINTNET = Section(
    followed=_names("joint_hidden activation dropout encoder_hidden pred_hidden"),
    inert=frozenset(),
    fixed={"activation": _only("relu", "tanh", "sigmoid")},
    defaults={"dropout": 0.0, "encoder_hidden": None, "pred_hidden": None},
)

CTC_HEAD = Section(
    followed=_names("feat_in num_classes vocabulary"),
    inert=_names("init_mode"),
    fixed={
        "_target_": _target("ConvASRDecoder"),
        "add_blank": _only(True),
        "adapters": _absent(),
        "multisoftmax": _absent(),
    },
    defaults={"feat_in": None, "num_classes": None, "vocabulary": None},
)

GREEDY = _only("greedy", "greedy_batch", "greedy_batched")
_FUSION = ("ngram_lm_model", "boosting_tree", "fusion_models")  # each would change the tokens


def check_decoding(where: str, decoding: object) -> dict[str, Any]:
    """How NeMo would decode. What is not looked at (timestamps, confidence, unused beams) changes no token."""
    if decoding is None:
        return {}
    if not isinstance(decoding, dict):
        raise refuse(where, decoding, "a mapping of options")
    fixed = {
        "strategy": GREEDY,
        "model_type": _only(None, "rnnt", "tdt"),
        "big_blank_durations": _absent(),
        "lang_tag_pattern": _only(None, r"\s*<[a-z]{2}-[A-Z]{2}>"),
    }
    for key, (good, expected) in fixed.items():
        if key in decoding and not good(decoding[key]):
            raise refuse(f"{where}.{key}", decoding[key], expected)
    greedy = decoding.get("greedy") or {}
    if not isinstance(greedy, dict):
        raise refuse(f"{where}.greedy", greedy, "a mapping of options")
    for key in _FUSION:
        if _is_on(greedy.get(key)):
            raise refuse(f"{where}.greedy.{key}", greedy[key], "nothing (not supported)")
    return decoding


def _is_on(fusion: object) -> bool:
    """A boosting tree is a mapping that is always written; without phrases it does nothing."""
    if isinstance(fusion, dict):
        return any(fusion.get(k) for k in ("model_path", "key_phrases_file", "key_phrases_list", "boosting_model_path"))
    return bool(fusion)
