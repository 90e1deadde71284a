"""The tokenizer of a run: BPE pieces from the texts of manifests. Knows nothing of audio."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from models.tokenizer import train_bpe
from models.training.manifest import texts
from models.training.text import normalize

NAME = "tokenizer"  # FOLDER/tokenizer.model is what a run reads


def build(manifests: list[Path], vocab_size: int, folder: Path, plain: bool = False) -> Path:
    """Train the pieces and write them to the folder; returns the model's file. `plain` normalises the texts first."""
    sentences = [normalize(text) if plain else text for manifest in manifests for text in texts(manifest)]
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
    parser.add_argument("--plain", action="store_true", help="normalise the texts, as `text: plain` of a run does")
    args = parser.parse_args(argv)
    try:
        print(build(args.manifests, args.vocab, args.out, args.plain))
    except (ValueError, OSError) as error:
        print(f"tokenizer: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
