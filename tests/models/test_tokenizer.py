"""Tokenizers: text to ids and back, for both kinds, and refusals that say what is wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from models.tokenizer import SPACE, Tokenizer, TokenizerError, train_bpe

SENTENCES = ["the cat sat on the mat", "a dog and a cat", "it's the dog's mat", "on and on it sat"] * 20


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return train_bpe(SENTENCES, 40, tmp_path_factory.mktemp("bpe") / "tokenizer")


def test_text_survives_pieces(trained: Tokenizer) -> None:
    assert len(trained) == len(trained.pieces) == 40
    for sentence in SENTENCES[:4]:
        assert trained.decode(trained.encode(sentence)) == sentence


def test_a_piece_with_the_space_mark_starts_a_word(trained: Tokenizer) -> None:
    ids = trained.encode("the cat")
    starts = [trained.starts_word(i) for i in ids]
    assert sum(starts) == 2
    assert starts[0]
    assert all(trained.pieces[i].startswith(SPACE) == start for i, start in zip(ids, starts, strict=True))


def test_no_piece_marks_a_sentence(trained: Tokenizer) -> None:
    assert not {"<s>", "</s>", "<pad>"} & set(trained.pieces)


def test_labels_take_the_longest_first_and_a_space_starts_a_word() -> None:
    labels = Tokenizer.from_labels([" ", "a", "b", "ab"])
    assert labels.encode("ab ba") == [3, 0, 2, 1]
    assert labels.decode([3, 0, 2, 1]) == "ab ba"
    assert [labels.starts_word(i) for i in range(4)] == [True, False, False, False]


def test_bytes_bring_back_both_kinds(trained: Tokenizer) -> None:
    for tokenizer in (trained, Tokenizer.from_labels(["a", "ü", " "])):
        again = Tokenizer.from_bytes(tokenizer.kind, tokenizer.to_bytes())
        assert again.pieces == tokenizer.pieces
        assert again.encode("a a") == tokenizer.encode("a a")


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Tokenizer.from_sentencepiece(b"not a model"), "got 11 bytes, expected a SentencePiece model"),
        (lambda: Tokenizer.from_labels([]), "got 0 labels, expected one or more"),
        (lambda: Tokenizer.from_labels(["a", ""]), "none empty"),
        (lambda: Tokenizer.from_labels(["a"]).encode("b"), "got 'b', expected one of the labels"),
        (lambda: Tokenizer.from_bytes("words", b""), "got 'words', expected sentencepiece or labels"),
        (lambda: Tokenizer.from_bytes("labels", b"[1]"), "expected a list of strings"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(make, sentence: str) -> None:
    with pytest.raises(TokenizerError, match=sentence):
        make()


def test_the_tokenizer_and_the_features_of_the_daemon_do_not_load_torch() -> None:
    code = "import sys, models.tokenizer, models.features_np; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False).returncode == 0
