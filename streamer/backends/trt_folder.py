"""What a folder of TensorRT engines is: the engines' tensors by name, the sidecar that describes them, its checks.

Knows nothing of torch, TensorRT or GPUs: what is installed here comes in as a value.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from models.config import FRAME_MS, ModelConfig
from streamer.backends.base import BackendError

FORMAT = 1
SIDECAR = "tensorrt.json"
WEIGHTS = "decoder.safetensors"  # predictor and joint: the label loop is not the engine's
PRECISIONS = {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32"}
FLAVOURS = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}  # Python modules, in the order they are tried
FEWEST_SLOTS = 2  # one stream's and the spare one
MOST_SLOTS = 1 << 14
MOST_ELEMENTS = (1 << 31) - 1  # of one tensor: TensorRT's own limit
CHANNELS_LAST = ("sub1", "sub2")  # of the state: (slots, channels, 1, width) that lies as (slots, 1, width, channels)
ALIGNMENT = 256  # bytes; TensorRT wants its tensors to begin at multiples of it
BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int32": 4}


@dataclass(frozen=True, slots=True)
class Port:
    """A tensor of an engine. Only its first dimension varies: `places` for each row of a tick, or slot of the arena."""

    name: str
    dtype: str  # as torch calls it
    places: int
    rest: tuple[int, ...] = ()

    def shape(self, count: int) -> tuple[int, ...]:
        """The shape for so many rows, or slots."""
        return (count * self.places, *self.rest)


@dataclass(frozen=True, slots=True)
class Ports:
    """All tensors of one engine: a tick's inputs by row, the arena by slot, and what comes out by row.

    `arena` names the state's tensors as the device arena does; its rows' new values are the output `new_<name>`.
    """

    tick: tuple[Port, ...]
    arena: tuple[Port, ...]
    out: tuple[Port, ...]

    @property
    def inputs(self) -> tuple[Port, ...]:
        return self.tick + self.arena

    @property
    def names(self) -> frozenset[str]:
        return frozenset(port.name for port in self.inputs + self.out)


def ports(config: ModelConfig, chunk: int, precision: str) -> Ports:
    """The tensors of the engine for chunks of `chunk` frames; the state is in `precision`, scores in float32.

    Shapes are those in memory. K/V rings are a table of frames, (slots * heads * ring, head_dim), that the engine reads
    by row number.
    """
    state, left, layers = PRECISIONS[precision], config.context_of(chunk)[0], range(config.layers)
    first, second, _ = config.sub_widths
    channels, width = config.sub_channels, config.joint_hidden if config.transducer else config.vocab_size + 1
    counters = ("slots", "frames", "valid", "last", *(("prompt",) if config.num_prompts else ()))
    small = {"mel_tail": (1, config.mels), "sub1": (1, first, channels), "sub2": (1, second, channels)}
    if config.conv_context[0]:
        small |= {f"conv.{layer}": (config.conv_context[0], config.d_model) for layer in layers}
    rings = [f"{kind}.{layer}" for kind in ("keys", "values") for layer in layers]
    arena = tuple(Port(name, state, 1, shape) for name, shape in small.items())
    read = tuple(Port(name, state, config.heads * config.ring, (config.head_dim,)) for name in rings if left)
    rows = (config.heads, chunk, config.head_dim)
    return Ports(
        tick=(Port("mel", "float32", 1, (8 * chunk, config.mels)), *(Port(name, "int32", 1) for name in counters)),
        arena=arena + read,
        out=(
            Port("scores", "float32", 1, (chunk, width)),
            Port("count", "int32", 1),
            *(Port(f"new_{port.name}", state, 1, port.rest) for port in arena),
            *(Port(f"new_{name}", state, 1, rows) for name in rings if left),
        ),
    )


def layout(ports: Sequence[Port], rows: int) -> tuple[dict[str, int], int]:
    """Where in one block of memory each tensor of so many rows begins, and the block's size; bytes."""
    offsets, end = {}, 0
    for port in ports:
        offsets[port.name] = end
        end += -(-math.prod(port.shape(rows)) * BYTES[port.dtype] // ALIGNMENT) * ALIGNMENT
    return offsets, end


def most_slots(config: ModelConfig) -> int:
    """Slots, the spare one included, up to which an engine is built: its largest tensor has a limit."""
    return min(MOST_SLOTS, MOST_ELEMENTS // (config.heads * config.ring * config.head_dim))


def profiles_of(buckets: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """(fewest, most) rows of each optimisation profile: each reaches from the bucket below to its own."""
    sizes = sorted(set(buckets))
    if not sizes or sizes[0] < 1:
        raise BackendError("buckets", list(buckets), "batch sizes from 1 on")
    return tuple(zip([1, *(size + 1 for size in sizes[:-1])], sizes, strict=True))


def config_hash(config: ModelConfig) -> str:
    """What the engines' shapes and the words depend on: the configuration without name and licence."""
    values = {key: value for key, value in config.to_dict().items() if key not in ("name", "licence")}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Here:
    """What there is to run engines with. Compute capability as "9.0"."""

    flavour: str
    version: str
    compute_capability: str


@dataclass(frozen=True, slots=True)
class Plan:
    """One engine's file: chunks of how many frames, and how many bytes it has when it is whole."""

    chunk: int
    file: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sidecar:
    """tensorrt.json: of which model the engines are, what they were built with and for."""

    hash: str  # the model's fingerprint
    config: str  # config_hash
    precision: str
    flavour: str
    version: str
    compute_capability: str | None  # None: the flavour compiles for whatever it supports when the engine is loaded
    slots: int  # the most, spare one included
    profiles: tuple[tuple[int, int], ...]  # fewest and most rows
    plans: tuple[Plan, ...]
    built: str  # UTC

    def to_json(self) -> str:
        latencies = {"latencies_ms": [FRAME_MS * plan.chunk for plan in self.plans]}
        return json.dumps({"format": FORMAT} | asdict(self) | latencies, indent=1)

    @classmethod
    def read(cls, folder: Path) -> Sidecar:
        """What lies in the folder; a BackendError where it is not what an export wrote."""
        where = f"{folder.name}/{SIDECAR}"
        try:
            values = json.loads((folder / SIDECAR).read_text(encoding="utf-8"))
        except OSError as error:
            made = "a folder made by `streamer export --to trt`"
            raise BackendError(where, type(error).__name__, made) from error
        except ValueError as error:
            raise BackendError(where, type(error).__name__, "JSON") from error
        found = values.get("format") if isinstance(values, dict) else type(values).__name__
        if found != FORMAT:
            raise BackendError(f"{where} format", found, f"{FORMAT}; export it again")
        try:
            return cls(**_parsed(values))
        except (KeyError, TypeError, ValueError) as error:
            raise BackendError(where, f"{type(error).__name__} {error}", "what an export writes") from error

    @property
    def chunks(self) -> tuple[int, ...]:
        return tuple(plan.chunk for plan in self.plans)

    @property
    def buckets(self) -> tuple[int, ...]:
        """The batch sizes that the engines were made fast for, ascending."""
        return tuple(most for _, most in self.profiles)

    def check(self, here: Here, config: ModelConfig, precision: str | None = None) -> None:
        """Refuse, in one sentence, engines that are of another model or cannot run here as asked."""
        if self.config != config_hash(config):
            raise BackendError("config.json", "another model's configuration", f"that of the engines in {SIDECAR}")
        if precision not in (None, self.precision):
            raise BackendError("precision", precision, f"{self.precision}, which the engines have; or export again")
        named = FLAVOURS[self.flavour]
        if here.flavour != self.flavour:
            raise BackendError("flavour", FLAVOURS[here.flavour], f"{named}, which made the engines; or export again")
        if here.version != self.version:
            made = f"{named} {self.version}, which made the engines; or export again"
            raise BackendError("version", f"{named} {here.version}", made)
        if self.compute_capability not in (None, here.compute_capability):
            wanted = f"{self.compute_capability}, for which the engines were built; or export on this GPU"
            raise BackendError("compute capability", here.compute_capability, wanted)

    def check_slots(self, slots: int) -> None:
        """Refuse an arena of more slots, spare one included, than the engines address."""
        if not FEWEST_SLOTS <= slots <= self.slots:
            raise BackendError("slots", slots, f"{FEWEST_SLOTS} to {self.slots}, one of them spare")

    def plan_of(self, chunk: int) -> Plan:
        """The engine for chunks of so many frames."""
        for plan in self.plans:
            if plan.chunk == chunk:
                return plan
        there = ", ".join(str(FRAME_MS * known) for known in self.chunks)
        raise BackendError("latency", f"{FRAME_MS * chunk} ms", f"one that was exported (--latency): {there} ms")

    def profile_of(self, rows: int) -> int:
        """The number of the optimisation profile for a batch of so many rows."""
        for number, (fewest, most) in enumerate(self.profiles):
            if fewest <= rows <= most:
                return number
        raise BackendError("rows", rows, f"1 to {self.buckets[-1]}, for which the engines were built (--buckets)")

    def check_files(self, folder: Path) -> None:
        """Refuse a folder whose engines are missing or cut off."""
        for plan in self.plans:
            path = folder / plan.file
            size = path.stat().st_size if path.is_file() else None
            if size != plan.size:
                got = "no such file" if size is None else f"{size} bytes"
                raise BackendError(f"{folder.name}/{plan.file}", got, f"{plan.size} bytes; export it again")


def _parsed(values: dict[str, Any]) -> dict[str, Any]:
    """The sidecar's fields from JSON; KeyError, TypeError or ValueError where they are not."""
    kept = {name: str(values[name]) for name in ("hash", "config", "precision", "flavour", "version", "built")}
    for name, known in (("precision", PRECISIONS), ("flavour", FLAVOURS)):
        if kept[name] not in known:
            raise ValueError(f"{name}={kept[name]!r}")
    capability = values["compute_capability"]
    profiles = tuple((int(fewest), int(most)) for fewest, most in values["profiles"])
    plans = tuple(Plan(int(p["chunk"]), Path(str(p["file"])).name, int(p["size"])) for p in values["plans"])
    if not profiles or not plans:
        raise ValueError("no profiles or no plans")
    return kept | {
        "compute_capability": None if capability is None else str(capability),
        "slots": int(values["slots"]),
        "profiles": profiles,
        "plans": plans,
    }
