"""The list of parts: name, what it finds, its module's function, about how long. Knows nothing of how they are run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module

from streamer.gpu_check.job import FULL, Job

LIMIT_S = 570.0  # of a part's process: whoever lends a machine may end a command after ten minutes


@dataclass(frozen=True, slots=True)
class Part:
    """`module` has a function `run(job, *arguments)`."""

    name: str
    about: str
    module: str
    minutes: float
    arguments: tuple[str | int, ...] = ()

    def work(self) -> Callable[[Job], None]:
        """The part's function; imports what it needs."""
        module = import_module(f"streamer.gpu_check.{self.module}")
        function: Callable[[Job], None] = partial(_swapped, module.run, self.arguments)
        return function


def _swapped(run: Callable[..., None], arguments: tuple[str | int, ...], job: Job) -> None:
    run(job, *arguments)


def _latencies(model: str) -> list[int]:
    return sorted(FULL.models[model].latencies_ms)


PARTS: tuple[Part, ...] = (
    Part("environment", "versions, bandwidth, matrix products, what a launch costs", "environment", 1),
    Part("parity", "golden models: same tokens and frames, in any company, slot and rung", "parity", 8),
    Part("kernels", "our kernels beside torch's operators, at real sizes", "kernels", 5),
    Part("precision", "bf16 beside fp32: frames, tokens, word error rate", "precision", 4),
    Part("mixed", "streams of all latencies in flight together", "mixed", 3),
    *(
        Part(f"speed-{model}-{latency}", f"step times, {model} at {latency} ms", "speed", 3, (model, latency))
        for model in ("0.6b", "114m")
        for latency in _latencies(model)
    ),
    *(Part(f"profile-{model}", f"kernels of a tick, {model}", "profile", 4, (model,)) for model in FULL.models),
    *(
        Part(f"streams-{latency}", f"most streams in process, 0.6b at {latency} ms", "streams", 8, ("0.6b", latency))
        for latency in (80, 1120, 320, 160, 560)
    ),
    *(
        Part(f"sockets-{latency}", f"most streams by WebSocket, 0.6b at {latency} ms", "sockets", 9, (latency,))
        for latency in (80, 1120)
    ),
    Part("offline", "whole recordings a second, and what a million hours cost", "offline", 5),
    Part("tensorrt-rtx", "whether TensorRT-RTX runs here, and its step times", "rtx", 5),
)  # fmt: skip
NAMES = tuple(part.name for part in PARTS)


def named(name: str) -> Part:
    return next(part for part in PARTS if part.name == name)
