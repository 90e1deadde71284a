"""Pieces to ids and back, for SentencePiece models and for plain label lists. Knows nothing of torch, time or words."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import sentencepiece

SPACE = "\u2581"  # SentencePiece's mark for the beginning of a word


class TokenizerError(ValueError):
    """A tokenizer's bytes or labels cannot be used; the text says where, got and expected."""


class Tokenizer:
    """The vocabulary of one model; `kind` is "sentencepiece" or "labels", `pieces[i]` the piece of id i."""

    kind: str
    pieces: tuple[str, ...]

    @staticmethod
    def from_sentencepiece(model: bytes) -> SentencePieces:
        return SentencePieces(model)

    @staticmethod
    def from_labels(labels: Iterable[str]) -> Labels:
        return Labels(tuple(labels))

    @staticmethod
    def from_bytes(kind: str, data: bytes) -> Tokenizer:
        """What `to_bytes` of a tokenizer of that kind gave."""
        if kind == "sentencepiece":
            return SentencePieces(data)
        if kind != "labels":
            raise TokenizerError(f"tokenizer.kind: got {kind!r}, expected sentencepiece or labels")
        labels = json.loads(data)
        if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
            raise TokenizerError("tokenizer.labels: got something else, expected a list of strings")
        return Labels(tuple(labels))

    def __len__(self) -> int:
        return len(self.pieces)

    def decode(self, ids: Sequence[int]) -> str:
        raise NotImplementedError

    def encode(self, text: str) -> list[int]:
        raise NotImplementedError

    def starts_word(self, id_: int) -> bool:
        raise NotImplementedError

    def to_bytes(self) -> bytes:
        raise NotImplementedError


class SentencePieces(Tokenizer):
    """A SentencePiece model, BPE or unigram, given as the bytes of its file."""

    kind = "sentencepiece"

    def __init__(self, model: bytes) -> None:
        self._bytes = bytes(model)
        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(self._bytes)
        except RuntimeError as error:
            raise TokenizerError(
                f"tokenizer: got {len(model)} bytes, expected a SentencePiece model ({error})"
            ) from error
        self.pieces = tuple(self._processor.IdToPiece(i) for i in range(self._processor.GetPieceSize()))
        self._starts = tuple(piece.startswith(SPACE) for piece in self.pieces)

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._processor.DecodeIds([int(i) for i in ids]))

    def encode(self, text: str) -> list[int]:
        return [int(i) for i in self._processor.EncodeAsIds(text)]

    def starts_word(self, id_: int) -> bool:
        return self._starts[id_]

    def to_bytes(self) -> bytes:
        return self._bytes


class Labels(Tokenizer):
    """A list of characters or strings, as character models carry it; the label " " separates words."""

    kind = "labels"

    def __init__(self, labels: tuple[str, ...]) -> None:
        if not labels or any(not label for label in labels):
            raise TokenizerError(f"tokenizer.labels: got {len(labels)} labels, expected one or more, none empty")
        self.pieces = labels
        self._ids = {label: index for index, label in reversed(list(enumerate(labels)))}
        self._longest = max(map(len, labels))

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(self.pieces[i] for i in ids)

    def encode(self, text: str) -> list[int]:
        """Longest label first; a character without a label is refused."""
        ids, at = [], 0
        while at < len(text):
            for size in range(min(self._longest, len(text) - at), 0, -1):
                if text[at : at + size] in self._ids:
                    break
            else:
                raise TokenizerError(f"tokenizer.encode: got {text[at]!r}, expected one of the labels")
            ids.append(self._ids[text[at : at + size]])
            at += size
        return ids

    def starts_word(self, id_: int) -> bool:
        return self.pieces[id_] == " "

    def to_bytes(self) -> bytes:
        return json.dumps(list(self.pieces), ensure_ascii=False).encode()


def train_bpe(sentences: Iterable[str], vocab_size: int, prefix: Path) -> SentencePieces:
    """Train a BPE model of `vocab_size` pieces without sentence marks; writes `prefix`.model and `prefix`.vocab."""
    prefix.parent.mkdir(parents=True, exist_ok=True)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences),
        model_prefix=str(prefix),
        model_type="bpe",
        vocab_size=vocab_size,
        character_coverage=1.0,
        bos_id=-1,
        eos_id=-1,
        pad_id=-1,
        unk_id=0,
        num_threads=1,
        minloglevel=1,
    )
    return SentencePieces(prefix.with_suffix(".model").read_bytes())
