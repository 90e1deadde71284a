"""NeMo's options: what we would compute otherwise is refused by its name, what has no effect changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from models import nemo
from models.nemo_archive import WEIGHTS
from tests.models.nemo_files import archive, assert_refused, assert_same_model, config, packed, weights, with_config

REFUSED: list[tuple[str, str, object]] = [
    ("hybrid_bpe", "encoder.subsampling", "vggnet"),
    ("hybrid_bpe", "encoder.subsampling", "striding"),
    ("hybrid_bpe", "encoder.subsampling", "striding_conv1d"),
    ("hybrid_bpe", "encoder.subsampling", "stacking"),
    ("hybrid_bpe", "encoder.subsampling", "stacking_norm"),
    ("hybrid_bpe", "encoder.subsampling", ...),
    ("hybrid_bpe", "encoder.subsampling_factor", 4),
    ("hybrid_bpe", "encoder.subsampling_factor", ...),
    ("hybrid_bpe", "encoder.self_attention_model", "abs_pos"),
    ("hybrid_bpe", "encoder.self_attention_model", "rel_pos_local_attn"),
    ("hybrid_bpe", "encoder.global_tokens", 1),
    ("hybrid_bpe", "encoder.reduction", "pooling"),
    ("hybrid_bpe", "encoder.conv_norm_type", "group_norm4"),
    ("hybrid_bpe", "encoder.conv_norm_type", "instance_norm"),
    ("hybrid_bpe", "encoder.att_context_style", "chunked_limited_with_rc"),
    ("hybrid_bpe", "encoder.att_chunk_context_size", [[1], [2]]),
    ("hybrid_bpe", "encoder.conv_context_style", "dcc"),
    ("hybrid_bpe", "encoder.att_context_size", [14]),
    ("hybrid_bpe", "encoder.att_context_size", [[14, "6"]]),
    ("hybrid_bpe", "encoder.conv_context_size", [3, 3]),
    ("hybrid_bpe", "encoder.conv_context_size", "dcc"),
    ("hybrid_bpe", "encoder.conv_kernel_size", 10),
    ("hybrid_bpe", "encoder.d_model", 33),
    ("hybrid_bpe", "encoder.feat_out", 64),
    ("hybrid_bpe", "encoder.feat_in", 64),
    ("hybrid_bpe", "encoder.n_layers", 0),
    ("hybrid_bpe", "encoder.d_model", "32"),
    ("hybrid_bpe", "encoder.n_heads", 0),
    ("hybrid_bpe", "encoder.xscaling", "no"),
    ("hybrid_bpe", "encoder.use_bias", None),
    ("hybrid_bpe", "encoder._target_", "nemo.collections.asr.modules.SqueezeformerEncoder"),
    ("hybrid_bpe", "encoder._target_", "nemo.collections.asr.modules.ConformerEncoderAdapter"),
    ("hybrid_bpe", "encoder.adapters", {"a": 1}),
    ("hybrid_bpe", "encoder.rotary", True),
    ("hybrid_bpe", "preprocessor._target_", "nemo.collections.asr.modules.AudioToMFCCPreprocessor"),
    ("hybrid_bpe", "preprocessor.sample_rate", 8000),
    ("hybrid_bpe", "preprocessor.window_size", 0.02),
    ("hybrid_bpe", "preprocessor.window_size", ...),
    ("hybrid_bpe", "preprocessor.window_size", None),
    ("hybrid_bpe", "preprocessor.window_stride", 0.0125),
    ("hybrid_bpe", "preprocessor.n_window_size", 320),
    ("hybrid_bpe", "preprocessor.n_fft", 1024),
    ("hybrid_bpe", "preprocessor.preemph", 0.0),
    ("hybrid_bpe", "preprocessor.preemph", None),
    ("hybrid_bpe", "preprocessor.log", False),
    ("hybrid_bpe", "preprocessor.log_zero_guard_type", "clamp"),
    ("hybrid_bpe", "preprocessor.log_zero_guard_value", 1e-5),
    ("hybrid_bpe", "preprocessor.mag_power", 1.0),
    ("hybrid_bpe", "preprocessor.exact_pad", True),
    ("hybrid_bpe", "preprocessor.frame_splicing", 3),
    ("hybrid_bpe", "preprocessor.pad_value", -16.0),
    ("hybrid_bpe", "preprocessor.use_torchaudio", True),
    ("hybrid_bpe", "preprocessor.normalize", "all_features"),
    ("hybrid_bpe", "preprocessor.normalize", {"fixed_mean": [0.0], "fixed_std": [1.0]}),
    ("hybrid_bpe", "preprocessor.whitening", True),
    ("hybrid_bpe", "decoder._target_", "nemo.collections.asr.modules.StatelessTransducerDecoder"),
    ("hybrid_bpe", "decoder.normalization_mode", "layer"),
    ("hybrid_bpe", "decoder.normalization_mode", "batch"),
    ("hybrid_bpe", "decoder.blank_as_pad", False),
    ("hybrid_bpe", "decoder.vocab_size", 63),
    ("hybrid_bpe", "decoder.context_size", 2),
    ("hybrid_bpe", "decoder.prednet.rnn_hidden_size", 64),
    ("hybrid_bpe", "decoder.prednet.pred_rnn_layers", 0),
    ("hybrid_bpe", "decoder.prednet.pred_rnn_layers", 3),
    ("hybrid_bpe", "decoder.prednet.zoneout", 0.1),
    ("hybrid_bpe", "joint._target_", "nemo.collections.asr.modules.HATJoint"),
    ("hybrid_bpe", "joint.num_classes", 63),
    ("hybrid_bpe", "joint.num_extra_outputs", 2),
    ("hybrid_bpe", "joint.temperature", 2.0),
    ("hybrid_bpe", "joint.jointnet.activation", "gelu"),
    ("hybrid_bpe", "joint.jointnet.activation", ...),
    ("hybrid_bpe", "joint.jointnet.dropout", "no"),
    ("hybrid_bpe", "joint.jointnet.pred_hidden", 64),
    ("hybrid_bpe", "joint.jointnet.layers", 2),
    ("hybrid_bpe", "decoding.strategy", "maes"),
    ("hybrid_bpe", "decoding.model_type", "multiblank"),
    ("hybrid_bpe", "decoding.big_blank_durations", [2, 4]),
    ("hybrid_bpe", "decoding.greedy.ngram_lm_model", "lm.nemo"),
    ("hybrid_bpe", "decoding.greedy.boosting_tree", {"key_phrases_list": ["nemo"]}),
    ("hybrid_bpe", "decoding.greedy.max_symbols", "10"),
    ("hybrid_bpe", "decoding.greedy.max_symbols", 1001),
    ("hybrid_bpe", "aux_ctc.decoder._target_", "nemo.collections.asr.modules.LSTMDecoder"),
    ("hybrid_bpe", "aux_ctc.decoder.num_classes", 2),
    ("hybrid_bpe", "aux_ctc.decoder.add_blank", False),
    ("hybrid_bpe", "aux_ctc.decoding.strategy", "flashlight"),
    ("hybrid_bpe", "tokenizer.type", "wpe"),
    ("hybrid_bpe", "tokenizer.type", "agg"),
    ("hybrid_bpe", "sample_rate", 8000),
    ("hybrid_bpe", "target", "nemo.collections.asr.models.aed_multitask_models.EncDecMultiTaskModel"),
    ("hybrid_bpe", "adapters", {"en": {"in_features": 32}}),
    ("hybrid_bpe", "multisoftmax", True),
    ("tdt_bpe", "decoding.durations", []),
    ("tdt_bpe", "decoding.durations", [0, -1]),
    ("tdt_bpe", "decoding.model_type", "rnnt"),
    ("tdt_bpe", "joint.num_extra_outputs", 4),
    ("tdt_bpe", "aux_ctc", "ctc"),
    ("ctc_bpe", "decoder.add_blank", False),
    ("ctc_bpe", "decoder.num_classes", 11),
    ("ctc_bpe", "decoder.dilation", 2),
    ("ctc_bpe", "decoding.strategy", "beam"),
    ("rnnt_char", "labels", [1, 2]),
    ("prompt_rnnt", "model_defaults.prompt_dictionary", ...),
    ("prompt_rnnt", "model_defaults.prompt_dictionary", {"en": "0"}),
    ("prompt_rnnt", "model_defaults.num_prompts", 0),
    ("prompt_rnnt", "decoding.lang_tag_pattern", "<.*>"),
    ("hybrid_bpe", "preprocessor", ...),
    ("hybrid_bpe", "encoder", ...),
    ("hybrid_bpe", "decoder", ...),
    ("hybrid_bpe", "joint", ...),
    ("hybrid_bpe", "decoder.prednet", ...),
    ("hybrid_bpe", "joint.jointnet", ...),
]


def put(values: dict[str, Any], option: str, value: object) -> None:
    """Sets a dotted option; ... takes it away."""
    *path, key = option.split(".")
    for section in path:
        values = values.setdefault(section, {})
    if value is ...:
        values.pop(key)
    else:
        values[key] = value


@pytest.mark.parametrize(("name", "option", "value"), REFUSED)
def test_an_unsupported_option_is_refused_by_name(name: str, option: str, value: object, tmp_path: Path) -> None:
    values = config(name)
    put(values, option, value)
    assert_refused(archive(tmp_path / "m.nemo", with_config(name, values)), option, "expected")


@pytest.mark.parametrize("contexts", [[[14, 13], [14, 5]], [7, 1]])
def test_a_left_context_that_is_no_multiple_of_the_chunk_is_refused(contexts: list, tmp_path: Path) -> None:
    values = config("hybrid_bpe")
    values["encoder"]["att_context_size"] = contexts
    assert_refused(
        archive(tmp_path / "m.nemo", with_config("hybrid_bpe", values)), "encoder.att_context_size=", "a multiple of"
    )


IGNORED: list[tuple[str, object]] = [
    ("encoder.dropout", 0.5),
    ("encoder.dropout_att", 0.5),
    ("encoder.stochastic_depth_drop_prob", 0.3),
    ("encoder.att_context_probs", [0.1, 0.2, 0.3, 0.4]),
    ("encoder.use_pytorch_sdpa", True),
    ("encoder.use_pytorch_sdpa_backends", ["MATH"]),
    ("encoder.sync_max_audio_length", False),
    ("encoder.pos_emb_max_len", 100),
    ("encoder.subsampling_conv_chunking_factor", 2),
    ("encoder.reduction_factor", 4),
    ("preprocessor.dither", 0.1),
    ("preprocessor.pad_to", 16),
    ("preprocessor.normalize", None),
    ("preprocessor.n_fft", None),
    ("preprocessor.highfreq", 7600),
    ("joint.fuse_loss_wer", False),
    ("joint.log_softmax", True),
    ("joint._target_", "nemo.collections.asr.modules.SampledRNNTJoint"),
    ("decoder.random_state_sampling", True),
    ("decoder.prednet.t_max", 100),
    ("decoder.prednet.rnn_hidden_size", -1),
    ("decoding.beam.beam_size", 8),
    ("decoding.compute_timestamps", True),
    ("decoding.greedy.boosting_tree", {"model_path": None, "context_score": 1.0}),
    ("decoding.greedy.loop_labels", False),
    ("spec_augment", ...),
    ("optim", ...),
    ("loss", ...),
    ("interctc", ...),
    ("labels", ...),
    ("nemo_version", ...),
    ("sample_rate", ...),
    ("target", ...),
    ("joint.vocabulary", ...),
    ("train_ds", {"manifest_filepath": "x"}),
]


@pytest.mark.parametrize(("option", "value"), IGNORED)
def test_an_option_without_effect_changes_nothing(option: str, value: object, tmp_path: Path) -> None:
    values = config("hybrid_bpe")
    put(values, option, value)
    assert_same_model(archive(tmp_path / "m.nemo", with_config("hybrid_bpe", values)), "hybrid_bpe")


def test_tied_biases_are_read_where_all_layers_agree(tmp_path: Path) -> None:
    values = config("hybrid_bpe")
    values["encoder"]["untie_biases"] = False
    files = with_config("hybrid_bpe", values)
    assert_refused(archive(tmp_path / "m.nemo", files), "encoder.untie_biases", "expected the same pos_bias_u")
    tied = weights("hybrid_bpe")
    for name in tied:
        if ".pos_bias_" in name:
            tied[name] = tied["encoder.layers.0." + name.split(".", 3)[3]]
    model, _ = nemo.load(archive(tmp_path / "tied.nemo", files | {WEIGHTS: packed(tied)}))
    assert torch.equal(model.encoder.layers[2].self_attn.pos_bias_v, tied["encoder.layers.0.self_attn.pos_bias_v"])


@pytest.mark.parametrize(
    "greedy",
    [
        {"max_symbols": 5},
        {"max_symbols_per_step": 5},
        {"max_symbols": None, "max_symbols_per_step": 5},
        {"max_symbols": 5, "max_symbols_per_step": 7},
    ],
)
def test_max_symbols_goes_by_either_name(greedy: dict[str, object], tmp_path: Path) -> None:
    values = config("rnnt_char")
    values["decoding"]["greedy"] = greedy
    assert nemo.load(archive(tmp_path / "m.nemo", with_config("rnnt_char", values)))[0].config.max_symbols == 5


def test_a_file_that_limits_no_frame_gets_the_limit_of_nemos_graphs(tmp_path: Path) -> None:
    values = config("rnnt_char")
    values["decoding"]["greedy"] = {"max_symbols": None}
    assert nemo.load(archive(tmp_path / "m.nemo", with_config("rnnt_char", values)))[0].config.max_symbols == 10
