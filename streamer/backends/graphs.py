"""A program of one loop as CUDA graphs: captured once, launched as often as wanted, on the highest rung that works.

whole      one graph; the loop is a conditional WHILE node, its condition a flag on the device (needs cuda-bindings)
unrolled   one graph with as many trips as there can be; those without work end at once
bodies     graphs of head, trip and tail; the host reads the flag after each trip
eager      no graph: operator by operator

Nothing falls silently: what was captured knows its rung and why the higher ones failed. Knows nothing of models.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

log = logging.getLogger(__name__)

RUNGS = ("whole", "unrolled", "bodies", "eager")
MOST_UNROLLED = 160  # trips: the worst case of 14 frames with 10 symbols each is 141
WARM_RUNS = 2  # the first compiles and picks kernels, the second shows that it needs nothing new


class Program(Protocol):
    """What is captured: `head`, then `trip` as long as the flag is not 0, then `tail`; all in static buffers."""

    loops: bool  # whether there are trips at all
    compiled: bool  # trips are kernels of our own: they allocate nothing and end at once without work
    most_trips: int

    @property
    def flag(self) -> Tensor:
        """(1,) int32 on the device: not 0 while another trip is needed."""

    def head(self) -> None: ...

    def trip(self) -> None: ...

    def tail(self) -> None: ...


@dataclass(slots=True)
class Captured:
    """A program ready to launch on the stream it was captured on."""

    rung: str
    launch: Callable[[], None]
    reasons: dict[str, str] = field(default_factory=dict)  # of each higher rung: why it is not this one
    failed: set[str] = field(default_factory=set)  # those of them that were tried
    pool: Any = None  # for the next capture: not always the one that was given
    keep: list[Any] = field(default_factory=list)  # what the graphs point into


def capture(program: Program, pool: Any, stream: Any, highest: str = "whole") -> Captured:
    """The program on the highest rung from `highest` down that this machine can do. Runs it a few times first.

    pool: a handle of torch.cuda.graph_pool_handle, shared by what is never run at the same time; capture the largest
    first. stream: a side stream, on which it will run, too.
    """
    before = torch.cuda.current_stream()
    stream.wait_stream(before)
    with torch.cuda.stream(stream), torch.inference_mode():
        for _ in range(WARM_RUNS):
            program.head()
            if program.loops:
                program.trip()
            program.tail()
    stream.synchronize()
    reasons: dict[str, str] = {}
    failed: set[str] = set()
    for rung in RUNGS[RUNGS.index(highest) :]:
        if (reason := why_not(rung, program)) is None:
            try:
                launch, keep = _MAKERS[rung](program, pool, stream)
                with torch.cuda.stream(stream):
                    launch()  # what can be captured can still refuse to run
                stream.synchronize()
                return Captured(rung, launch, reasons, failed, pool, keep)
            except (
                Exception
            ) as error:  # torch, the driver and its bindings have a dozen types for "cannot capture this"
                reason = f"{type(error).__name__}: {error}"[:300]
                failed.add(rung)
                # A capture that failed leaves torch on its stream, and its pool as one that is still being captured.
                torch.cuda.set_stream(before)
                torch.cuda.synchronize()
                pool = torch.cuda.graph_pool_handle()
        reasons[rung] = reason
        log.warning("CUDA graphs: %s: %s", rung, reason)
    raise AssertionError("eager always works")


def why_not(rung: str, program: Program) -> str | None:
    """Why a rung need not be tried, in words."""
    if rung == "whole" and program.loops:
        if not program.compiled:
            return "the loop's trips are not kernels of our own"
        try:
            import cuda.bindings.runtime  # noqa: F401
        except ImportError as error:
            return f"no cuda-bindings ({error})"
    if rung == "unrolled" and not (program.loops and program.compiled and program.most_trips <= MOST_UNROLLED):
        return "no loop of our own kernels to unroll, or one of too many trips"
    return None


def _graph(pool: Any, stream: Any, part: Callable[[], None]) -> Any:
    graph = torch.cuda.CUDAGraph()
    capturing = torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local")
    try:
        with torch.inference_mode(), capturing:
            part()
    except BaseException:
        _broken.append(graph)
        raise
    return graph


Made = tuple[Callable[[], None], list[Any]]


def _whole(program: Program, pool: Any, stream: Any) -> Made:
    keep: list[Any] = []
    if program.loops:
        _condition_kernel(program.flag.device.index or 0)  # compiled and loaded before anything is captured

    def everything() -> None:
        program.head()
        if program.loops:
            with while_set(program.flag, keep):
                program.trip()
        program.tail()

    graph = _graph(pool, stream, everything)
    return graph.replay, [graph, *keep]


def _unrolled(program: Program, pool: Any, stream: Any) -> Made:
    def everything() -> None:
        program.head()
        for _ in range(program.most_trips):
            program.trip()
        program.tail()

    graph = _graph(pool, stream, everything)
    return graph.replay, [graph]


def _bodies(program: Program, pool: Any, stream: Any) -> Made:
    head, tail = (_graph(pool, stream, part) for part in (program.head, program.tail))
    trip = _graph(pool, stream, program.trip) if program.loops else None

    def launch() -> None:
        head.replay()
        while trip is not None and program.flag.item():
            trip.replay()
        tail.replay()

    return launch, [head, trip, tail]


def _eager(program: Program, _pool: Any, _stream: Any) -> Made:
    def launch() -> None:
        with torch.inference_mode():
            program.head()
            while program.loops and program.flag.item():
                program.trip()
            program.tail()

    return launch, []


_MAKERS: dict[str, Callable[[Program, Any, Any], Made]] = {
    "whole": _whole,
    "unrolled": _unrolled,
    "bodies": _bodies,
    "eager": _eager,
}

_CONDITION = r"""
typedef __device_builtin__ unsigned long long cudaGraphConditionalHandle;
extern "C" __device__ __cudart_builtin__ void cudaGraphSetConditional(
    cudaGraphConditionalHandle handle, unsigned int value);
extern "C" __global__ void set_condition(cudaGraphConditionalHandle handle, const int *flag) {
    cudaGraphSetConditional(handle, *flag != 0);
}
"""
_kernels: dict[int, Any] = {}  # of each device, compiled once
_body_streams: dict[int, Any] = {}  # of each device, the stream on which bodies are captured
_broken: list[Any] = []  # graphs whose capture failed: the allocator still asks them whose memory is whose


@contextmanager
def while_set(flag: Tensor, keep: list[Any]) -> Iterator[None]:
    """What is launched inside becomes the body of a WHILE node of the graph that is being captured.

    It runs as long as `flag` (1,) int32 is not 0, the first time included, and may not allocate: torch does not know
    its stream as one that is being captured. The condition's kernel runs before the node and at each body's end
    (CUDA programming guide, conditional graph nodes). `keep` takes what must outlive the graph.
    """
    from cuda.bindings import driver, runtime

    stream = torch.cuda.current_stream()
    raw = stream.cuda_stream
    _, graph, *_ = _capturing(raw)
    (handle,) = _done(runtime.cudaGraphConditionalHandleCreate(graph, 0, 0))
    arguments = _Arguments(handle, flag)
    kernel = _condition_kernel(flag.device.index or 0)
    _launch(kernel, raw, arguments)
    _, graph, dependencies, *_ = _capturing(raw)
    params = driver.CUgraphNodeParams()
    params.type = driver.CUgraphNodeType.CU_GRAPH_NODE_TYPE_CONDITIONAL
    params.conditional.handle = handle
    params.conditional.type = driver.CUgraphConditionalNodeType.CU_GRAPH_COND_TYPE_WHILE
    params.conditional.size = 1
    (params.conditional.ctx,) = _done(driver.cuCtxGetCurrent())
    (node,) = _done(driver.cuGraphAddNode(graph, dependencies, *_edges(), len(dependencies), params))
    (body,) = params.conditional.phGraph_out[:1]
    only = runtime.cudaStreamUpdateCaptureDependenciesFlags.cudaStreamSetCaptureDependencies
    _done(runtime.cudaStreamUpdateCaptureDependencies(raw, [node], *_edges(), 1, only))
    inner = _body_stream(flag.device, raw)
    mode = runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
    _done(runtime.cudaStreamBeginCaptureToGraph(inner.cuda_stream, body, None, None, 0, mode))
    keep += [arguments, inner, flag]
    try:
        with torch.cuda.stream(inner):
            yield
        _launch(kernel, inner.cuda_stream, arguments)
    finally:
        ended = runtime.cudaStreamEndCapture(inner.cuda_stream)
    _done(ended)


def _body_stream(device: torch.device, captured: int) -> Any:
    """A stream that is not the one being captured: torch hands out the same 32 in turn."""
    known = _body_streams.get(device.index or 0)
    while known is None or known.cuda_stream == captured:
        known = torch.cuda.Stream(device)
    _body_streams[device.index or 0] = known
    return known


class _Arguments:
    """A kernel's arguments (handle, pointer) as the driver reads them, kept where they are."""

    def __init__(self, handle: Any, flag: Tensor) -> None:
        import numpy as np

        self._handle, self._pointer = handle, np.array([flag.data_ptr()], np.uint64)
        self._table = np.array([int(handle.getPtr()), self._pointer.ctypes.data], np.uint64)
        self.address = self._table.ctypes.data


def _launch(kernel: Any, stream: int, arguments: _Arguments) -> None:
    from cuda.bindings import driver

    _done(driver.cuLaunchKernel(kernel, 1, 1, 1, 1, 1, 1, 0, stream, arguments.address, 0))


def _capturing(stream: int) -> tuple[Any, ...]:
    """id, graph, dependencies and more of the capture under way on the stream; bindings differ in how many."""
    from cuda.bindings import runtime

    status, *rest = _done(runtime.cudaStreamGetCaptureInfo(stream))
    active = runtime.cudaStreamCaptureStatus.cudaStreamCaptureStatusActive
    if status != active:
        raise RuntimeError(f"capture: got status {status}, expected {active}")
    return tuple(rest)


def _edges() -> tuple[None, ...]:
    """From version 13 on the bindings want edge data, which we have none of, before the number of edges."""
    import cuda.bindings

    return (None,) if int(cuda.bindings.__version__.split(".")[0]) >= 13 else ()


def _condition_kernel(device: int) -> Any:
    """Compiled for the driver of this machine at first use."""
    if device not in _kernels:
        import numpy as np
        from cuda.bindings import driver

        ptx = np.frombuffer(condition_ptx(), np.uint8)
        (module,) = _done(driver.cuModuleLoadData(ptx.ctypes.data))
        (kernel,) = _done(driver.cuModuleGetFunction(module, b"set_condition"))
        _kernels[device] = (module, kernel)
    return _kernels[device][1]


def condition_ptx() -> bytes:
    """The condition's kernel as PTX, which the driver finishes; needs no GPU."""
    from cuda.bindings import nvrtc

    (program,) = _done(nvrtc.nvrtcCreateProgram(_CONDITION.encode(), b"condition.cu", 0, [], []))
    _done(nvrtc.nvrtcCompileProgram(program, 0, []))
    (size,) = _done(nvrtc.nvrtcGetPTXSize(program))
    ptx = bytes(size)
    _done(nvrtc.nvrtcGetPTX(program, ptx))
    _done(nvrtc.nvrtcDestroyProgram(program))
    return ptx


def _done(answer: tuple[Any, ...]) -> tuple[Any, ...]:
    """What a call of the bindings gave besides its status, which has to be a success."""
    status, *rest = answer
    if int(status) != 0:
        raise RuntimeError(f"CUDA: got {status!s}, expected success")
    return tuple(rest)
