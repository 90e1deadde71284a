"""int8 for the encoder's matrix products: one scale per row of activations, one per column of weights.

A row's scale comes from that row alone, so a stream's numbers never depend on its neighbours. Activations are uint8
with zero point 128 (the CPU's instructions want unsigned times signed), weights int8; all else stays float32.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

LEVELS = 127.0
LEAST_SCALE = 1e-30  # an all-zero row would divide by zero
PRODUCTS_PER_LAYER = 10  # q k v out, two pointwise, two feed-forwards of two
_SCOPES = "pkg.torch.onnx.name_scopes"
_RUNTIME = "com.microsoft"  # MatMulIntegerToFloat: MatMulInteger, cast and column scale in one


def quantize_int8(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of an exported step with the encoder's constant matrix products in int8."""
    quantized = onnx.ModelProto()
    quantized.CopyFrom(model)
    graph = quantized.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    chosen = [node for node in graph.node if _is_encoder_product(node, weights)]
    rewriter = _Rewriter(weights)
    nodes: list[NodeProto] = []
    for node in graph.node:
        nodes += rewriter.product(node) if node in chosen else [node]
    del graph.node[:]
    graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend([*kept, *rewriter.constants])
    known = {opset.domain for opset in quantized.opset_import}
    if _RUNTIME not in known:
        quantized.opset_import.append(helper.make_opsetid(_RUNTIME, 1))
    return quantized


def quantized_products(model: onnx.ModelProto) -> int:
    """How many matrix products of a graph run in int8."""
    return sum(node.op_type == "MatMulIntegerToFloat" for node in model.graph.node)


def columns_to_int8(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(K, N) float32 -> int8 in -127 ... 127 and the scale of each column (N,)."""
    scale = np.maximum(np.abs(weight).max(0) / LEVELS, LEAST_SCALE).astype(np.float32)
    return np.clip(np.rint(weight / scale), -LEVELS, LEVELS).astype(np.int8), scale


def _is_encoder_product(node: NodeProto, weights: dict[str, TensorProto]) -> bool:
    """Linear layers and pointwise convolutions of the encoder; position tables have three dimensions."""
    if node.op_type != "MatMul" or node.input[1] not in weights or len(weights[node.input[1]].dims) != 2:
        return False
    return any(prop.key == _SCOPES and "model.encoder" in prop.value for prop in node.metadata_props)


class _Rewriter:
    """Makes the int8 nodes; an input that several products share is quantised once."""

    def __init__(self, weights: dict[str, TensorProto]) -> None:
        self._weights = weights
        self._inputs: set[str] = set()
        self.constants: list[TensorProto] = [
            numpy_helper.from_array(np.array(value), name)
            for name, value in {
                "int8.axis": np.array([-1], np.int64),
                "int8.per_level": np.float32(1 / LEVELS),
                "int8.least": np.float32(LEAST_SCALE),
                "int8.one": np.float32(1),
                "int8.zero_point": np.uint8(128),
            }.items()
        ]

    def product(self, node: NodeProto) -> list[NodeProto]:
        """x @ W as: quantise the rows of x, multiply integers, scale columns, scale rows."""
        x, weight = node.input
        values, scale = columns_to_int8(numpy_helper.to_array(self._weights[weight]))
        self.constants.append(numpy_helper.from_array(values, f"{weight}.int8"))
        self.constants.append(numpy_helper.from_array(scale, f"{weight}.scale"))
        # Its own, though all are zero: where the runtime makes weights unsigned, it fails at a second user of one.
        self.constants.append(numpy_helper.from_array(np.array(np.int8(0)), f"{weight}.offset"))
        nodes = [] if x in self._inputs else self._quantize(x)
        self._inputs.add(x)
        operands = [f"{x}.u8", f"{weight}.int8", "int8.one", f"{weight}.scale", "int8.zero_point", f"{weight}.offset"]
        by_column = f"{node.output[0]}.by_column"
        nodes.append(helper.make_node("MatMulIntegerToFloat", operands, [by_column], domain=_RUNTIME))
        nodes.append(helper.make_node("Mul", [by_column, f"{x}.scale"], list(node.output)))
        return nodes

    @staticmethod
    def _quantize(x: str) -> list[NodeProto]:
        """x -> x.u8 (zero point 128) and x.scale = max(|row|) / 127."""
        return [
            helper.make_node("Abs", [x], [f"{x}.abs"]),
            helper.make_node("ReduceMax", [f"{x}.abs", "int8.axis"], [f"{x}.most"], keepdims=1),
            helper.make_node("Mul", [f"{x}.most", "int8.per_level"], [f"{x}.raw_scale"]),
            helper.make_node("Max", [f"{x}.raw_scale", "int8.least"], [f"{x}.scale"]),
            helper.make_node("Div", [x, f"{x}.scale"], [f"{x}.levels"]),
            helper.make_node("QuantizeLinear", [f"{x}.levels", "int8.one", "int8.zero_point"], [f"{x}.u8"]),
        ]
