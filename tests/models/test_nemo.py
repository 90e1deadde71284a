"""NeMo checkpoints: read as NeMo reads them, written as NeMo wants them, tensors that do not fit named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from models import nemo
from models.config import ConfigError
from models.nemo_archive import WEIGHTS
from models.transcribe import stream
from models.transducer import Model
from models.weights import WeightsError, model_of
from tests.models import golden
from tests.models.nemo_files import archive, assert_refused, assert_same_model, config, members, over, packed, weights
from tests.models.tiny import tiny_config, tiny_model


@pytest.mark.parametrize("name", golden.MODELS)
def test_every_tensor_of_the_checkpoint_is_in_the_model(name: str) -> None:
    model, _ = golden.loaded(name)
    assert not model.training
    ours, theirs = model.state_dict(), weights(name)
    assert set(ours) == set(theirs)
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


@pytest.mark.parametrize("name", golden.MODELS)
def test_the_configuration_is_read_without_the_weights(name: str, tmp_path: Path) -> None:
    path = archive(tmp_path / f"{name}.nemo", {k: v for k, v in members(name).items() if k != WEIGHTS})
    assert nemo.read_config(path) == golden.loaded(name)[0].config
    assert_refused(path, f"no {WEIGHTS} inside")


def test_the_kinds_of_model_are_told_apart() -> None:
    kinds = {name: golden.loaded(name)[0].config.kind for name in golden.MODELS}
    assert kinds["hybrid_bpe"] == kinds["prompt_hybrid"] == "hybrid"
    assert (kinds["ctc_bpe"], kinds["tdt_bpe"], kinds["rnnt_char"]) == ("ctc", "tdt", "rnnt")


def test_end_of_utterance_tokens_are_found_by_name() -> None:
    eou = golden.loaded("eou_bpe")[0].config
    assert (eou.eou_id, eou.eob_id) == (62, 63)
    assert golden.loaded("rnnt_char")[0].config.eou_id is None


def test_the_prompts_of_a_language_model_are_read() -> None:
    prompt = golden.loaded("prompt_rnnt")[0].config
    assert prompt.num_prompts == 8
    assert dict(prompt.prompts)["auto"] == 5
    assert prompt.strip_lang_tags


def test_the_default_context_is_the_first_of_the_list() -> None:
    assert golden.loaded("hybrid_bpe")[0].config.contexts == ((14, 13), (14, 6), (14, 1), (14, 0))
    assert golden.loaded("rnnt_bpe_bn128")[0].config.contexts == ((12, 3),)


# Archives as third parties write them


VARIANTS: dict[str, Callable[[Path], Path]] = {
    "gzipped": lambda p: archive(p, members("hybrid_bpe"), "w:gz"),
    "members without ./": lambda p: archive(p, members("hybrid_bpe"), prefix=""),
    "another order": lambda p: archive(p, dict(reversed(members("hybrid_bpe").items())), "w:gz"),
    "legacy weights": lambda p: archive(
        p, members("hybrid_bpe") | {WEIGHTS: packed(dict(weights("hybrid_bpe")), _use_new_zipfile_serialization=False)}
    ),
    "a PAX header": lambda p: archive(p, members("hybrid_bpe") | {"x" * 200 + ".txt": b"notes"}),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_archive_may_be_written_in_other_ways(variant: str, tmp_path: Path) -> None:
    assert_same_model(VARIANTS[variant](tmp_path / "m.nemo"), "hybrid_bpe")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_size_weights_become_float32(dtype: torch.dtype, tmp_path: Path) -> None:
    half = {k: v.to(dtype) for k, v in weights("hybrid_bpe").items()}
    model, _ = nemo.load(archive(tmp_path / "m.nemo", members("hybrid_bpe") | {WEIGHTS: packed(half)}))
    assert {value.dtype for value in model.state_dict().values()} == {torch.float32}


def test_training_counters_may_be_absent(tmp_path: Path) -> None:
    kept = {k: v for k, v in weights("rnnt_bpe_bn128").items() if "num_batches_tracked" not in k}
    model, _ = nemo.load(archive(tmp_path / "m.nemo", members("rnnt_bpe_bn128") | {WEIGHTS: packed(kept)}))
    pcm = golden.clip("short")
    assert stream(model, pcm).tokens == stream(golden.loaded("rnnt_bpe_bn128")[0], pcm).tokens


def test_the_stored_filterbank_and_window_are_used(tmp_path: Path) -> None:
    changed = weights("hybrid_bpe")
    changed["preprocessor.featurizer.fb"] = changed["preprocessor.featurizer.fb"].flip(1)
    model, _ = nemo.load(archive(tmp_path / "m.nemo", members("hybrid_bpe") | {WEIGHTS: packed(changed)}))
    pcm = golden.clip("short")
    assert not torch.allclose(stream(model, pcm).frames, stream(golden.loaded("hybrid_bpe")[0], pcm).frames, atol=0.1)


# Writing


@pytest.mark.parametrize("name", golden.MODELS)
def test_a_written_checkpoint_reads_back_as_the_same_model(name: str, tmp_path: Path) -> None:
    nemo.save_nemo(*golden.loaded(name), tmp_path / "m.nemo")
    assert_same_model(tmp_path / "m.nemo", name)


@pytest.mark.parametrize("name", golden.MODELS)
def test_a_written_configuration_has_what_nemo_needs(name: str) -> None:
    ours, theirs = nemo.nemo_config(golden.loaded(name)[0].config), config(name)
    assert ours["target"] == theirs["target"]
    for section in ("preprocessor", "encoder", "decoder", "joint"):
        assert ours.get(section, {}).get("_target_") == theirs.get(section, {}).get("_target_")
    assert {"target", "model_defaults", "preprocessor", "encoder", "decoder", "decoding"} <= set(ours)
    assert ours.get("tokenizer", {}).get("vocab_path", "").startswith("nemo:") == ("tokenizer" in theirs)


def test_a_tdt_model_with_a_ctc_head_says_what_the_same_tdt_model_says(tmp_path: Path) -> None:
    model, tokenizer = golden.loaded("tdt_bpe")
    hybrid = Model(replace(model.config, kind="hybrid")).eval()
    hybrid.load_state_dict(hybrid.state_dict() | model.state_dict())
    nemo.save_nemo(hybrid, tokenizer, tmp_path / "m.nemo")
    read, _ = nemo.load(tmp_path / "m.nemo")
    assert (read.config.kind, read.config.durations) == ("hybrid", model.config.durations)
    pcm = golden.clip("speech")
    assert stream(read, pcm).tokens == stream(model, pcm).tokens
    with torch.no_grad():
        assert read.ctc(torch.zeros(1, 2, read.config.d_model)).exp().sum(-1).allclose(torch.ones(1, 2))


def test_a_model_that_nemo_has_no_class_for_is_not_written(tmp_path: Path) -> None:
    model = tiny_model(num_prompts=2, prompts=(("en", 0),))
    with pytest.raises(ValueError, match="a model that NeMo has a class for"):
        nemo.save_nemo(model, golden.loaded("rnnt_char")[1], tmp_path / "m.nemo")
    with pytest.raises(ValueError, match="a multiple of d_model"):
        nemo.nemo_config(tiny_config(d_ff=40))


def test_a_model_with_prompts_and_end_of_utterance_tokens_is_read_back(tmp_path: Path) -> None:
    eou, tokenizer = golden.loaded("eou_bpe")
    config = replace(eou.config, num_prompts=3, prompts=(("en", 0), ("auto", 2)))
    model = Model(config).eval()
    model.load_state_dict(model.state_dict() | eou.state_dict())
    nemo.save_nemo(model, tokenizer, tmp_path / "m.nemo")
    read, _ = nemo.load(tmp_path / "m.nemo")
    assert replace(read.config, name=config.name) == config
    assert (read.config.eou_id, read.config.num_prompts) == (62, 3)


def test_what_would_be_read_back_as_another_model_is_refused_by_name() -> None:
    config = golden.loaded("hybrid_bpe")[0].config
    with pytest.raises(ConfigError, match=r"^eou_id=5: expected None, as a \.nemo file of this model would be read$"):
        nemo.nemo_config(replace(config, eou_id=5))
    with pytest.raises(ConfigError, match=r"^decoding\.greedy\.max_symbols=2000: expected 1 to 1000"):
        nemo.nemo_config(replace(config, max_symbols=2000))
    with pytest.raises(ConfigError, match=r"^model_defaults\.prompt_dictionary="):
        nemo.nemo_config(replace(golden.loaded("prompt_rnnt")[0].config, prompts=()))


OUT = "encoder.pre_encode.out.bias"
WRONG_WEIGHTS: dict[str, tuple[Callable[[dict], object], str]] = {
    "a missing one": (lambda w: w.pop(OUT), f"missing {OUT}"),
    "an unknown one": (lambda w: w.update({"encoder.adapter.weight": torch.ones(1)}), "unknown encoder.adapter"),
    "both": (lambda w: w.update(extra=w.pop(OUT)), "unknown extra"),
    "a missing layer": (lambda w: [w.pop(k) for k in list(w) if ".layers.2." in k], "got 2 layers, expected 3"),
    "a wrong shape": (lambda w: w.update({OUT: torch.ones(7)}), f"{OUT}: got (7,), expected (32,)"),
    "a shape beyond memory": (lambda w: w.update({OUT: torch.ones(1).expand(1 << 40)}), f"{OUT}: got (1099511627776,)"),
    "whole numbers": (lambda w: w.update({OUT: torch.ones(32, dtype=torch.int32)}), f"{OUT}: got torch.int32"),
    "NaN": (lambda w: w.update({OUT: torch.full((32,), torch.nan)}), f"{OUT}: holds infinite values or NaN"),
}


@pytest.mark.parametrize("fault", WRONG_WEIGHTS)
def test_weights_that_do_not_fit_are_named(fault: str, tmp_path: Path) -> None:
    change, sentence = WRONG_WEIGHTS[fault]
    values = dict(weights("hybrid_bpe"))
    change(values)
    assert_refused(over(tmp_path / "m.nemo", weights=packed(values)), sentence)


NOT_PLAIN = {
    "meta": lambda: torch.ones(32, device="meta"),
    "nested": lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
    "sparse": lambda: torch.ones(32).to_sparse(),
    "complex": lambda: torch.ones(32) * 1j,
}


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("kind", NOT_PLAIN)
def test_tensors_that_are_no_plain_numbers_are_named(kind: str) -> None:
    config = golden.loaded("hybrid_bpe")[0].config
    with pytest.raises(WeightsError, match=rf"^here: {OUT}: got .*, expected plain torch\.float32$"):
        model_of(config, weights("hybrid_bpe") | {OUT: NOT_PLAIN[kind]()}, "here")


def test_a_counter_is_a_whole_number_and_names_are_shown_on_one_line() -> None:
    config, tensors = golden.loaded("rnnt_bpe_bn128")[0].config, weights("rnnt_bpe_bn128")
    counter = next(name for name in tensors if name.endswith("num_batches_tracked"))
    for value in (torch.tensor(1 + 2j), torch.tensor(1.0), torch.tensor(1).to_sparse()):
        with pytest.raises(WeightsError, match=rf"{counter}: got .*, expected plain torch\.int64"):
            model_of(config, tensors | {counter: value}, "here")
    with pytest.raises(WeightsError, match=r"unknown 'a\\nb\\udcff'$"):
        model_of(config, tensors | {"a\nb\udcff": torch.ones(1)}, "here")
