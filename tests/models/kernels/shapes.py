"""What the kernels are compiled for in the tests: the types and constants of the 0.6 B model, few rows and many."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from models.kernels import convolution, norm, ring, search, search_code, subsampling

Compile = Callable[[Any, dict[str, str], dict[str, Any]], dict[str, int]]
Cases = Iterator[tuple[str, Callable[[], dict[str, int]]]]

BF = torch.bfloat16
BF16, F32, I32, I64 = "*bf16", "*fp32", "*i32", "*i64"


def typed(**kinds: str) -> dict[str, str]:
    """Types by name from names by type: typed(f32="a b") is {"a": "*fp32", "b": "*fp32"}."""
    named = {"bf16": BF16, "f32": F32, "i32": I32, "i64": I64, "int": "i32", "real": "fp32", "u8": "*u8"}
    return {name: named[kind] for kind, names in kinds.items() for name in names.split()}


def cases(build: Compile) -> Cases:
    yield from search_cases(build)
    yield from ring_cases(build)
    yield from row_cases(build)
    yield from subsampling_cases(build)


def search_cases(build: Compile) -> Cases:
    small = typed(i64="slots", i32="jump counts position repeats last_at said work state working", int="rows frames")
    yield "search.begin", lambda: build(search_code.begin_kernel, small, {"BLOCK": 1024, "num_warps": 8})
    one = {"BLOCK": 16, "num_warps": 8, "rows": 1, "frames": 1}
    yield "search.begin of one", lambda: build(search_code.begin_kernel, small, one)
    yield "search.end", lambda: build(search_code.end_kernel, small, {"BLOCK": search.ROWS})
    select = typed(
        f32="logps tops sums",
        i32="position counts first repeats last_at emitted said labels at durations bests work state emitters",
        int="frames capacity columns",
    )
    for timed in (False, True):
        constants = {"WORDS": 13088, "MOST": 10, "TIMED": timed, "PARTS": 104, "SPLITS": 103, "WIDTH": 128, "TILE": 16}
        yield f"search.select timed={timed}", lambda c=constants: build(search_code.select_kernel, select, c)
    constants = {"WORDS": 1025, "MOST": 10, "TIMED": True, "PARTS": 34, "SPLITS": 33, "WIDTH": 64, "TILE": 1}
    one = {**constants, "frames": 1, "capacity": 1}
    yield "search.select of one", lambda: build(search_code.select_kernel, select, one)
    for dtype, rows in ((BF, 1), (BF, 64), (BF, 4096), (torch.float32, 64)):
        yield from search_products(build, dtype, rows)


def search_products(build: Compile, dtype: torch.dtype, rows: int) -> Cases:
    weights = BF16 if dtype == BF else F32
    name = f"{weights[1:]} rows={rows}"
    memory = "g c h new_h tops sums bias bias_in"
    whole = "bests work state emitted emitters label working"
    types = typed(f32=memory, i32=whole, i64="slots", int="frames capacity")
    types |= dict.fromkeys(("scores", "weight", "by_label", "weight_in", "recurrent"), weights)
    joint = {"HIDDEN": 640, "WORDS": 1025, "OUTPUTS": 1025, "PARTS": 9, "SPLITS": 9, "ACTIVATION": "relu"}
    joint |= search.joint_tile(rows, 1025, dtype).options(640)
    joint |= {"frames": 1, "capacity": 1} if rows == 1 else {}
    yield f"search.joint {name}", lambda: build(search_code.joint_kernel, types, joint)
    for layer in (0, 1):
        cell = {"HIDDEN": 640, "LAYER": layer, "LAYERS": 2, **search.cell_tile(rows, dtype).options(640)}
        yield f"search.cell {layer} {name}", lambda c=cell: build(search_code.cell_kernel, types, c)
    project = {"HIDDEN": 640, "LAYERS": 2, "JOINT": 640, **search.project_tile(rows, dtype).options(640)}
    yield f"search.project {name}", lambda: build(search_code.project_kernel, types, project)


def ring_cases(build: Compile) -> Cases:
    """left, ring, head_dim of the 0.6 B and the 114 M model."""
    for dtype, chunk, sizes in (
        (BF16, 1, (56, 70, 128)),
        (BF16, 14, (56, 70, 128)),
        (BF16, 1, (70, 84, 64)),
        (F32, 14, (56, 70, 128)),
        (F32, 14, (70, 84, 64)),
    ):
        left, places, dim = sizes
        types = typed(
            f32="position_bias",
            i64="slots frames ends",
            int="row_stride frame_stride head_stride p_row p_frame p_head p_column",
            real="scale hidden_score",
        )
        types |= dict.fromkeys(["q", "k", "v", "by_position", "content_bias", "keys", "values", "out"], dtype)
        constants = {"HEADS": 8, "DIM": dim, "RING": places, "POSITIONS": places + 13, "T": chunk, "LEFT": left}
        constants |= {"p_column": 1} | ring.tile(chunk, left, dim, BF if dtype == BF16 else torch.float32)
        name = f"ring {dtype[1:]} T={chunk} left={left} dim={dim}"
        yield name, lambda t=types, c=constants: build(ring.ring_kernel, t, c)


def row_cases(build: Compile) -> Cases:
    """What goes over whole rows of d_model values."""
    for dtype, width in ((BF16, 1024), (BF16, 512), (F32, 1024)):
        name = f"{dtype[1:]} d={width}"
        types = typed(int="rows", real="scale eps") | dict.fromkeys(["x", "y", "total", "out", "weight", "bias"], dtype)
        for add in (False, True):
            constants = {"WIDTH": width, "ADD": add, **norm.tile(width)}
            yield f"norm {name} add={add}", lambda t=types, c=constants: build(norm.norm_kernel, t, c)
        types = typed(f32="weight bias scale shift", i64="slots", u8="live advance", real="eps")
        types |= dict.fromkeys(["gated", "tails", "out"], dtype)
        for frames in (1, 14):
            constants = {"T": frames, "LEFT": 8, "DIM": width, "STATISTICS": True, "ADVANCE": True}
            constants |= convolution.tile(width)
            kernel = convolution.convolution_kernel
            yield f"convolution {name} T={frames}", lambda k=kernel, t=types, c=constants: build(k, t, c)


def subsampling_cases(build: Compile) -> Cases:
    """128 mels, 256 channels."""
    cut = {"CHANNELS": 256, "BC": 256, "BP": subsampling.PLACES}
    strides = "tail_slot tail_channel tail_width slot1 channel1 width1 slot2 channel2 width2"
    for dtype in (BF16, F32):
        types = typed(i64="slots frames lengths", int=f"places height chunk {strides}", f32="mel weight bias")
        types |= dict.fromkeys(["tail", "out", "x", "mel_tail", "x1", "x2", "sub1", "sub2"], dtype)
        one = {"height": 1, "tail_channel": 1}
        kernels = {
            "first": (subsampling.first_kernel, {"MELS": 128, "WIDTH": 65, "num_warps": 4}),
            "depthwise": (subsampling.depthwise_kernel, {"STAGE": 1, "WIDE": 65, "WIDTH": 33, "num_warps": 8}),
            "deep": (subsampling.depthwise_kernel, {"STAGE": 2, "WIDE": 33, "WIDTH": 17, "num_warps": 8, **one}),
            "last": (subsampling.last_kernel, {"WIDTH": 17, "height": 1}),
            "keep": (subsampling.keep_kernel, {"MELS": 128, "FIRST": 65, "SECOND": 33, "BM": 128, "chunk": 1}),
        }
        for name, (kernel, constants) in kernels.items():
            made = {**constants, **cut}
            yield f"subsampling.{name} {dtype[1:]}", lambda k=kernel, t=types, c=made: build(k, t, c)
