"""One measurement of `streamer bench peers`: an engine stepped through audio, in a process of its own.

Knows nothing of tables. It runs under the peer's Python too, and so imports NumPy alone, and inside the engine it is
told to.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

RATE = 16_000
FRAME_SAMPLES = 1280  # of an encoder frame, 80 ms
PROBE_SAMPLES = 10  # asked about in such steps, when the peer has enough for its first step

Pcm = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Order:
    """What to measure: `streams` streams of `chunk` frames a step, all stepping together, `threads` threads.

    `warm` steps come first and are not counted, then `steps` that are. `audio` is a .npy file of 16 kHz float32.
    """

    engine: str  # of ENGINES
    folder: str
    precision: str
    chunk: int
    streams: int
    threads: int
    warm: int
    steps: int
    audio: str


class Engine(Protocol):
    """Streams that step together: samples in, tokens counted."""

    version: str
    first_samples: int  # that the first step of a stream takes; each later one takes a chunk

    def step(self, pieces: Sequence[Pcm]) -> None:
        """Take each stream's next samples, and hear them."""

    def tokens(self) -> int:
        """Heard so far, by all streams."""


class Ours:
    """The backend that the daemon has on a CPU, without the daemon: a lane for each thread, the streams spread over
    them."""

    def __init__(self, order: Order) -> None:
        from streamer.backends.base import Row, samples_needed
        from streamer.backends.ort import load

        self._row, self._chunk, self._tokens = Row, order.chunk, 0
        self._lanes = load(Path(order.folder), order.streams, 1).lanes(order.threads)
        parts = np.array_split(np.arange(order.streams), len(self._lanes))
        self._parts = [slice(int(part[0]), int(part[-1]) + 1) for part in parts]
        for lane, part in zip(self._lanes, self._parts, strict=True):
            for slot in range(part.stop - part.start):
                lane.open(slot)
        self._threads = ThreadPoolExecutor(len(self._lanes))
        self.first_samples = samples_needed(0, order.chunk)
        self.version = f"onnxruntime {version('onnxruntime')}"

    def step(self, pieces: Sequence[Pcm]) -> None:
        if len(self._lanes) == 1:
            self._tokens += self._step(self._lanes[0], pieces)
            return
        own = [pieces[part] for part in self._parts]
        self._tokens += sum(self._threads.map(self._step, self._lanes, own))

    def _step(self, lane: Any, pieces: Sequence[Pcm]) -> int:
        tokens = 0
        for heard in lane.collect(lane.launch(self._chunk, [self._row(slot, pcm) for slot, pcm in enumerate(pieces)])):
            if isinstance(heard, Exception):
                raise heard
            tokens += len(heard)
        return tokens

    def tokens(self) -> int:
        return self._tokens


class Sherpa:
    """sherpa-onnx's recogniser with endpoints off, as its Python package has it."""

    def __init__(self, order: Order) -> None:
        import sherpa_onnx

        folder, kind = Path(order.folder), ".int8" if order.precision == "int8" else ""
        self._recognizer = sherpa_onnx.OnlineRecognizer.from_transducer(
            tokens=str(folder / "tokens.txt"),
            encoder=str(folder / f"encoder{kind}.onnx"),
            decoder=str(folder / f"decoder{kind}.onnx"),
            joiner=str(folder / f"joiner{kind}.onnx"),
            num_threads=order.threads,
            feature_dim=80,
            provider="cpu",
        )
        self.first_samples = self._first_samples()
        self._streams = [self._recognizer.create_stream() for _ in range(order.streams)]
        self.version = f"sherpa-onnx {version('sherpa-onnx')}"

    def _first_samples(self) -> int:
        """How many it wants before it takes its first step: found out, for its windows are its own business."""
        stream, fed = self._recognizer.create_stream(), 0
        while not self._recognizer.is_ready(stream):
            stream.accept_waveform(RATE, np.zeros(PROBE_SAMPLES, np.float32))
            fed += PROBE_SAMPLES
        return fed

    def step(self, pieces: Sequence[Pcm]) -> None:
        for stream, pcm in zip(self._streams, pieces, strict=True):
            stream.accept_waveform(RATE, pcm)
        late = [stream for stream in self._streams if not self._recognizer.is_ready(stream)]
        assert not late, f"{len(late)} streams are not ready for a step that they have the samples of"
        self._recognizer.decode_streams(self._streams)

    def tokens(self) -> int:
        return sum(len(self._recognizer.tokens(stream)) for stream in self._streams)


ENGINES: dict[str, type[Ours] | type[Sherpa]] = {"ours": Ours, "sherpa-onnx": Sherpa}


def measure(engine: Engine, audio: Pcm, order: Order) -> dict[str, Any]:
    """Step the engine; processor seconds, step times in ms, tokens and memory in MB of the steps that count.

    A step is everything from samples to tokens, features included. Each stream begins elsewhere in the audio.
    """
    at = np.linspace(0, len(audio), order.streams, endpoint=False).astype(int)
    took: list[float] = []
    cpu_s, tokens = 0.0, 0
    for number in range(order.warm + order.steps):
        if number == order.warm:
            cpu_s, tokens = time.process_time(), engine.tokens()
        size = engine.first_samples if number == 0 else FRAME_SAMPLES * order.chunk
        pieces = [np.take(audio, np.arange(first, first + size), mode="wrap") for first in at]
        at += size
        began = time.perf_counter()
        engine.step(pieces)
        took.append(time.perf_counter() - began)
    counted = 1000 * np.array(took[order.warm :])
    return {
        "audio_s": order.steps * order.chunk * FRAME_SAMPLES / RATE,  # of one stream
        "cpu_s": round(time.process_time() - cpu_s, 5),
        "step_ms_p50": round(float(np.median(counted)), 3),
        "step_ms_p95": round(float(np.quantile(counted, 0.95)), 3),
        "tokens": engine.tokens() - tokens,
        "version": engine.version,
        **memory(),
    }


def memory() -> dict[str, float]:
    """MB that this process holds now, and the most it ever held, loading included; empty where nobody tells."""
    status = Path("/proc/self/status")
    if not status.exists():
        return {}
    fields = dict(line.split(":", 1) for line in status.read_text("ascii").splitlines() if ":" in line)
    held = {"rss_mb": "VmRSS", "peak_mb": "VmHWM"}
    return {name: round(int(fields[field].split()[0]) / 1024, 1) for name, field in held.items()}


def order_text(order: Order) -> str:
    """As the process takes it on its command line."""
    return json.dumps(asdict(order))


def main() -> None:
    """Read the order, print one line of JSON."""
    order = Order(**json.loads(sys.argv[1]))
    result = measure(ENGINES[order.engine](order), np.load(order.audio), order)
    print(json.dumps(result), flush=True)
    os._exit(0)  # what follows is giving back memory, which nobody measures


if __name__ == "__main__":
    main()
