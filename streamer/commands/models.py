"""`streamer models`: what a model is, without running it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamer.commands import OK, CommandError, command

if TYPE_CHECKING:
    from models.config import ModelConfig


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
    return facts | {"licence": config.licence}
