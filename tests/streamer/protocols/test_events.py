"""Events that exist are valid."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from streamer.errors import Refusal
from streamer.protocols.events import Closed, Configure, Endpointing, Error, Final, Opening, Partial, Word


def word(text: str, start: float, end: float, confidence: float = 1.0) -> Word:
    return Word(word=text, start=start, end=end, confidence=confidence)


def test_times_are_rounded_to_milliseconds_and_confidences_to_four_decimals() -> None:
    w = word("a", 0.12345, 1 / 3, 0.123456)
    assert (w.start, w.end, w.confidence) == (0.123, 0.333, 0.1235)
    assert Closed(audio_seconds=1.00049).audio_seconds == 1.0


@pytest.mark.parametrize(
    ("kind", "values", "where"),
    [
        (Word, {"word": "", "start": 0, "end": 1, "confidence": 1}, "word"),
        (Word, {"word": "a b", "start": 0, "end": 1, "confidence": 1}, "word"),
        (Word, {"word": 3, "start": 0, "end": 1, "confidence": 1}, "word"),
        (Word, {"word": "a", "start": 2, "end": 1, "confidence": 1}, "word.end"),
        (Word, {"word": "a", "start": math.nan, "end": 1, "confidence": 1}, "word.start"),
        (Word, {"word": "a", "start": 0, "end": math.inf, "confidence": 1}, "word.end"),
        (Word, {"word": "a", "start": 0, "end": 1, "confidence": 1.01}, "word.confidence"),
        (Opening, {"latency_ms": 80, "sample_rate": 7000}, "sample_rate"),
        (Opening, {"latency_ms": 80, "sample_rate": 192_001}, "sample_rate"),
        (Opening, {"latency_ms": 80, "channels": 9}, "channels"),
        (Opening, {"latency_ms": 80, "channels": True}, "channels"),
        (Opening, {"latency_ms": 80, "encoding": "midi"}, "encoding"),
        (Opening, {"latency_ms": 80, "multichannel": "yes"}, "multichannel"),
        (Endpointing, {"silence_ms": 79}, "endpoint_silence_ms"),
        (Endpointing, {"max_ms": 10**9}, "endpoint_max_ms"),
        (Configure, {"interim": 1}, "interim"),
        (Configure, {"endpoint_start_ms": 1.5}, "endpoint_start_ms"),
        (Error, {"code": "nonsense", "message": ""}, "code"),
        (Final, {"segment": 0, "start": 0, "end": 1, "text": "", "words": (), "reason": "because"}, "reason"),
        (Final, {"segment": 0, "start": 1, "end": 0, "text": "", "words": (), "reason": "close"}, "end"),
        (Final, {"segment": -1, "start": 0, "end": 0, "text": "", "words": (), "reason": "close"}, "segment"),
        (Partial, {"segment": 0, "start": 0, "text": "x", "words": (), "stable_words": 0}, "text"),
        (Partial, {"segment": 0, "start": 0, "text": "", "words": (), "stable_words": 1}, "stable_words"),
    ],
)
def test_a_wrong_value_is_refused_where_it_stands(kind: type, values: dict[str, Any], where: str) -> None:
    with pytest.raises(Refusal) as refusal:
        kind(**values)
    assert refusal.value.where == where


def test_words_whose_times_go_back_are_refused() -> None:
    words = (word("a", 0.0, 0.5), word("b", 0.4, 0.6))
    with pytest.raises(Refusal, match=r"words.start=0.4"):
        Partial(segment=0, start=0.0, text="a b", words=words, stable_words=1)


def test_events_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        word("a", 0, 1).word = "b"  # type: ignore[misc]
