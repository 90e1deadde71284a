"""Tensors by name into a model, strictly: every one used, every shape right. Knows nothing of files."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from models.config import ModelConfig, shown
from models.transducer import Model

MAX_NAMED = 5  # of the tensors that are wrong in one way; the rest are counted
_COUNTER = "num_batches_tracked"  # a training counter that checkpoints may leave out
_LAYER = "encoder.layers."
_WHOLE = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


class WeightsError(ValueError):
    """The tensors are not those of the configuration; the text names them."""


def model_of(config: ModelConfig, tensors: Mapping[str, Tensor], where: str) -> Model:
    """The model in evaluation mode, float32; raises WeightsError before anything large is allocated."""
    _check_layers(config, tensors, where)
    with torch.device("meta"):
        model = Model(config)
    expected = model.state_dict()
    _check_names(expected, tensors, where)
    _check_plain(expected, tensors, where)
    _check_shapes(expected, tensors, where)
    weights = {name: _converted(name, tensors, like, where) for name, like in expected.items()}
    model.load_state_dict(weights, assign=True)
    left = [name for name, value in (*model.named_parameters(), *model.named_buffers()) if value.is_meta]
    assert not left, f"made without storage and not in the state dict: {left}"
    return model.eval()


def _check_layers(config: ModelConfig, tensors: Mapping[str, Tensor], where: str) -> None:
    """Before a model is built at all: a configuration may ask for a million layers."""
    found = {name[len(_LAYER) :].split(".")[0] for name in tensors if name.startswith(_LAYER)}
    if len(found) != config.layers:
        raise WeightsError(f"{where}: {_LAYER}*: got {len(found)} layers, expected {config.layers}")


def _check_names(expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor], where: str) -> None:
    missing = [name for name in expected if name not in tensors and not name.endswith(_COUNTER)]
    unknown = [name for name in tensors if name not in expected]
    faults = [f"{what} {_listed(names)}" for what, names in (("missing", missing), ("unknown", unknown)) if names]
    if faults:
        raise WeightsError(f"{where}: weights do not fit the configuration: {'; '.join(faults)}")


def _check_plain(expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor], where: str) -> None:
    """Numbers in memory, whole where whole ones belong. A nested tensor has no shape, so this is asked first."""
    for name, value in tensors.items():
        like = expected[name].dtype
        fits = value.dtype.is_floating_point if like.is_floating_point else value.dtype in _WHOLE
        if value.is_meta or value.is_nested or value.layout != torch.strided or not fits:
            got = "one without numbers" if value.is_meta else f"{value.dtype} {value.layout}"
            raise WeightsError(f"{where}: {shown(name)}: got {got}, expected plain {like}")


def _check_shapes(expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor], where: str) -> None:
    wrong = [
        f"{name}: got {tuple(value.shape)}, expected {tuple(expected[name].shape)}"
        for name, value in tensors.items()
        if value.shape != expected[name].shape
    ]
    if wrong:
        raise WeightsError(f"{where}: {_listed(wrong, '; ')}")


def _converted(name: str, tensors: Mapping[str, Tensor], like: Tensor, where: str) -> Tensor:
    if name not in tensors:
        return torch.zeros(like.shape, dtype=like.dtype)
    value = tensors[name].to(like.dtype).contiguous()
    if value.is_floating_point() and not bool(value.isfinite().all()):
        raise WeightsError(f"{where}: {name}: holds infinite values or NaN, expected numbers")
    return value


def _listed(names: list[str], between: str = ", ") -> str:
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return between.join(shown(name, 200) for name in names[:MAX_NAMED]) + more
