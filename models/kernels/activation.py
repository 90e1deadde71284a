"""The joint's activations in device code. Knows nothing of what is activated."""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from models.kernels.dialect import jit, tl


@jit
def activated(x, ACTIVATION: tl.constexpr):
    if ACTIVATION == "relu":
        y = tl.maximum(x, 0.0)
    elif ACTIVATION == "tanh":
        y = 2.0 * tl.sigmoid(2.0 * x) - 1.0
    else:
        y = tl.sigmoid(x)
    return y
