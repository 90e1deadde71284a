"""Every number of a FastConformer checkpoint, the derived ones checked. Knows nothing of torch, files or audio."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

SAMPLE_RATE = 16_000  # samples a second
HOP = 160  # samples between mel frames (10 ms)
WINDOW = 400  # samples under the analysis window (25 ms)
FFT = 512  # points
SUBSAMPLING = 8  # mel frames per encoder frame
FRAME_SAMPLES = HOP * SUBSAMPLING
FRAME_MS, _remainder = divmod(FRAME_SAMPLES * 1000, SAMPLE_RATE)
assert _remainder == 0
FRAME_S = FRAME_MS / 1000

MAX_CONTEXT = 1 << 14  # frames, 22 minutes: what a file asks for is allocated per stream
KINDS = ("rnnt", "tdt", "ctc", "hybrid")
ACTIVATIONS = ("relu", "tanh", "sigmoid")


def shown(text: str, most: int = 80) -> str:
    """A name from a file as a message may carry it: one line of ASCII, cut."""
    cut = text[:most] + ("..." if len(text) > most else "")
    return cut if cut.isascii() and cut.isprintable() else ascii(cut)


class ConfigError(ValueError):
    """A number of the model is wrong or not supported; the text says where, got and expected."""

    def __init__(self, where: str, got: object, expected: str) -> None:
        value = repr(got)
        super().__init__(f"{shown(where, 200)}={value[:200]}{'...' * (len(value) > 200)}: expected {expected}")
        self.where, self.got, self.expected = where, got, expected


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """One checkpoint in numbers. Frames are encoder frames of 80 ms unless a name says mel frames (10 ms).

    `contexts` lists (left, right) attention contexts, the first being the default; -1 means unlimited. Chunks have
    `right + 1` frames. `labels[i]` is the piece of id i; blank is id `vocab_size`.
    """

    name: str
    kind: str
    mels: int
    d_model: int
    layers: int
    heads: int
    d_ff: int
    contexts: tuple[tuple[int, int], ...]
    vocab_size: int
    labels: tuple[str, ...]
    normalize: str = "none"
    conv_kernel: int = 9
    conv_context: tuple[int, int] = (8, 0)
    conv_norm: str = "layer_norm"
    use_bias: bool = True
    xscaling: bool = True
    causal_subsampling: bool = True
    sub_channels: int = 256
    style: str = "chunked_limited"
    predictor_hidden: int = 0
    predictor_layers: int = 0
    joint_hidden: int = 0
    joint_activation: str = "relu"
    joint_dropout: bool = True  # only moves the name of the joint's last layer: joint_net.2 with, joint_net.1 without
    durations: tuple[int, ...] = ()
    max_symbols: int = 10
    prompts: tuple[tuple[str, int], ...] = ()
    num_prompts: int = 0
    strip_lang_tags: bool = False
    tokenizer: str = "sentencepiece"
    eou_id: int | None = None
    eob_id: int | None = None
    sample_rate: int = SAMPLE_RATE
    licence: str = "unknown"

    def __post_init__(self) -> None:
        self._check_encoder()
        self._check_contexts()
        self._check_heads()

    def _check_encoder(self) -> None:
        _expect("kind", self.kind, self.kind in KINDS, "one of " + ", ".join(KINDS))
        _expect("sample_rate", self.sample_rate, self.sample_rate == SAMPLE_RATE, str(SAMPLE_RATE))
        _expect("normalize", self.normalize, self.normalize in ("none", "per_feature"), "none or per_feature")
        _expect("conv_norm", self.conv_norm, self.conv_norm in ("layer_norm", "batch_norm"), "layer_norm or batch_norm")
        for key in ("mels", "d_model", "layers", "heads", "d_ff", "sub_channels", "vocab_size"):
            value = getattr(self, key)
            _expect(key, value, isinstance(value, int) and 1 <= value <= 1 << 20, "a whole number from 1")
        _expect("d_model", self.d_model, self.d_model % self.heads == 0, f"a multiple of heads={self.heads}")
        _expect("d_model", self.d_model, self.d_model % 2 == 0, "an even number")
        _expect("conv_kernel", self.conv_kernel, self.conv_kernel % 2 == 1, "an odd number")
        _expect("conv_kernel", self.conv_kernel, self.conv_kernel < 1024, "frames below 1024")
        _expect(
            "conv_context",
            self.conv_context,
            min(self.conv_context) >= 0 and sum(self.conv_context) == self.conv_kernel - 1,
            f"left + right = conv_kernel - 1 = {self.conv_kernel - 1}",
        )

    def _check_contexts(self) -> None:
        _expect("style", self.style, self.style in ("chunked_limited", "regular"), "chunked_limited or regular")
        _expect("contexts", self.contexts, len(self.contexts) > 0, "at least one (left, right)")
        for left, right in self.contexts:
            good = -1 <= left <= MAX_CONTEXT and -1 <= right <= MAX_CONTEXT
            _expect("contexts", (left, right), good, f"frames from 0 to {MAX_CONTEXT}, or -1 for unlimited")
            if self.style == "chunked_limited":
                _expect("contexts", (left, right), right >= 0, "a right context from 0 for chunked_limited")
                aligned = left == -1 or left % (right + 1) == 0
                _expect("contexts", (left, right), aligned, f"a left context that is a multiple of {right + 1}")

    def _check_heads(self) -> None:
        if self.transducer:
            for key in ("predictor_hidden", "predictor_layers", "joint_hidden"):
                _expect(key, getattr(self, key), 1 <= getattr(self, key) <= 1 << 20, "a whole number from 1")
            _expect("predictor_layers", self.predictor_layers, self.predictor_layers <= 2, "1 or 2")
            known = self.joint_activation in ACTIVATIONS
            _expect("joint_activation", self.joint_activation, known, "one of " + ", ".join(ACTIVATIONS))
            _expect("max_symbols", self.max_symbols, self.max_symbols >= 1, "a whole number from 1")
        possible = {"tdt": (True,), "hybrid": (True, False)}.get(self.kind, (False,))
        good = bool(self.durations) in possible
        _expect("durations", self.durations, good, "durations for a TDT model, alone or hybrid, and no other")
        _expect("durations", self.durations, all(0 <= d <= 64 for d in self.durations), "frames from 0 to 64")
        _expect("labels", len(self.labels), len(self.labels) == self.vocab_size, f"{self.vocab_size} pieces")
        _expect("num_prompts", self.num_prompts, 0 <= self.num_prompts <= 1 << 16, "a whole number from 0")
        inside = all(0 <= index < self.num_prompts for _, index in self.prompts)
        _expect("prompts", self.prompts, inside, f"below {self.num_prompts}")

    @property
    def transducer(self) -> bool:
        return self.kind != "ctc"

    @property
    def ctc(self) -> bool:
        return self.kind in ("ctc", "hybrid")

    @property
    def blank(self) -> int:
        return self.vocab_size

    @property
    def head_dim(self) -> int:
        return self.d_model // self.heads

    @property
    def streaming(self) -> bool:
        """Whether chunks can be computed exactly once: causal, chunk-limited, with a finite left context."""
        causal = self.causal_subsampling and self.conv_context[1] == 0 and self.normalize == "none"
        return causal and self.style == "chunked_limited" and all(left >= 0 for left, _ in self.contexts)

    @property
    def chunks(self) -> tuple[int, ...]:
        """Frames a chunk, one for each context in the checkpoint's order."""
        return tuple(right + 1 for _, right in self.contexts)

    @property
    def latencies_ms(self) -> tuple[int, ...]:
        return tuple(FRAME_MS * chunk for chunk in self.chunks) if self.streaming else ()

    @property
    def left(self) -> int:
        """The longest left context in frames."""
        return max(left for left, _ in self.contexts)

    @property
    def ring(self) -> int:
        """Positions of a K/V ring: frame f sits at f mod ring."""
        return self.left + max(self.chunks)

    @property
    def sub_widths(self) -> tuple[int, int, int]:
        """Mel width after each subsampling stage: kernel 3, stride 2, padding (2, 1) causal or (1, 1)."""
        padding = 3 if self.causal_subsampling else 2
        widths, width = [], self.mels
        for _ in range(3):
            width = (width + padding - 3) // 2 + 1
            widths.append(width)
        return widths[0], widths[1], widths[2]

    def context_of(self, chunk: int) -> tuple[int, int]:
        for left, right in self.contexts:
            if right + 1 == chunk:
                return left, right
        raise ConfigError("chunk", chunk, "one of " + ", ".join(map(str, self.chunks)))

    def chunk_of(self, latency_ms: int) -> int:
        """The chunk length in frames of one of the model's latencies."""
        if latency_ms in self.latencies_ms:
            return self.chunks[self.latencies_ms.index(latency_ms)]
        named = ", ".join(map(str, sorted(self.latencies_ms))) or "no latency: it is a full-context model"
        raise ConfigError("latency", latency_ms, f"one of the model's: {named}")

    def encoder_frames(self, mel_frames: int) -> int:
        """Encoder frames of an utterance of so many valid mel frames (golden/README: L -> L//2 + 1 a causal stage)."""
        if mel_frames <= 0:
            return 0
        for _ in range(3):
            mel_frames = mel_frames // 2 + 1 if self.causal_subsampling else (mel_frames - 1) // 2 + 1
        return mel_frames

    def prompt_index(self, language: str | None) -> int | None:
        """The prompt of a language; None asks for the model's own default ("auto", else the first)."""
        if not self.num_prompts:
            if language is None:
                return None
            raise ConfigError("language", language, "no language: this model has no prompts")
        table = dict(self.prompts)
        if language is None:
            return table.get("auto", self.prompts[0][1] if self.prompts else 0)
        if language in table:
            return table[language]
        raise ConfigError("language", language, "one of " + ", ".join(sorted(table)))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `from_dict` reads them back."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelConfig:
        """Raises ConfigError for an unknown or missing key, or a value of the wrong type."""
        fields = {field.name: field for field in dataclasses.fields(cls)}
        for key in values:
            _expect("config", key, key in fields, "one of " + ", ".join(fields))
        missing = [n for n, f in fields.items() if n not in values and f.default is dataclasses.MISSING]
        _expect("config", sorted(values), not missing, "also the keys " + ", ".join(missing))
        return cls(**{key: _typed(key, value, fields[key].type) for key, value in values.items()})


_TUPLES = {
    "contexts": lambda v: tuple((int(a), int(b)) for a, b in v),
    "prompts": lambda v: tuple((str(a), int(b)) for a, b in v),
    "conv_context": lambda v: (int(v[0]), int(v[1])),
    "durations": lambda v: tuple(int(d) for d in v),
    "labels": lambda v: tuple(str(p) for p in v),
}
_SCALARS = {"str": str, "int": int, "bool": bool, "int | None": (int, type(None))}


def _typed(key: str, value: Any, kind: Any) -> Any:
    if key in _TUPLES:
        try:
            return _TUPLES[key](value)
        except (TypeError, ValueError, LookupError, OverflowError) as error:
            raise ConfigError(key, value, str(kind)) from error
    good = isinstance(value, _SCALARS[kind]) and (kind == "bool" or not isinstance(value, bool))
    _expect(key, value, good, str(kind))
    return value


def _expect(where: str, got: object, good: bool, expected: str) -> None:
    if not good:
        raise ConfigError(where, got, expected)


def position_rates(d_model: int) -> tuple[float, ...]:
    """Angular rates of the sinusoidal relative positions (NeMo multi_head_attention.py:1015)."""
    return tuple(math.exp(-2 * i * math.log(10_000.0) / d_model) for i in range(d_model // 2))
