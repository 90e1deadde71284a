"""A load in processes of its own, watched from this one. Knows nothing of what is done with what they tell.

The daemon, the clients and whoever adds up their figures share no interpreter: none keeps another waiting.
"""

from __future__ import annotations

import contextlib
import dataclasses
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack

from streamer.bench import notes
from streamer.bench.notes import Notes
from streamer.bench.order import Order

TICK_S = 1.0
END_S = 10.0  # a process that has said everything has so long to end

_Lines = queue.SimpleQueue[tuple[int, bytes]]  # of which process; b"": it says no more


class LoadFailed(Exception):
    """A process of the load ended before its time; the text is the sentence."""


def watch(order: Order, processes: int, told: Callable[[int, Notes], object], tick: Callable[[float], object]) -> None:
    """Run the load to its end. `told(part, notes)` has all they see, `tick(seconds)` is called once a second."""
    parts = min(processes, order.streams)
    lines: _Lines = queue.SimpleQueue()
    with ExitStack() as stack:
        running = {}
        for part in range(parts):
            running[part] = _started(dataclasses.replace(order, part=part, of=parts), lines)
            stack.callback(_end, running[part])
        began = due = time.monotonic()
        while running:
            if (now := time.monotonic()) >= due:
                tick(now - began)
                due = now + TICK_S
            with contextlib.suppress(queue.Empty):
                part, line = lines.get(timeout=max(0.0, due - time.monotonic()))
                if line:
                    told(part, notes.read(line))
                elif code := running.pop(part).wait(END_S):
                    raise LoadFailed(f"process {part} of the load ended with code {code}, expected 0")


def _started(order: Order, lines: _Lines) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-P", "-m", "streamer.bench.generator"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(order.to_json().encode() + b"\n")
    process.stdin.flush()  # it stays open: where it ends, the process does
    threading.Thread(target=_read, args=(process, order.part, lines), daemon=True).start()
    return process


def _read(process: subprocess.Popen[bytes], part: int, lines: _Lines) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        lines.put((part, line))
    lines.put((part, b""))


def _end(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    with contextlib.suppress(OSError):
        process.stdin.close()
    try:
        process.wait(END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
