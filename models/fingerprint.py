"""What makes two loaded models the same one: a hash of every number. Knows nothing of files."""

from __future__ import annotations

import hashlib
import json

import torch

from models.transducer import Model


def fingerprint(model: Model) -> str:
    """sha256 over the configuration and all parameters and buffers, in the order of their names, as float32.

    What a model is called and who may use it changes no number: a renamed model goes on with the old one's streams.
    """
    values = {key: value for key, value in model.config.to_dict().items() if key not in ("name", "licence")}
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()
