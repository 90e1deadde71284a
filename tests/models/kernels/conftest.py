"""What the kernels' tests share beside their device."""

from __future__ import annotations

from typing import Any

import pytest

from models.kernels.dialect import interpreting


@pytest.fixture
def last_program_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter runs a grid's programs one after the other: here from the last to the first."""
    if not interpreting():
        return
    from triton.runtime.interpreter import InterpreterBuilder

    forward = InterpreterBuilder.set_grid_idx

    def backward(self: Any, *at: int) -> None:
        forward(self, *(size - 1 - index for size, index in zip(self.grid_dim, at, strict=True)))

    monkeypatch.setattr(InterpreterBuilder, "set_grid_idx", backward)
