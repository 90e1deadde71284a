"""Weights, gradients and optimiser state as flat tensors, on a CPU shared by the workers that train one model together.

Each worker computes with one thread: two threads of one process wait for each other at every operation when the machine
is busy. For the same reason workers do not wait for each other's gradients: each updates the weights by itself (AdamW,
clipping, moving average of the weights), under a lock that its caller holds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

ALIGN = 16  # floats: every tensor begins at a 64-byte boundary


@dataclass(frozen=True, slots=True)
class Step:
    """Numbers of one update."""

    lr: float
    number: int  # from 1
    beta1: float
    beta2: float
    weight_decay: float
    clip_norm: float
    ema_decay: float


class Arena:
    """Flat tensors of `size` floats; matrices lie first, so that weight decay is a slice."""

    def __init__(self, model: nn.Module, workers: int) -> None:
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        named.sort(key=lambda pair: pair[1].dim() < 2)
        self.places: dict[str, tuple[int, torch.Size]] = {}
        self.decayed = size = 0
        for name, parameter in named:
            self.places[name] = (size, parameter.shape)
            size += -(-parameter.numel() // ALIGN) * ALIGN
            if parameter.dim() >= 2:
                self.decayed = size
        device = named[0][1].device  # torch shares memory of a CPU; on a GPU it leaves tensors as they are
        self.weights, self.ema, self.first, self.second = (
            torch.zeros(size, device=device).share_memory_() for _ in range(4)
        )
        self.gradients = torch.zeros(workers, size, device=device).share_memory_()
        self.read(model)

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """Each parameter's part of a flat tensor, in its shape."""
        return {name: flat[at : at + shape.numel()].view(shape) for name, (at, shape) in self.places.items()}

    def read(self, model: nn.Module) -> None:
        """Takes the model's weights over as weights and as their average."""
        views = self.views(self.weights)
        for name, parameter in model.named_parameters():
            if name in views:
                views[name].copy_(parameter.detach())
        self.ema.copy_(self.weights)

    def attach(self, model: nn.Module, flat: Tensor, gradients: Tensor | None = None) -> None:
        """Makes the model's parameters views of `flat`, and their gradients views of `gradients`."""
        weights = self.views(flat)
        slopes = self.views(gradients) if gradients is not None else {}
        for name, parameter in model.named_parameters():
            if name in weights:
                parameter.data = weights[name]
                parameter.grad = slopes.get(name)

    def update(self, rank: int, step: Step) -> float:
        """AdamW with the gradient of one worker; returns its norm. One that is no number changes nothing."""
        gradient = self.gradients[rank]
        norm = float(gradient.norm())
        if not math.isfinite(norm):
            return norm
        gradient.mul_(min(1.0, step.clip_norm / (norm + 1e-6)))
        self.first.lerp_(gradient, 1 - step.beta1)
        self.second.mul_(step.beta2).addcmul_(gradient, gradient, value=1 - step.beta2)
        self.weights[: self.decayed].mul_(1 - step.lr * step.weight_decay)
        torch.sqrt(self.second, out=gradient)
        gradient.div_((1 - step.beta2**step.number) ** 0.5).add_(1e-8)
        self.weights.addcdiv_(self.first, gradient, value=-step.lr / (1 - step.beta1**step.number))
        decay = min(step.ema_decay, (1 + step.number) / (10 + step.number))
        self.ema.lerp_(self.weights, 1 - decay)
        return norm

    def state(self) -> dict[str, Any]:
        """Copies for a checkpoint."""
        return {
            "weights": {k: v.clone() for k, v in self.views(self.weights).items()},
            "ema": {k: v.clone() for k, v in self.views(self.ema).items()},
            "first": self.first.clone(),
            "second": self.second.clone(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Raises ValueError for the state of a model of other weights."""
        if odd := sorted(state["weights"].keys() ^ self.places.keys()):
            got = f"got other weights than the model's ({', '.join(odd)})"
            raise ValueError(f"checkpoint: {got}, expected the same settings; a new run needs a new folder")
        for flat, part in ((self.weights, state["weights"]), (self.ema, state["ema"])):
            for name, view in self.views(flat).items():
                view.copy_(part[name])
        self.first.copy_(state["first"])
        self.second.copy_(state["second"])
