"""The verbs every backend speaks, and a stream's state as a value. Knows nothing of how a step is computed."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from models.config import FRAME_SAMPLES, ModelConfig
from streamer.decoding import Token

LOUDEST = 1e4  # full scale is 1: past 80 dB above it these are no samples, and near 1e19 their power is infinite
FIRST_SHORTER_BY = 1080  # the first chunk ends where its last mel frame's window does: 7 hops less 40 samples

MAGIC = b"FCST"
VERSION = 1
_PREFIX = struct.Struct("<4sHI")  # magic, version, bytes of the JSON header
_MOST_HEADER_BYTES = 1 << 20
_MOST_ARRAYS = 4096
_DTYPES = {"float32": np.float32, "float16": np.float16, "int64": np.int64, "int8": np.int8, "uint8": np.uint8}


class BackendError(ValueError):
    """A caller's mistake or a broken artefact, said as `where: got X, expected Y`."""

    def __init__(self, where: str, got: object, expected: str) -> None:
        super().__init__(f"{where}: got {got}, expected {expected}")
        self.where, self.got, self.expected = where, got, expected


class Row(NamedTuple):
    """One stream's part of a launch: its slot and the next samples of its audio (16 kHz float32)."""

    slot: int
    pcm: NDArray[np.float32]
    last: bool = False


Heard = list[Token] | Exception


@dataclass(slots=True)
class Ticket:
    """A launch under way. On the CPU the results are there at once."""

    rows: int
    results: list[Heard] = field(default_factory=list)


def samples_needed(chunk_index: int, chunk: int, chunks: int = 1) -> int:
    """Samples that so many chunks from number `chunk_index` on take in a stream with `chunk` frames per chunk."""
    return FRAME_SAMPLES * chunk * chunks - (FIRST_SHORTER_BY if chunk_index == 0 else 0)


def check_chunks(chunks: int, most: int) -> None:
    """Refuse a launch of no chunk, or of more than a backend takes at once."""
    if not 1 <= chunks <= most:
        raise BackendError("chunks", chunks, f"1 to {most}")


def check_turn(slot: int, chunk: int, before: int, done: bool) -> None:
    """Refuse a chunk after a stream's last one, or of another length than those `before` (0: there were none)."""
    if done:
        raise BackendError(f"slot {slot}", "audio after its last chunk", "a new stream")
    if before not in (0, chunk):
        raise BackendError(f"slot {slot} chunk", chunk, f"{before}, as before in this stream")


def check_row(row: Row, needed: int) -> None:
    """Refuse a row whose samples are not what its next chunk takes."""
    pcm, where = row.pcm, f"slot {row.slot} pcm"
    if not isinstance(pcm, np.ndarray) or pcm.dtype != np.float32 or pcm.ndim != 1:
        got = f"{pcm.dtype} of shape {pcm.shape}" if isinstance(pcm, np.ndarray) else type(pcm).__name__
        raise BackendError(where, got, "one dimension of float32 samples")
    if row.last and not 0 <= len(pcm) < needed:
        raise BackendError(where, f"{len(pcm)} samples", f"0 to {needed - 1} at the end")
    if not row.last and len(pcm) != needed:
        raise BackendError(where, f"{len(pcm)} samples", f"exactly {needed}")
    if not np.isfinite(pcm).all():
        raise BackendError(where, "NaN or infinite samples", "finite numbers")
    if (peak := float(np.abs(pcm).max(initial=0.0))) > LOUDEST:
        raise BackendError(where, f"samples up to {peak:.2g}", f"up to {LOUDEST:g}, where 1 is full scale")


@dataclass(frozen=True, slots=True)
class State:
    """All that a model knows of one stream. Good for the same model, backend and precision only."""

    model: str  # hash of the model's numbers
    backend: str
    precision: str
    arrays: dict[str, NDArray[Any]]

    def to_bytes(self) -> bytes:
        """Magic, version, a JSON header that names the arrays, then the arrays' bytes in that order."""
        kept = {name: np.ascontiguousarray(a).reshape(a.shape) for name, a in self.arrays.items()}
        table = [[name, str(a.dtype), list(a.shape)] for name, a in kept.items()]
        fields = {"model": self.model, "backend": self.backend, "precision": self.precision, "arrays": table}
        header = json.dumps(fields, separators=(",", ":")).encode()
        return _PREFIX.pack(MAGIC, VERSION, len(header)) + header + b"".join(a.tobytes() for a in kept.values())

    @classmethod
    def from_bytes(cls, data: bytes) -> State:
        """Parse what `to_bytes` wrote; anything else is a BackendError, never more memory than `data` has."""
        header, body = _split(data)
        for name in ("model", "backend", "precision"):
            if not isinstance(header.get(name), str):
                raise BackendError(f"state.{name}", repr(header.get(name))[:80], "a string")
        return cls(header["model"], header["backend"], header["precision"], _arrays(header.get("arrays"), body))

    def check(self, model: str, backend: str, precision: str) -> None:
        """Refuse to be put where the numbers would mean something else."""
        for name, want in (("model", model), ("backend", backend), ("precision", precision)):
            if (got := getattr(self, name)) != want:
                raise BackendError(f"state.{name}", got, want)


def _split(data: bytes) -> tuple[dict[str, Any], memoryview]:
    if len(data) < _PREFIX.size:
        raise BackendError("state", f"{len(data)} bytes", f"at least {_PREFIX.size}")
    magic, version, length = _PREFIX.unpack_from(data)
    if magic != MAGIC:
        raise BackendError("state.magic", magic, repr(MAGIC))
    if version != VERSION:
        raise BackendError("state.version", version, str(VERSION))
    if length > min(_MOST_HEADER_BYTES, len(data) - _PREFIX.size):
        raise BackendError("state.header", f"{length} bytes", f"at most {min(_MOST_HEADER_BYTES, len(data))}")
    view = memoryview(data)
    try:
        header = json.loads(bytes(view[_PREFIX.size : _PREFIX.size + length]))
    except (ValueError, RecursionError) as error:
        raise BackendError("state.header", type(error).__name__, "JSON") from None
    if not isinstance(header, dict):
        raise BackendError("state.header", type(header).__name__, "an object")
    return header, view[_PREFIX.size + length :]


def _arrays(table: object, body: memoryview) -> dict[str, NDArray[Any]]:
    if not isinstance(table, list) or len(table) > _MOST_ARRAYS:
        raise BackendError("state.arrays", type(table).__name__, f"a list of at most {_MOST_ARRAYS}")
    arrays: dict[str, NDArray[Any]] = {}
    at = 0
    for entry in table:
        name, dtype, shape = _entry(entry)
        size = math.prod(shape) * dtype.itemsize
        if name in arrays or size > len(body) - at:
            raise BackendError(f"state.{name[:40]}", "twice or cut off", "once and whole")
        arrays[name] = np.frombuffer(body[at : at + size], dtype).reshape(shape).copy()
        at += size
    if at != len(body):
        raise BackendError("state", f"{len(body) - at} bytes after the last array", "none")
    return arrays


def _entry(entry: object) -> tuple[str, np.dtype[Any], tuple[int, ...]]:
    match entry:
        case [str(name), str(dtype), [*shape]] if dtype in _DTYPES and len(shape) <= 8:
            if all(type(size) is int and 0 <= size < 1 << 31 for size in shape):
                return name, np.dtype(_DTYPES[dtype]), tuple(map(int, map(str, shape)))
    raise BackendError("state.arrays", repr(entry)[:80], "[name, dtype, shape]")


class Backend(Protocol):
    """PCM in, tokens out, state in slots. One thread speaks to a backend at a time."""

    config: ModelConfig
    tokenizer: Any  # models.tokenizer.Tokenizer
    name: str
    precision: str
    slots: int
    contiguous: bool  # True: a launch is fast on neighbouring slots only
    depth: int  # launches that may be under way before the first is collected; they are collected in their order

    @property
    def about(self) -> dict[str, str]:
        """How it runs, for the log and /metrics: device, precision, kernels, rung."""

    def lanes(self, count: int) -> Sequence[Backend]:
        """This backend as up to `count` over the same weights, each with its part of the slots, that threads of their
        own may speak to at the same time. It is not to be used beside them, unless it is the only one itself."""

    def open(self, slot: int, prompt: int | None = None) -> None:
        """Make `slot` a stream that heard nothing; `prompt` is a language's index where the model has prompts."""

    def most_chunks(self, chunk: int) -> int:
        """Chunks of `chunk` encoder frames that one launch can take of each row; 1 where steps have one shape."""

    def launch(self, chunk: int, rows: Sequence[Row], chunks: int = 1) -> Ticket:
        """Step the rows' streams by `chunks` chunks of `chunk` encoder frames, those that end by what they have left;
        no slot twice. The words are those of one chunk after the other."""

    def collect(self, ticket: Ticket) -> list[Heard]:
        """What each row said, in order: its tokens, or the Exception that this row alone met."""

    def take(self, slot: int) -> State:
        """A copy of the stream's state; the stream stays."""

    def put(self, slot: int, state: State) -> None:
        """Make `slot` the stream that `state` is."""

    def fork(self, source: int, target: int) -> None:
        """Make `target` the stream that `source` is; no launch with either of them is under way."""

    def vacate(self, slot: int) -> None:
        """Nobody is in `slot` any more, and no launch with it is under way: give back what it took, where that can be
        done. It is opened, or put or forked into, before it is stepped again."""

    def forget(self) -> None:
        """No stream is open any more; give back what memory their steps took, where that can be done."""

    def close(self) -> None:
        """Give back memory and threads."""
