"""One kernel that is launched to see whether kernels can be. Knows nothing of what the others do."""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import functools

import torch

from models.kernels.dialect import jit, tl

PLACES = 16


@jit
def trial_kernel(out, PLACES: tl.constexpr):
    place = tl.arange(0, PLACES)
    tl.store(out + place, 3 * place)


@functools.cache
def failure(device: torch.device) -> str | None:
    """Why a first kernel does not run on a device that should, in one line; None if it does."""
    out = torch.zeros(PLACES, dtype=torch.int32, device=device)
    try:
        trial_kernel[(1,)](out, PLACES=PLACES)  # on torch's current device, as all of them
        found = out.tolist()
    except Exception as error:  # whatever it is: no C compiler, no headers, a driver too old
        return f"kernels: a first one failed with {type(error).__name__}: {' '.join(str(error).split())[:300]}"
    if found != list(range(0, 3 * PLACES, 3)):
        return f"kernels: a first one wrote {found}, expected the multiples of 3"
    return None
