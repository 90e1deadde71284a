"""Text as it is compared and learnt where only words count. Knows nothing of tokenizers or manifests."""

from __future__ import annotations

import unicodedata


def normalize(text: str) -> str:
    """Lower case, no punctuation but the apostrophe, one blank between words; letters composed, their marks kept."""
    plain = unicodedata.normalize("NFC", text.lower().replace("\u2019", "'"))
    return " ".join("".join(letter if _spoken(letter) else " " for letter in plain).split())


def _spoken(letter: str) -> bool:
    """Part of a word. Marks are: Hindi, Thai and others write vowels with them, and not all compose."""
    return letter.isalnum() or letter == "'" or unicodedata.category(letter).startswith("M")
