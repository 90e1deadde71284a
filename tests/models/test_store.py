"""A saved folder gives the model back; every way it can be broken has its own sentence."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from models import store
from models.config import ConfigError
from models.nemo_archive import ModelFileError
from models.transcribe import stream
from tests.models import golden


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "hybrid"
    store.save(*golden.loaded("hybrid_bpe"), folder, torch.float32)
    return folder


@pytest.mark.parametrize("name", golden.MODELS)
def test_a_float32_folder_gives_back_the_same_model(name: str, tmp_path: Path) -> None:
    model, tokenizer = golden.loaded(name)
    store.save(model, tokenizer, tmp_path, torch.float32)
    again, pieces = store.load(tmp_path)
    assert again.config == model.config
    assert not again.training
    assert pieces.pieces == tokenizer.pieces
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_half_size_folder_is_read_as_float32_its_front_end_exact(dtype: torch.dtype, tmp_path: Path) -> None:
    model, tokenizer = golden.loaded("rnnt_bpe_bn128")
    store.save(model, tokenizer, tmp_path, dtype)
    again, _ = store.load(tmp_path)
    kept, exact = again.state_dict(), model.state_dict()
    assert {value.dtype for value in kept.values()} == {torch.float32, torch.int64}
    for name in ("preprocessor.featurizer.fb", "encoder.layers.0.conv.batch_norm.running_var"):
        assert torch.equal(kept[name], exact[name])
    pairs = [(kept[name], exact[name]) for name in exact if kept[name].is_floating_point()]
    assert all(torch.allclose(a, b, rtol=1e-2, atol=1e-4) for a, b in pairs)


def test_load_takes_a_nemo_file_too() -> None:
    model, _ = store.load(golden.checkpoint("tdt_bpe"))
    assert model.config.kind == "tdt"


def test_a_loaded_folder_says_what_the_checkpoint_says(saved: Path) -> None:
    model, _ = store.load(saved)
    pcm = golden.clip("pause")
    assert stream(model, pcm).tokens == stream(golden.loaded("hybrid_bpe")[0], pcm).tokens


def test_a_tokenizer_of_other_pieces_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="pieces of the model's own"):
        store.save(golden.loaded("hybrid_bpe")[0], golden.loaded("rnnt_char")[1], tmp_path)


def test_importing_models_does_not_import_torch() -> None:
    code = "import sys, models, models.config, models.tokenizer, models.features_np; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def edit(change: Callable[[dict], object]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        values = json.loads((folder / "config.json").read_text())
        change(values)
        (folder / "config.json").write_text(json.dumps(values))

    return apply


def write(name: str, data: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(data) and None


def truncate(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])


def tensors(change: Callable[[dict], object], **metadata: str) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        values = load_file(folder / "model.safetensors")
        change(values)
        header = {"format": store.FORMAT, "version": store.VERSION} | metadata
        save_file(values, folder / "model.safetensors", metadata=header)

    return apply


OUT = "encoder.pre_encode.out.bias"
BROKEN = {
    "no config": (lambda f: (f / "config.json").unlink(), "config.json: no such file"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "model.safetensors: no such file"),
    "no tokenizer": (lambda f: (f / "tokenizer.model").unlink(), "tokenizer.model: no such file"),
    "config is not JSON": (write("config.json", b"{"), "not readable as JSON"),
    "config is not text": (write("config.json", b"\xff\xfe\x00{"), "not readable as JSON"),
    "config is a list": (write("config.json", b"[]"), "got list, expected an object"),
    "config is endless": (write("config.json", b"[" * 100_000), "not readable as JSON"),
    "config is too long": (write("config.json", b" " * (store.MAX_JSON_BYTES + 1)), "expected no more than"),
    "an unknown key": (edit(lambda c: c.update(beams=4)), "config='beams'"),
    "a missing key": (edit(lambda c: c.pop("mels")), "also the keys mels"),
    "a wrong type": (edit(lambda c: c.update(mels="80")), "mels='80'"),
    "a wrong value": (edit(lambda c: c.update(heads=7)), "d_model=32"),
    "a million layers": (edit(lambda c: c.update(layers=1_000_000)), "got 3 layers, expected 1000000"),
    "other numbers": (edit(lambda c: c.update(d_ff=1 << 20)), "got (128, 32), expected (1048576, 32)"),
    "other labels": (edit(lambda c: c["labels"].reverse()), "pieces that differ"),
    "a broken tokenizer": (write("tokenizer.model", b"not a model"), "tokenizer.model: "),
    "truncated weights": (truncate, "not a whole safetensors file"),
    "weights of nothing": (write("model.safetensors", b""), "not a whole safetensors file"),
    "a bomb of a header": (write("model.safetensors", b"\xff" * 7 + b"\x7f" + b"{}"), "not a whole safetensors file"),
    "weights of others": (tensors(dict.copy, format="pt"), "format='pt': expected streamer-model"),
    "a later version": (tensors(dict.copy, version="2"), "version='2': expected 1"),
    "a missing tensor": (tensors(lambda t: t.pop(OUT)), f"missing {OUT}"),
    "an unknown tensor": (tensors(lambda t: t.update(lora=torch.ones(1))), "unknown lora"),
    "a wrong shape": (tensors(lambda t: t.update({OUT: torch.ones(3)})), f"{OUT}: got (3,), expected (32,)"),
    "whole numbers": (tensors(lambda t: t.update({OUT: torch.ones(32, dtype=torch.int8)})), f"{OUT}: got torch.int8"),
    "not numbers": (tensors(lambda t: t.update({OUT: torch.full((32,), torch.nan)})), f"{OUT}: holds infinite values"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_folder_is_refused_in_one_sentence(fault: str, saved: Path, tmp_path: Path) -> None:
    damage, sentence = BROKEN[fault]
    folder = Path(shutil.copytree(saved, tmp_path / "copy"))
    damage(folder)
    with pytest.raises(ModelFileError) as refusal:
        store.load(folder)
    assert sentence in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_path_that_is_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="no such file"):
        store.load(tmp_path / "absent")
