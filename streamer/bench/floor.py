"""`streamer bench floor`: the time of a step's matrix products alone, on one thread. Knows nothing of a model's files.

Every product of the encoder with constant weights, one after the other, each layer with weights of its own, so that
none is in the processor's cache from the layer before. What a step has besides (attention's own products, norms,
convolutions, the decoder, features) comes on top: no step can be faster that multiplies with these kernels.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamer.bench.peer_report import floor_name
from streamer.bench.peers import LATENCIES, STREAMS, Book, Cell

FRAME_MS = 80
MEL_BINS, CHANNELS = 80, 256  # of the subsampling
ONNX_OPSET, ONNX_IR = 21, 10
RUNTIME = "com.microsoft"
LEAST_RUNS, LEAST_S = 7, 0.3  # a shape is run so often and so long
WARM_RUNS = 2
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Size:
    """A model's numbers that make its products."""

    layers: int
    width: int
    joint: int


SIZES = {"small": Size(16, 176, 320), "large": Size(17, 512, 640)}  # the small ones first: there nodes count


@dataclass(frozen=True, slots=True)
class Product:
    """rows x inner by inner x columns; `rows` for one frame of one stream."""

    rows: int
    inner: int
    columns: int


def products(size: Size) -> list[Product]:
    """Of a step, in its order. Queries, keys and values are one product, as they can be."""
    width = size.width
    stage_2, stage_3 = 2 * MEL_BINS // 4, MEL_BINS // 8  # frequencies times frames of the subsampling, an output frame
    subsampling = [
        Product(stage_2, CHANNELS, CHANNELS),
        Product(stage_3, CHANNELS, CHANNELS),
        Product(1, CHANNELS * MEL_BINS // 8, width),
    ]
    feed_forward = [(width, 4 * width), (4 * width, width)]
    attention, convolution = [(width, 3 * width), (width, width)], [(width, 2 * width), (width, width)]
    layer = [Product(1, *shape) for shape in feed_forward + attention + convolution + feed_forward]
    return subsampling + size.layers * layer + [Product(1, width, size.joint)]


def graph(kinds: Sequence[Product], precision: str, seed: int = 0) -> bytes:
    """The products as an ONNX model: inputs a{i} and outputs y{i}, rows free, weights random constants."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    luck = np.random.default_rng(seed)
    kind = TensorProto.UINT8 if precision == "int8" else TensorProto.FLOAT
    nodes, constants, inputs, outputs = [], [], [], []
    for name, value in (("scale", np.float32(0.01)), ("zero", np.uint8(128)), ("offset", np.int8(0))):
        constants.append(numpy_helper.from_array(np.array(value), name))
    for i, one in enumerate(kinds):
        shape = (one.inner, one.columns)
        if precision == "int8":
            constants.append(numpy_helper.from_array(luck.integers(-127, 128, shape).astype(np.int8), f"w{i}"))
            constants.append(numpy_helper.from_array(np.full(one.columns, 0.01, np.float32), f"s{i}"))
            operands = [f"a{i}", f"w{i}", "scale", f"s{i}", "zero", "offset"]
            nodes.append(helper.make_node("MatMulIntegerToFloat", operands, [f"y{i}"], domain=RUNTIME))
        else:
            constants.append(numpy_helper.from_array(luck.standard_normal(shape).astype(np.float32), f"w{i}"))
            nodes.append(helper.make_node("MatMul", [f"a{i}", f"w{i}"], [f"y{i}"]))
        inputs.append(helper.make_tensor_value_info(f"a{i}", kind, [f"rows{i}", one.inner]))
        outputs.append(helper.make_tensor_value_info(f"y{i}", TensorProto.FLOAT, [f"rows{i}", one.columns]))
    opsets = [helper.make_opsetid("", ONNX_OPSET), helper.make_opsetid(RUNTIME, 1)]
    made = helper.make_graph(nodes, "products", inputs, outputs, constants)
    model: onnx.ModelProto = helper.make_model(made, opset_imports=opsets, ir_version=ONNX_IR)
    return bytes(model.SerializeToString())


class Products:
    """All products of one size and precision, ready to be run for any number of rows on one thread."""

    def __init__(self, size: Size, precision: str) -> None:
        import onnxruntime

        from streamer.backends.ort import options_for

        self._kinds, self._precision, self._runtime = products(size), precision, onnxruntime
        text = graph(self._kinds, precision)
        self._session = onnxruntime.InferenceSession(text, options_for(1), providers=["CPUExecutionProvider"])

    def seconds(self, frames: int) -> float:
        """Processor time of one run with so many frames of all streams together: the least of many."""
        io = self._bound(frames)
        for _ in range(WARM_RUNS):
            self._session.run_with_iobinding(io)
        least, runs, until = float("inf"), 0, time.perf_counter() + LEAST_S
        while runs < LEAST_RUNS or time.perf_counter() < until:
            began = time.process_time()
            self._session.run_with_iobinding(io)
            least, runs = min(least, time.process_time() - began), runs + 1
        return least

    def _bound(self, frames: int) -> Any:
        """Inputs and outputs of one shape share their memory, as activations do in a step."""
        io, shared = self._session.io_binding(), dict[tuple[str, int, int], Any]()
        kind = np.uint8 if self._precision == "int8" else np.float32

        def lying(name: str, rows: int, columns: int, dtype: Any) -> Any:
            key = (name, rows, columns)
            if key not in shared:
                values: NDArray[Any] = np.random.default_rng(1).integers(0, 256, (rows, columns)).astype(dtype)
                shared[key] = self._runtime.OrtValue.ortvalue_from_numpy(values)
            return shared[key]

        for i, one in enumerate(self._kinds):
            rows = one.rows * frames
            io.bind_ortvalue_input(f"a{i}", lying("a", rows, one.inner, kind))
            io.bind_ortvalue_output(f"y{i}", lying("y", rows, one.columns, np.float32))
        return io


def floors(
    sizes: Sequence[str], precisions: Sequence[str], latencies: Sequence[int] = LATENCIES,
    streams: Sequence[int] = STREAMS,
) -> Iterator[tuple[str, float]]:  # fmt: skip
    """The name of each size, precision, latency and number of streams, and the seconds of its products."""
    for size in sizes:
        for precision in precisions:
            made, known = Products(SIZES[size], precision), dict[int, float]()
            for latency_ms in latencies:
                for number in streams:
                    frames = number * latency_ms // FRAME_MS
                    known[frames] = known[frames] if frames in known else made.seconds(frames)
                    yield floor_name(Cell(size, precision, latency_ms, number, 1)), known[frames]
            del made  # hundreds of MB, before the next ones come


def run(book: Book, found: Iterator[tuple[str, float]], machine: str, say: Say) -> None:
    """Keep the floors as they come; of a floor that was measured before, the lower of the two on the same machine."""
    kept = book.section("floor")
    for name, seconds in found:
        before = kept.get(name)
        if before and before["machine"] == machine:
            seconds = min(seconds, before["seconds"])
        kept[name] = {"seconds": round(seconds, 7), "machine": machine, "date": time.strftime("%Y-%m-%d")}
        book.save()
        say(f"{name}: {1000 * seconds:.3f} ms")
