"""Triton where it is installed, and names that stand for it where it is not. Knows nothing of any kernel."""

# mypy: disable-error-code="no-any-return"

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

triton: Any
tl: Any
try:
    import triton  # type: ignore[no-redef, import-untyped, import-not-found, unused-ignore]
    import triton.language as tl  # type: ignore[no-redef, import-untyped, import-not-found, unused-ignore]
except ImportError:  # kernels stay plain functions, which nobody launches
    triton = tl = None


def jit(function: Callable[..., Any]) -> Any:
    """`triton.jit`, which decides here and now, by TRITON_INTERPRET, whether the kernel is compiled or interpreted."""
    return function if triton is None else triton.jit(function)


def interpreting() -> bool:
    """Whether kernels run as NumPy on the host: for tests, and far too slow for anything else."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "yes", "on", "y")


def up(value: int, least: int = 1) -> int:
    """The power of two that holds a size, as Triton's ranges want it."""
    return max(least, 1 << (value - 1).bit_length())


def blocks(value: int, block: int) -> int:
    """How many blocks cover a size."""
    return -(-value // block)
