"""Rewrites of an exported step that make the CPU runtime faster and change no result."""

from __future__ import annotations

import onnx


def fuse(model: onnx.ModelProto) -> onnx.ModelProto:
    return model
