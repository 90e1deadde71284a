"""Models on disk: our own folder, and `load` for that or a .nemo file. Owns the folder's layout and version.

config.json         ModelConfig as JSON; for a model of labels also its vocabulary
tokenizer.model     the SentencePiece model, where there is one
model.safetensors   the weights by NeMo's names; its metadata carries format and version
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from models import nemo
from models.config import ConfigError, ModelConfig
from models.nemo_archive import ModelFileError
from models.tokenizer import Tokenizer, TokenizerError
from models.transducer import Model
from models.weights import WeightsError, model_of

FORMAT, VERSION = "streamer-model", "1"
CONFIG, TOKENIZER, WEIGHTS = "config.json", "tokenizer.model", "model.safetensors"
MAX_JSON_BYTES = 16 << 20
MAX_TOKENIZER_BYTES = 64 << 20
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_EXACT = re.compile(r"^preprocessor\.|\.running_(mean|var)$")  # kept in float32 whatever the others are


def load(path: str | Path) -> tuple[Model, Tokenizer]:
    """A .nemo file or a folder of ours: the model in evaluation mode, float32; raises ModelFileError."""
    path = Path(path)
    if path.is_dir():
        return load_folder(path)
    if not path.exists():
        raise ModelFileError(f"{path}: no such file, expected a .nemo archive or a model folder")
    return nemo.load(path)


def save(model: Model, tokenizer: Tokenizer, folder: str | Path, dtype: torch.dtype = torch.float16) -> None:
    """Writes the folder; each file appears, or takes another's place, as a whole, and all only when all are written."""
    if dtype not in DTYPES:
        raise ConfigError("dtype", dtype, "float32, float16 or bfloat16")
    if tuple(tokenizer.pieces) != model.config.labels:
        raise ConfigError("tokenizer", len(tokenizer.pieces), "the pieces of the model's own configuration")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: _stored(name, value, dtype) for name, value in model.state_dict().items()}
    text = json.dumps(model.config.to_dict(), ensure_ascii=False, indent=1)
    parts = {name: folder / f"{name}.part" for name in (CONFIG, TOKENIZER, WEIGHTS)}
    parts[CONFIG].write_text(text + "\n", encoding="utf-8")
    if tokenizer.kind == "sentencepiece":
        parts[TOKENIZER].write_bytes(tokenizer.to_bytes())
    else:
        del parts[TOKENIZER]
    save_file(tensors, parts[WEIGHTS], metadata={"format": FORMAT, "version": VERSION})
    for name, part in parts.items():
        os.replace(part, folder / name)


def load_folder(folder: str | Path) -> tuple[Model, Tokenizer]:
    """Reads what `save` wrote."""
    folder = Path(folder)
    config = read_config(folder)
    tokenizer = read_tokenizer(folder, config)
    try:
        return model_of(config, _tensors(folder / WEIGHTS), str(folder / WEIGHTS)), tokenizer
    except WeightsError as error:
        raise ModelFileError(str(error)) from error


def read_config(folder: str | Path) -> ModelConfig:
    where = Path(folder) / CONFIG
    try:
        values = json.loads(_bytes(where, MAX_JSON_BYTES))
    except (ValueError, RecursionError) as error:
        if isinstance(error, ModelFileError):
            raise
        raise ModelFileError(f"{where}: not readable as JSON ({error})") from error
    if not isinstance(values, dict):
        raise ModelFileError(f"{where}: got {type(values).__name__}, expected an object of ModelConfig's fields")
    try:
        return ModelConfig.from_dict(values)
    except ConfigError as error:
        raise ModelFileError(f"{where}: {error}") from error


def read_tokenizer(folder: str | Path, config: ModelConfig) -> Tokenizer:
    """The SentencePiece file or the configuration's labels; it has to have the pieces the model was trained on."""
    where = Path(folder) / TOKENIZER
    try:
        if config.tokenizer == "labels":
            return Tokenizer.from_labels(config.labels)
        tokenizer = Tokenizer.from_sentencepiece(_bytes(where, MAX_TOKENIZER_BYTES))
    except TokenizerError as error:
        raise ModelFileError(f"{where}: {error}") from error
    if tuple(tokenizer.pieces) != config.labels:
        got = f"{len(tokenizer.pieces)} pieces that differ from {CONFIG}'s {config.vocab_size} labels"
        raise ModelFileError(f"{where}: {got}, expected the same")
    return tokenizer


def _tensors(where: Path) -> dict[str, Tensor]:
    if not where.is_file():
        raise ModelFileError(f"{where}: no such file, expected the model's weights")
    try:
        with safe_open(where, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise ModelFileError(f"{where}: format={metadata.get('format')!r}: expected {FORMAT}")
            if metadata.get("version") != VERSION:
                raise ModelFileError(f"{where}: version={metadata.get('version')!r}: expected {VERSION}")
            names = list(file.keys())
            return {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError, RecursionError) as error:
        raise ModelFileError(f"{where}: not a whole safetensors file ({error})") from error


def _bytes(where: Path, most: int) -> bytes:
    if not where.is_file():
        raise ModelFileError(f"{where}: no such file, expected a model folder with {CONFIG} and {WEIGHTS}")
    if where.stat().st_size > most:
        raise ModelFileError(f"{where}: has {where.stat().st_size} bytes, expected no more than {most}")
    return where.read_bytes()


def _stored(name: str, value: Tensor, dtype: torch.dtype) -> Tensor:
    keep = not value.is_floating_point() or _EXACT.search(name)
    return value.detach().cpu().to(value.dtype if keep else dtype).contiguous().clone()
