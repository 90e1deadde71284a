"""Triton kernels of the GPU backend, each beside a twin in torch. Knows nothing of streams, slots' owners or ticks.

Importing this package or a module of it never needs triton; launching a kernel does. `why_not` says whether they can
run. The kernels launch on the current device and stream, with grids that depend on shapes alone, allocate nothing where
they are given a place to write to, and never wait for the device: a CUDA graph can hold them.
"""

from __future__ import annotations

import torch

from models.kernels.dialect import interpreting, triton
from models.kernels.trial import failure

OLDEST = (8, 0)  # compute capability: bfloat16 products


def why_not(device: torch.device) -> str | None:
    """Why the kernels cannot run on a device, in words; None where they can. On CUDA one is run to see."""
    if triton is None:
        return "kernels: the package triton is not installed"
    if interpreting():
        return None
    if device.type != "cuda":
        return f"kernels: got a {device.type} device, expected cuda (or TRITON_INTERPRET=1, for tests)"
    capability = torch.cuda.get_device_capability(device)
    if capability < OLDEST:
        return f"kernels: compute capability {capability[0]}.{capability[1]}, expected {OLDEST[0]}.{OLDEST[1]} or newer"
    return failure(device)
