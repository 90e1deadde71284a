"""Compiles the joint's loss for sm_90 with the constants of a large joint, as a command of its own. Needs no GPU.

Prints JSON as tests/models/kernels/aot.py does, whose compiler this is.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import torch
import triton.language as tl

from models.training import loss_kernel_code as code
from models.training import loss_kernels
from tests.models.kernels.aot import compiled
from tests.models.kernels.shapes import typed

HIDDEN, PLACES = 640, 101
Case = tuple[str, Any, dict[str, str], dict[str, Any]]


def cases() -> Iterator[Case]:
    common = {"HIDDEN": HIDDEN, "COLUMNS": 1025}
    sizes = "cells rows frames places width enc_row enc_frame pred_row pred_place by_row by_frame"
    sums = "own found norm share by_bias by_enc by_pred by_label by_blank"
    types = typed(bf16="hidden slopes back", f32=f"enc pred weight bias {sums}", i64="labels", int=sizes)
    narrow = types | {"weight": types["hidden"]}
    product = {**common, **loss_kernels.product_tile(torch.bfloat16, HIDDEN), "WIDE": tl.float32}
    yield "hidden", code.hidden_kernel, types, {**common, "ACTIVATION": "relu", **loss_kernels.hidden_tile(HIDDEN)}
    yield "outcome", code.outcome_kernel, narrow, product
    yield "slope", code.slope_kernel, narrow, product
    back = {"ACTIVATION": "relu", "SPAN": loss_kernels.SPAN, "WIDE": tl.float32}
    yield "back", code.back_kernel, types, {**common, **back, **loss_kernels.back_tile(PLACES, HIDDEN)}
    whole = typed(f32="blank emit", i64="frames lengths", int="rows most_frames places", real="nothing more")
    whole |= dict.fromkeys(("sums", "chance", "by_blank", "by_emit"), "*fp64")
    yield "lattice", code.lattice_kernel, whole, {"BLOCK": 128, "num_warps": 1}
    yield "share", code.share_kernel, whole, {"BLOCK": loss_kernels.CELLS}


def main() -> None:
    found: dict[str, Any] = {}
    for name, kernel, types, constants in cases():
        try:
            found[name] = compiled(kernel, types, constants)
        except Exception as error:
            found[name] = {"error": f"{type(error).__name__}: {error}"[-2000:]}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
