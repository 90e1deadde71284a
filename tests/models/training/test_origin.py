"""Claims about what a run starts from: any model that is loaded, its numbers and vocabulary unless others are told."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from models import store
from models.config import ConfigError
from models.tokenizer import Tokenizer, train_bpe
from models.training import cache, origin, release
from models.training.settings import Settings, from_dict
from models.training.trainer import train


@pytest.fixture(scope="module")
def features(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two of the golden clips as they are cached, of 80 and of 128 mels."""
    folder, told = tmp_path_factory.mktemp("features"), tmp_path_factory.mktemp("manifests")
    for mels in (80, 128):
        lines = [
            {"audio_filepath": str(golden / "clips" / f"{clip}.wav"), "text": text, "lang": "en-US"}
            for clip, text in (("speech", "hello there"), ("pause", "good morning"))
        ]
        manifest = told / f"m{mels}.jsonl"
        manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
        cache.build(manifest, folder, mels, workers=1)
    return folder


def tuning(features: Path, init: Path, run: Path, **changes: object) -> Settings:
    """Two updates from the weights of `init`, by whichever heads it has."""
    config = store.load(init)[0].config
    weights = {"ctc_weight": float(config.ctc), "rnnt_weight": float(config.transducer)}
    stage = {"name": "tune", "steps": 2, "peak_lr": 1e-2, "warmup_steps": 1, **weights}
    data = {"run": str(run), "cache": str(features), "train": [f"m{config.mels}"], "dev": f"m{config.mels}"}
    return from_dict({**data, "init": str(init), "stages": [stage], "bf16": False, "device": "cpu", **changes})


@pytest.mark.parametrize(
    "name", ["hybrid_bpe", "ctc_bpe", "rnnt_bpe_bn128", "rnnt_char", "offline_bpe", "prompt_hybrid", "tdt_bpe"]
)
def test_a_nemo_file_is_fine_tuned_and_released_as_one(golden: Path, features: Path, tmp_path: Path, name: str) -> None:
    init = golden / "models" / name / f"{name}.nemo"
    train(tuning(features, init, tmp_path / "run"))
    assert release.main([str(tmp_path / "run"), str(tmp_path / "out.nemo"), "--name", name]) == 0
    (before, pieces), (after, same) = store.load(init), store.load(tmp_path / "out.nemo")
    assert dataclasses.replace(after.config, name=name) == before.config
    assert same.pieces == pieces.pieces
    old, new = before.state_dict(), after.state_dict()
    changed = {key for key in old if not torch.equal(old[key], new[key])}
    kept = [key for key in changed if "running_" in key or key.startswith("preprocessor.")]
    assert not kept, "statistics and filterbank stay those of the model"
    assert len(changed) > 0.8 * len(dict(before.named_parameters()))


def test_with_another_vocabulary_the_encoder_goes_on_and_heads_are_new(
    golden: Path, features: Path, tmp_path: Path
) -> None:
    init = golden / "models" / "hybrid_bpe" / "hybrid_bpe.nemo"
    train_bpe(["hello there", "good morning"] * 5, 20, tmp_path / "pieces")
    told = tuning(features, init, tmp_path / "run", tokenizer=str(tmp_path / "pieces.model"), model={"name": "mine"})
    start = origin.read(told)
    corpus = origin.Corpus(features, ["m80"], start.tokenizer, start.config)
    said: list[str] = []
    model = origin.new_model(told, start, corpus, said.append)
    assert (model.config.name, model.config.vocab_size, model.config.layers) == ("mine", 20, 3)
    heads = "ctc_decoder, decoder, joint"
    assert said == [f"init {init}: new weights for {heads}: another vocabulary, or a head that it has not"]
    assert start.init is not None
    old, new = start.init.state_dict(), model.state_dict()
    assert all(torch.equal(old[name], new[name]) for name in old if name.startswith("encoder."))
    deeper = origin.read(dataclasses.replace(told, model={"layers": 4}))
    with pytest.raises(ValueError, match=r"^init: encoder\.layers\.3\..*: got nothing, expected"):
        origin.new_model(told, deeper, corpus)


def test_what_cannot_be_trained_is_refused_by_name(golden: Path, features: Path, tmp_path: Path) -> None:
    stage = {"name": "tune", "steps": 1, "peak_lr": 1e-3, "ctc_weight": 0.0, "rnnt_weight": 0.5, "fast_emit": 0.1}
    tdt = golden / "models" / "tdt_bpe" / "tdt_bpe.nemo"
    with pytest.raises(ConfigError, match=r"^stages\.tune\.fast_emit=0\.1: expected 0 for a TDT model"):
        origin.read(tuning(features, tdt, tmp_path, stages=[stage]))
    ctc = golden / "models" / "ctc_bpe" / "ctc_bpe.nemo"
    with pytest.raises(ConfigError, match=r"^stages\.tune='ctc': expected rnnt_weight: 0, for a model without"):
        origin.read(tuning(features, ctc, tmp_path, stages=[stage]))


def test_a_ctc_model_lends_its_head_to_a_hybrid(golden: Path, features: Path, tmp_path: Path) -> None:
    init = golden / "models" / "ctc_bpe" / "ctc_bpe.nemo"
    joint = {"kind": "hybrid", "predictor_hidden": 8, "predictor_layers": 1, "joint_hidden": 8}
    told = tuning(features, init, tmp_path / "run", model=joint)
    start = origin.read(told)
    model = origin.new_model(told, start, origin.Corpus(features, ["m80"], start.tokenizer, start.config))
    assert start.init is not None
    lent = start.init.state_dict()["decoder.decoder_layers.0.weight"]
    assert torch.equal(model.state_dict()["ctc_decoder.decoder_layers.0.weight"], lent)
    assert isinstance(start.tokenizer, Tokenizer)
