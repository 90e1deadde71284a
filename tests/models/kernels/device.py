"""Where the kernels' tests run: on a GPU where there is one, else through Triton's interpreter, mended for bfloat16.

Triton 3.6's interpreter keeps bfloat16 as 16-bit integers: it multiplies those integers in `dot`, and cuts off where a
GPU rounds to nearest even (and loses the carry into the exponent where it is told to round). And NumPy 2.4 makes no
number of its arrays of one element. All three are put right here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from models.kernels.dialect import interpreting

triton = pytest.importorskip("triton", reason="the package triton is not installed")

if not interpreting() and not torch.cuda.is_available():
    pytest.skip("no GPU, and TRITON_INTERPRET is not set", allow_module_level=True)

DEVICE = torch.device("cpu" if interpreting() else "cuda")
TYPES = [torch.float32, torch.bfloat16]
torch.backends.cudnn.allow_tf32 = False  # the twins' convolutions, in float32 as they say


def captured(work: Callable[[], None]) -> Callable[[], Any]:
    """A CUDA graph of `work`, which has run twice by then; without a GPU `work` itself."""
    if DEVICE.type != "cuda":
        return work
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        work()
        work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


def _wide(bits: np.ndarray) -> np.ndarray:
    return (np.ascontiguousarray(bits).astype(np.uint32) << 16).view(np.float32)


def _narrow(values: np.ndarray) -> np.ndarray:
    rounded = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32)).to(torch.bfloat16)
    return rounded.view(torch.int16).numpy().view(np.uint16)


def _mend() -> None:
    import triton.language as tl
    from triton.runtime import interpreter

    convert, dot = interpreter._convert_float, interpreter.InterpreterBuilder.create_dot
    patch = interpreter._patch_lang_tensor

    def convert_float(data: np.ndarray, source: Any, target: Any, mode: Any) -> np.ndarray:
        if source == tl.float32 and target == tl.bfloat16:
            return _narrow(data.view(np.float32)).reshape(data.shape)
        if source == tl.bfloat16 and target == tl.float32:
            return _wide(data).reshape(data.shape).view(np.uint32)
        return convert(data, source, target, mode)

    def create_dot(self: Any, a: Any, b: Any, d: Any, *rest: Any) -> Any:
        if a.dtype.scalar == tl.bfloat16:
            a, b = (interpreter.TensorHandle(_wide(x.data), tl.float32) for x in (a, b))
        return dot(self, a, b, d, *rest)

    def patch_lang_tensor(tensor: Any, scope: Any) -> None:
        patch(tensor, scope)
        tensor.__index__ = lambda self: int(self.handle.data.item())  # `scope` puts back what was there

    interpreter._patch_lang_tensor = patch_lang_tensor
    interpreter._convert_float = convert_float
    interpreter.InterpreterBuilder.create_dot = create_dot


if interpreting():
    _mend()
