"""The tokenizer of a run: BPE pieces from the texts of manifests. Knows nothing of audio."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from models.tokenizer import train_bpe

NAME = "tokenizer"  # FOLDER/tokenizer.model is what a run reads


def texts(manifest: Path) -> Iterator[str]:
    """What is said in each line of a manifest."""
    for number, line in enumerate(manifest.read_text("utf-8").split("\n"), 1):
        if not line.strip():
            continue
        try:
            text = json.loads(line)["text"]
        except (ValueError, KeyError, TypeError):
            text = None
        if not isinstance(text, str):
            raise ValueError(f"{manifest} line {number}: got {line[:40]!r}, expected JSON with a text")
        yield text


def build(manifests: list[Path], vocab_size: int, folder: Path) -> Path:
    """Train the pieces and write them to the folder; returns the model's file."""
    sentences = [text for manifest in manifests for text in texts(manifest)]
    try:
        train_bpe(sentences, vocab_size, folder / NAME)
    except RuntimeError as error:  # SentencePiece's only type; mostly too little text for so many pieces
        raise ValueError(f"--vocab {vocab_size}: {len(sentences)} texts do not give it ({error})") from None
    return folder / f"{NAME}.model"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="train a BPE tokenizer on the texts of manifests")
    parser.add_argument("manifests", nargs="+", type=Path, metavar="MANIFEST")
    parser.add_argument("--vocab", type=int, default=256, metavar="N", help="pieces (default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="folder of tokenizer.model")
    args = parser.parse_args(argv)
    try:
        print(build(args.manifests, args.vocab, args.out))
    except (ValueError, OSError) as error:
        print(f"tokenizer: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
