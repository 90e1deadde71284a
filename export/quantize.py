"""int8."""

from __future__ import annotations

import onnx


def quantize_int8(model: onnx.ModelProto) -> onnx.ModelProto:
    return model
