"""The processes that torchrun started, each with a part of every update; one process that nobody started is alone.

What they tell each other are sums. Knows nothing of models or data.
"""

from __future__ import annotations

import os
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

PATIENCE = timedelta(hours=6)  # others wait while the first validates, or computes features


class Ranks:
    """This process among `world`; ranks count from 0."""

    def __init__(self, rank: int, world: int, device: torch.device) -> None:
        self.rank, self.world, self.device = rank, world, device

    @classmethod
    def join(cls, device: str) -> Ranks:
        """Meets the others by torchrun's environment: nccl between GPUs, gloo between CPUs."""
        cuda = device == "cuda" or (device == "auto" and torch.cuda.is_available())
        if cuda and not torch.cuda.is_available():
            raise ValueError("settings.device: got cuda, expected cpu or auto: torch finds no GPU here")
        rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        place = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if cuda else torch.device("cpu")
        if cuda:
            torch.cuda.set_device(place)
        if world > 1:
            dist.init_process_group("nccl" if cuda else "gloo", rank=rank, world_size=world, timeout=PATIENCE)
        return cls(rank, world, place)

    @property
    def first(self) -> bool:
        """Whether this one writes the log and the checkpoints."""
        return self.rank == 0

    def add_up(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, in place; the same bits everywhere."""
        if self.world > 1:
            dist.all_reduce(tensor)
        return tensor

    def wait(self) -> None:
        """Until all are here."""
        self.add_up(torch.zeros(1, device=self.device))

    def leave(self) -> None:
        if self.world > 1:
            dist.destroy_process_group()
