"""int8 for matrix products, the encoder's all and others' large ones: a scale per row of activations, one per column
of weights.

A row's scale comes from that row alone, so a stream's numbers never depend on its neighbours. Activations are uint8
with zero point 128 (the CPU's instructions want unsigned times signed), weights int8; all else stays float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

LEVELS = 127.0
LEAST_SCALE = 1e-30  # an all-zero row would divide by zero
LARGE = 400_000  # numbers of a matrix: a smaller one lies in the cache as float32, and quantising costs what bytes save
LEAST_SILU = 0.2785  # SiLU has no value below -0.27847: its inputs' largest says all about a row
_SCOPES = "pkg.torch.onnx.name_scopes"
_OFFSET = helper.make_tensor("offset", TensorProto.UINT8, [1], [128])
_PLAIN = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0}  # a Gemm that is a product and a sum
_RUNTIME = "com.microsoft"  # MatMulIntegerToFloat: MatMulInteger, cast and column scale in one


def quantize_int8(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of an exported step with the encoder's constant matrix products in int8."""
    return _quantized(model, _is_encoder_product)


def quantize_large_int8(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a predictor or joint with products of LARGE matrices in int8."""
    return _quantized(model, lambda node, weights: math.prod(_matrix(node, weights)) >= LARGE)


def _quantized(model: onnx.ModelProto, wanted: Callable[[NodeProto, dict[str, TensorProto]], bool]) -> onnx.ModelProto:
    quantized = onnx.ModelProto()
    quantized.CopyFrom(model)
    graph = quantized.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    chosen = [node for node in graph.node if wanted(node, weights)]
    if not chosen:
        return quantized
    rewriter = _Rewriter(graph)
    nodes: list[NodeProto] = []
    for node in graph.node:
        nodes += rewriter.product(node) if node in chosen else [node]
    del graph.node[:]
    graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in [*graph.initializer, *rewriter.constants] if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    known = {opset.domain for opset in quantized.opset_import}
    if _RUNTIME not in known:
        quantized.opset_import.append(helper.make_opsetid(_RUNTIME, 1))
    return quantized


def products(layers: int) -> int:
    """Matrix products of an encoder: of a layer q k v as one, out, two pointwise, two feed-forwards of two; and three
    of the subsampling."""
    return 8 * layers + 3


def quantized_products(model: onnx.ModelProto) -> int:
    """How many matrix products of a graph run in int8."""
    return sum(node.op_type == "MatMulIntegerToFloat" for node in model.graph.node)


def columns_to_int8(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(K, N) float32 -> int8 in -127 ... 127 and the scale of each column (N,)."""
    scale = np.maximum(np.abs(weight).max(0) / LEVELS, LEAST_SCALE).astype(np.float32)
    return np.clip(np.rint(weight / scale), -LEVELS, LEVELS).astype(np.int8), scale


def _is_encoder_product(node: NodeProto, weights: dict[str, TensorProto]) -> bool:
    """Linear layers and pointwise convolutions of the encoder."""
    return any(_matrix(node, weights)) and (_within(node, "model.encoder") or _within(node, "subsampling"))


def _matrix(node: NodeProto, weights: dict[str, TensorProto]) -> tuple[int, ...]:
    """Sizes of the constant matrix that a product multiplies by; (0,) if it is none. Position tables have three."""
    if node.op_type not in ("MatMul", "Gemm") or node.input[1] not in weights:
        return (0,)
    sizes = tuple(weights[node.input[1]].dims)
    return sizes if len(sizes) == 2 else (0,)


def _within(node: NodeProto, module: str) -> bool:
    """Whether the exporter met the node in a module of that name."""
    return any(prop.key == _SCOPES and module in prop.value for prop in node.metadata_props)


class _Rewriter:
    """Makes the int8 nodes; an input that several products share is quantised once."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._weights = {tensor.name: tensor for tensor in graph.initializer}
        self._makers = {name: node for node in graph.node for name in node.output}
        self._inputs: set[str] = set()  # what is made already
        self.constants: list[TensorProto] = [
            numpy_helper.from_array(np.array(value), name)
            for name, value in {
                "int8.axis": np.array([-1], np.int64),
                "int8.per_level": np.float32(1 / LEVELS),
                "int8.least": np.float32(LEAST_SCALE),
                "int8.least_silu": np.float32(LEAST_SILU / LEVELS),
                "int8.one": np.float32(1),
                "int8.zero_point": np.uint8(128),
            }.items()
        ]

    def product(self, node: NodeProto) -> list[NodeProto]:
        """x @ W as: quantise the rows of x, multiply integers, scale columns, scale rows; then add what a Gemm adds."""
        x, weight, *added = node.input
        options = _PLAIN | {option.name: helper.get_attribute_value(option) for option in node.attribute}
        assert options | {"transB": 0} == _PLAIN, f"{node.name}: got {options}, expected x @ W or x @ W.T, plus a term"
        matrix = numpy_helper.to_array(self._weights[weight])
        values, scale = columns_to_int8(matrix.T if options["transB"] else matrix)
        self.constants.append(numpy_helper.from_array(values, f"{weight}.int8"))
        self.constants.append(numpy_helper.from_array(scale, f"{weight}.scale"))
        # Its own, though all are zero: where the runtime makes weights unsigned, it fails at a second user of one.
        self.constants.append(numpy_helper.from_array(np.array(np.int8(0)), f"{weight}.offset"))
        # The subsampling's matrices have a row for each band, those of all layers one for each frame.
        like = x if _within(node, "subsampling") else "int8"
        nodes = [] if x in self._inputs else self._quantize(x, len(values), like)
        self._inputs.add(x)
        operands = [f"{x}.u8", f"{weight}.int8", "int8.one", f"{weight}.scale", "int8.zero_point", f"{weight}.offset"]
        by_column = f"{node.output[0]}.by_column"
        nodes.append(helper.make_node("MatMulIntegerToFloat", operands, [by_column], domain=_RUNTIME))
        product = f"{node.output[0]}.product" if added else node.output[0]
        nodes.append(helper.make_node("Mul", [by_column, f"{x}.scale"], [product]))
        return [*nodes, helper.make_node("Add", [product, *added], list(node.output))] if added else nodes

    def _quantize(self, x: str, width: int, like: str) -> list[NodeProto]:
        """x (..., width) -> x.u8 (zero point 128) and x.scale (..., 1) = max(|row|) / 127: a row is one block.

        Its zero points are made once for all matrices `like` it.
        """
        after_silu = self._is_silu(x)
        nodes = [] if after_silu else [helper.make_node("Abs", [x], [f"{x}.abs"])]
        most, least = (x, "int8.least_silu") if after_silu else (f"{x}.abs", "int8.least")
        nodes += [
            helper.make_node("ReduceMax", [most, "int8.axis"], [f"{x}.most"], keepdims=1),
            helper.make_node("Mul", [f"{x}.most", "int8.per_level"], [f"{x}.raw_scale"]),
            helper.make_node("Max", [f"{x}.raw_scale", least], [f"{x}.scale"]),
        ]
        rows, offsets = f"{like}.rows", f"{like}.offsets"
        if offsets not in self._inputs:
            self._inputs.add(offsets)
            nodes.append(helper.make_node("Shape", [f"{x}.scale"], [rows]))
            nodes.append(helper.make_node("ConstantOfShape", [rows], [offsets], value=_OFFSET))
        operands = [x, f"{x}.scale", offsets]
        return [*nodes, helper.make_node("QuantizeLinear", operands, [f"{x}.u8"], axis=-1, block_size=width)]

    def _is_silu(self, x: str) -> bool:
        """Whether x = a * sigmoid(a)."""
        maker = self._makers.get(x)
        if maker is None or maker.op_type != "Mul":
            return False
        gates = [self._makers.get(name) for name in maker.input]
        return any(
            gate is not None and gate.op_type == "Sigmoid" and gate.input[0] == other
            for gate, other in zip(gates, reversed(maker.input), strict=True)
        )
