"""What other processes do for bulk transcription: read recordings into files of samples, spell tokens as words.

Plain functions of plain values, so that they can run anywhere. Knows nothing of models, batches or order.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.tokenizer import Tokenizer
from streamer.commands.listening import Heard, Said
from streamer.commands.results import Job, line
from streamer.commands.transcribe import Reading
from streamer.decoding import Token
from streamer.recordings import Part, Recordings, Unreadable
from streamer.subtitles.writers import json_line
from streamer.transcript.utterance import Utterance
from streamer.transcript.words import Speller

Arrays = tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float32]]  # ids, frames, log-probabilities


@dataclass(frozen=True, slots=True)
class Wanted:
    """One recording that is asked for."""

    job: Job
    part: Part


@dataclass(frozen=True, slots=True)
class Read:
    """What became of it: its samples at 16 kHz, None where there are none to hear, and what went wrong, if anything."""

    samples: int | None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What spells a model's tokens, as values that can be sent."""

    kind: str
    data: bytes
    hidden: tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """What was heard in one recording."""

    wanted: Wanted
    tokens: Arrays
    duration_s: float


def open_hands(count: int) -> Executor:
    """Processes of their own; they are started when they are first needed."""
    return ProcessPoolExecutor(count, mp_context=get_context("spawn"), initializer=_leave_interrupts)


def _leave_interrupts() -> None:
    """Ctrl-C reaches the whole group of processes; the one that asked says what there is to say."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def read(root: Path, wanted: Sequence[Wanted], path: Path) -> list[Read]:
    """Write the samples of all, one after the other, as float32 to the file `path`."""
    with path.open("wb", buffering=0) as file:
        return [_read(_recordings(root), each, file) for each in wanted]


def _read(recordings: Recordings, wanted: Wanted, file: Any) -> Read:
    samples = 0
    try:
        reading = Reading(recordings.blocks(wanted.job.name, part=wanted.part))
    except Unreadable as error:
        return Read(None, str(error))
    for block in reading:
        file.write(np.ascontiguousarray(block, np.float32).data)
        samples += len(block)
    return Read(samples, reading.error)


@lru_cache(maxsize=1)
def _recordings(root: Path) -> Recordings:
    """Its tars stay open from one call to the next."""
    return Recordings(root)


def words(vocabulary: Vocabulary, rows: Sequence[Row]) -> list[Said]:
    """The words of each recording, as one `Said` of index 0; without tokens, which no writer asks for."""
    speller = _speller(vocabulary)
    return [replace(_said(speller, row), tokens=()) for row in rows]


def lines(vocabulary: Vocabulary, rows: Sequence[Row]) -> list[str]:
    """The JSON line of each recording."""
    speller = _speller(vocabulary)
    return [_line(row, _said(speller, row)) for row in rows]


def _line(row: Row, said: Said) -> str:
    fields = line(row.wanted.job, Heard(list(said.words), list(said.tokens)), said.duration_s)
    offset_s = row.wanted.part.offset_s
    return json_line(fields | {"offset": offset_s} if offset_s else fields)


def _said(speller: Speller, row: Row) -> Said:
    tokens = tuple(Token(*each) for each in zip(*(array.tolist() for array in row.tokens), strict=True))
    utterance = Utterance(speller)
    for token in tokens:
        utterance.add(token)
    return Said(0, utterance.cut(row.duration_s).words, tokens, row.duration_s, row.duration_s, True)


@lru_cache(maxsize=1)
def _speller(vocabulary: Vocabulary) -> Speller:
    return Speller(Tokenizer.from_bytes(vocabulary.kind, vocabulary.data), vocabulary.hidden)
