"""`streamer models`: what a model is, without running it."""

from __future__ import annotations

import argparse
import json
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamer.commands import OK, CommandError, command, default_latency

if TYPE_CHECKING:
    from models.config import ModelConfig

WEIGHTS = "model.safetensors"  # of a folder of ours (models/store.py, which needs torch)
MAX_HEADER_BYTES = 16 << 20
NOT_LEARNED = re.compile(r"^preprocessor\.|\.(running_mean|running_var|num_batches_tracked)$")


def add(commands: Any) -> None:
    """The flags of the command."""
    parser = command(
        commands,
        "models",
        "what a model is",
        """
        streamer models info
        streamer models info nemotron.nemo
        """,
    )
    verbs = parser.add_subparsers(required=True, metavar="VERB", title="verbs")
    info = command(verbs, "info", "dimensions, latencies, vocabulary and licence of a model")
    info.add_argument(
        "model", nargs="?", default="", metavar="M", help="model folder or .nemo file (default: the one that ships)"
    )
    info.add_argument("--json", action="store_true", help="one JSON object")
    info.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the numbers of one model."""
    from streamer import artefacts

    path = artefacts.resolve(args.model, "pytorch")
    facts = describe(read(path), path)
    if args.json:
        print(json.dumps(facts, ensure_ascii=False))
        return OK
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"{name:<{width}}  {', '.join(map(str, value)) if isinstance(value, list) else value}")
    return OK


def read(path: Path) -> ModelConfig:
    """The configuration of a folder of ours or of a .nemo file (the latter needs torch)."""
    from models.config import ModelConfig

    if path.is_file():
        from models import nemo

        return nemo.read_config(path)
    try:
        return ModelConfig.from_dict(json.loads((path / "config.json").read_text("utf-8")))
    except OSError:
        raise CommandError(f"{path}: not a model folder (no config.json)") from None
    except (json.JSONDecodeError, UnicodeDecodeError, TypeError, AttributeError):
        raise CommandError(f"{path / 'config.json'}: not the JSON of a model") from None


def describe(config: ModelConfig, path: Path) -> dict[str, Any]:
    """What a person wants to know before using the model."""
    facts: dict[str, Any] = {
        "name": config.name,
        "path": str(path),
        "kind": config.kind,
        "latencies_ms": sorted(config.latencies_ms) or "offline (full context)",
        "default_latency_ms": default_latency(config.latencies_ms) if config.latencies_ms else "none",
        "left_context_s": round(config.left * 0.08, 2) if config.streaming else "unlimited",
        "encoder": f"{config.layers} layers of {config.d_model}, {config.heads} heads, feed-forward {config.d_ff}, "
        f"convolution {config.conv_kernel} ({config.conv_norm})",
        "subsampling": f"8, {config.sub_channels} channels, {'causal' if config.causal_subsampling else 'not causal'}",
        "features": f"{config.mels} mels, 10 ms, {config.sample_rate} Hz, normalisation {config.normalize}",
        "vocabulary": f"{config.vocab_size} pieces ({config.tokenizer})",
    }
    if config.transducer:
        facts["predictor"] = (
            f"{config.predictor_layers} LSTM layers of {config.predictor_hidden}, joint {config.joint_hidden}"
        )
    if config.durations:
        facts["durations"] = list(config.durations)
    if config.prompts:
        facts["languages"] = sorted(language for language, _ in config.prompts)
    if config.eou_id is not None:
        facts["end_of_utterance"] = config.labels[config.eou_id]
    if (count := parameters(path / WEIGHTS)) is not None:
        facts["parameters"] = count
    return facts | {"licence": config.licence}


def parameters(weights: Path) -> int | None:
    """How many numbers were learned, by the header of a safetensors file; None where there is none to be read."""
    try:
        with weights.open("rb") as file:
            header = json.loads(file.read(min(MAX_HEADER_BYTES, int.from_bytes(file.read(8), "little"))))
        learned = [name for name in header if name != "__metadata__" and not NOT_LEARNED.search(name)]
        return sum(int(math.prod(header[name]["shape"])) for name in learned)
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return None
