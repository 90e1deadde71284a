"""Rewrites of an exported step that make the CPU runtime faster and change nothing but rounding.

Each is one pattern and what takes its place; a graph without the pattern stays as it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import onnx
from onnx import NodeProto, helper, numpy_helper

LAST_TWO = [0, 2, 1]


def fuse(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of an exported step with every rewrite applied."""
    fused = onnx.ModelProto()
    fused.CopyFrom(model)
    graph = _Graph(fused.graph)
    for rewrite in (_weights, _linears, _masks, _factors, _depthwise):
        rewrite(graph)
    graph.write()
    return fused


class _Graph:
    """Nodes in order, with who makes and who reads each value."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._graph = graph
        self.nodes = list(graph.node)
        self.constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        for node in self.nodes:
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                self.constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
        self.makers = {name: node for node in self.nodes for name in node.output}
        self.readers = Counter(name for node in self.nodes for name in node.input)
        self.readers.update(value.name for value in graph.output)

    def scalar(self, name: str) -> float | None:
        """The value of a constant of one number."""
        array = self.constants.get(name)
        return float(array.reshape(())) if array is not None and array.size == 1 else None

    def only(self, name: str, kind: str) -> NodeProto | None:
        """The node of that kind that makes `name`, if nobody else reads it."""
        node = self.makers.get(name)
        return node if node is not None and node.op_type == kind and self.readers[name] == 1 else None

    def constant(self, name: str, array: np.ndarray) -> str:
        """Add (or find) a constant."""
        if name not in self.constants:
            self.constants[name] = array
            self._graph.initializer.append(numpy_helper.from_array(array, name))
        return name

    def replace(self, change: Callable[[NodeProto], list[NodeProto] | None]) -> None:
        """Put what `change` returns in a node's place; None keeps it."""
        nodes: list[NodeProto] = []
        for node in self.nodes:
            new = change(node)
            nodes += [node] if new is None else new
        self.nodes = nodes

    def write(self) -> None:
        """The nodes and the constants that something still reads."""
        live = {value.name for value in self._graph.output}
        kept = []
        for node in reversed(self.nodes):
            if live.intersection(node.output):
                kept.append(node)
                live.update(node.input)
        del self._graph.node[:]
        self._graph.node.extend(reversed(kept))
        tensors = [tensor for tensor in self._graph.initializer if tensor.name in live]
        del self._graph.initializer[:]
        self._graph.initializer.extend(tensors)
        made = {name for node in kept for name in node.output}
        shapes = [value for value in self._graph.value_info if value.name in made]
        del self._graph.value_info[:]
        self._graph.value_info.extend(shapes)


def _weights(graph: _Graph) -> None:
    """Squeezed and transposed weights become constants; the exporter leaves the large ones to run time."""

    def change(node: NodeProto) -> list[NodeProto] | None:
        if node.op_type not in ("Squeeze", "Transpose") or any(name not in graph.constants for name in node.input):
            return None
        array = graph.constants[node.input[0]]
        if node.op_type == "Squeeze":
            axes = tuple(graph.constants[node.input[1]].tolist()) if len(node.input) > 1 else None
            array = array.squeeze(axes)
        else:
            array = np.ascontiguousarray(array.transpose(node.attribute[0].ints if node.attribute else None))
        graph.constant(node.output[0], array)
        return []

    graph.replace(change)


def _linears(graph: _Graph) -> None:
    """Gemm(x, W', b) -> x @ W + b: what the other rewrites know; the runtime puts the two together again."""

    def change(node: NodeProto) -> list[NodeProto] | None:
        if node.op_type != "Gemm" or node.input[1] not in graph.constants:
            return None
        said = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        transposed = said.pop("transB", 0)
        if any(value != {"alpha": 1.0, "beta": 1.0, "transA": 0}[name] for name, value in said.items()):
            return None
        weight, name = graph.constants[node.input[1]], node.input[1]
        if transposed:
            name = graph.constant(f"{name}.transposed", np.ascontiguousarray(weight.T))
        products = list(node.output) if len(node.input) < 3 else [f"{node.output[0]}.product"]
        product = helper.make_node("MatMul", [node.input[0], name], products)
        product.metadata_props.extend(node.metadata_props)
        graph.makers[products[0]] = product
        if len(node.input) < 3:
            return [product]
        graph.readers[products[0]] += 1
        added = helper.make_node("Add", [products[0], node.input[2]], list(node.output))
        graph.makers[node.output[0]] = added
        return [product, added]

    graph.replace(change)


def _masks(graph: _Graph) -> None:
    """where(hidden, 0, x) -> x * seen; where(hidden, -10000, x) -> x + penalty: the mask is made once, in float."""
    zero, one = graph.constant("fuse.zero", np.float32(0)), graph.constant("fuse.one", np.float32(1))
    made: set[str] = set()

    def change(node: NodeProto) -> list[NodeProto] | None:
        if node.op_type != "Where" or (fill := graph.scalar(node.input[1])) is None or fill > 0:
            return None
        if graph.constants[node.input[1]].dtype != np.float32 or graph.scalar(node.input[2]) is not None:
            return None
        hidden, filling, x = node.input
        mask = f"{hidden}.{'seen' if fill == 0 else 'penalty'}"
        new = []
        if mask not in made:
            made.add(mask)
            values = [zero, one] if fill == 0 else [filling, zero]
            new.append(helper.make_node("Where", [hidden, *values], [mask]))
        return [*new, helper.make_node("Mul" if fill == 0 else "Add", [x, mask], list(node.output))]

    graph.replace(change)


def _factors(graph: _Graph) -> None:
    """(x @ W + b) * 0.5 -> x @ (W / 2) + b / 2; exact, for a power of two."""

    def change(node: NodeProto) -> list[NodeProto] | None:
        if node.op_type != "Mul":
            return None
        operands = [name for name in node.input if graph.scalar(name) is None]
        factors = [value for name in node.input if (value := graph.scalar(name)) is not None]
        if len(operands) != 1 or np.frexp(abs(factors[0]))[0] != 0.5:
            return None
        added = graph.only(operands[0], "Add")
        product = _product(graph, added)
        if added is None or product is None:
            return None
        bias = next(name for name in added.input if name != product.output[0])
        for owner, name in ((product, product.input[1]), (added, bias)):
            scaled = graph.constant(f"{name}.scaled", (graph.constants[name] * np.float32(factors[0])))
            owner.input[list(owner.input).index(name)] = scaled
        return [helper.make_node("Identity", [added.output[0]], list(node.output))]

    graph.replace(change)


def _product(graph: _Graph, added: NodeProto | None) -> NodeProto | None:
    """The constant matrix product that `added` gives a constant bias to."""
    if added is None or sum(name in graph.constants for name in added.input) != 1:
        return None
    product = graph.only(next(name for name in added.input if name not in graph.constants), "MatMul")
    return product if product is not None and product.input[1] in graph.constants else None


def _depthwise(graph: _Graph) -> None:
    """A depthwise convolution over time becomes one over an image of height 1, channels last.

    The runtime has a fast kernel for that one; the one-dimensional convolution runs channel by channel.
    """
    axis = graph.constant("fuse.height", np.array([1], np.int64))

    def change(node: NodeProto) -> list[NodeProto] | None:
        if node.op_type != "Transpose" or not _swaps(node):
            return None
        conv = graph.only(node.input[0], "Conv")
        before = graph.only(conv.input[0], "Transpose") if conv is not None else None
        weight = graph.constants.get(conv.input[1]) if conv is not None else None
        if conv is None or before is None or not _swaps(before) or weight is None or weight.ndim != 3:
            return None
        name = conv.output[0]
        image = graph.constant(f"{conv.input[1]}.image", weight[:, :, None, :])
        values = [f"{name}.{step}" for step in ("high", "first", "image", "last")]
        return [
            helper.make_node("Unsqueeze", [before.input[0], axis], [values[0]]),
            helper.make_node("Transpose", [values[0]], [values[1]], perm=[0, 3, 1, 2]),
            helper.make_node("Conv", [values[1], image, *conv.input[2:]], [values[2]], group=len(weight)),
            helper.make_node("Transpose", [values[2]], [values[3]], perm=[0, 2, 3, 1]),
            helper.make_node("Squeeze", [values[3], axis], list(node.output)),
        ]

    graph.replace(change)


def _swaps(node: NodeProto) -> bool:
    return list(node.attribute[0].ints) == LAST_TWO
