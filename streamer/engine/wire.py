"""What fronts and the engine's process say to each other, as bytes. Knows no sockets, no clock and no engine.

A frame is the length of its body (4 bytes), its kind (1 byte), three zeros, then the body; numbers are little endian.
`WORK` (a front's) carries many asks and their samples, `HEARD` (the engine's) many results and their tokens, `NOTE`
what is rare, a JSON object. Bytes that are none of this end in a WireError, in words, and take no more memory than the
longest frame.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import Any

import numpy as np

from streamer.actions import Heard
from streamer.decoding import Token
from streamer.engine.ring import Ring
from streamer.engine.stream import Pcm

MOST_BYTES = 1 << 26  # of a frame: an hour of audio is longer than anything a session hands over at once
ROOM_BYTES = 1 << 16  # that a read finds at least
HEAD = struct.Struct("<IB3x")
# When the oldest of it came, seconds of the machine's monotonic clock; where its samples lie in the ring; asks.
WORK_HEAD = struct.Struct("<dqI")
INLINE = -1  # the samples are in the frame itself
HEARD_HEAD = struct.Struct("<II")  # results, tokens
NO_PROMPT = -1
FINISHED, MARKED = 1, 2  # flags of a result

ASK = np.dtype("<u4, <u4, <u4, <i4")  # as Ask
RESULT = np.dtype("<u4, <u4, <u4, <u4, <i8, <f8, <i8")  # stream, tokens, frames, flags, samples, arrived, mark
TOKEN = np.dtype("<i4, <u4, <f8")  # id, frame, logp

Ask = tuple[int, int, int, int]  # verb, stream, samples (or a chunk's frames), mark (or a prompt)
Told = tuple[int, Heard, float]  # a result's stream, what it heard, when the newest audio in it came


class WireError(ValueError):
    """The other side said what it must not; the text says where, got and expected."""

    def __init__(self, where: str, got: object, expected: str) -> None:
        super().__init__(f"{where}: got {got}, expected {expected}")


class Kind(IntEnum):
    """What a frame is."""

    WORK = 1
    HEARD = 2
    NOTE = 3


class Verb(IntEnum):
    """What a front asks. The first three bring `size` samples; of the others `size` is a chunk's encoder frames."""

    FEED = 0
    FORK = 1
    FINISH = 2
    DROP = 3
    OPEN = 4
    ROOM = 5


def ask(verb: Verb, stream: int, size: int = 0, mark: int = 0) -> Ask:
    """One row of a WORK frame."""
    return verb, stream, size, mark


class Frames:
    """Bytes in, frames out. Who reads a socket asks for `space`, fills some of it, and says how much."""

    def __init__(self) -> None:
        self._buffer = bytearray(2 * ROOM_BYTES)
        self._start = self._end = 0  # what was read and is no frame yet

    def space(self) -> memoryview:
        """Where the next bytes go."""
        if len(self._buffer) - self._end < ROOM_BYTES:
            kept = self._buffer[self._start : self._end]
            if 2 * len(kept) + ROOM_BYTES > len(self._buffer):
                self._buffer = bytearray(2 * (len(kept) + ROOM_BYTES))
            self._buffer[: len(kept)] = kept
            self._start, self._end = 0, len(kept)
        return memoryview(self._buffer)[self._end :]

    def read(self, count: int) -> Iterator[tuple[Kind, memoryview]]:
        """So many bytes came. The frames that are whole; a body is good until the next one is asked for."""
        self._end += count
        while self._end - self._start >= HEAD.size:
            size, number = HEAD.unpack_from(self._buffer, self._start)
            if size > MOST_BYTES:
                raise WireError("frame", f"{size} bytes", f"at most {MOST_BYTES}")
            if number not in Kind.__members__.values():
                raise WireError("frame", f"kind {number}", "1, 2 or 3")
            first = self._start + HEAD.size
            if self._end < first + size:
                break
            self._start = first + size
            yield Kind(number), memoryview(self._buffer)[first : first + size]
        if self._start == self._end:
            self._start = self._end = 0
            if len(self._buffer) > 1 << 20:
                self._buffer = bytearray(2 * ROOM_BYTES)


def _frame(kind: Kind, *parts: Any) -> bytes:
    return b"".join([HEAD.pack(sum(map(_bytes, parts)), kind), *parts])


def _bytes(part: Any) -> int:
    return part.nbytes if isinstance(part, np.ndarray) else len(part)


def write_work(came: float, asks: Sequence[Ask], sounds: Sequence[Pcm], ring: Ring | None = None) -> bytes:
    """Asks in their order; `sounds` are the samples of those that bring some. They lie in the ring if it has room."""
    at = None if ring is None else ring.place(sounds)
    head, table = WORK_HEAD.pack(came, INLINE if at is None else at, len(asks)), np.array(asks, ASK)
    return _frame(Kind.WORK, head, table, *(map(np.ascontiguousarray, sounds) if at is None else ()))


def read_work(body: memoryview, ring: Ring | None = None) -> tuple[float, list[Ask], Pcm]:
    """When it came, the asks, and all their samples in one; those are good as long as the body is, or until the ring
    is told that they are done with."""
    if len(body) < WORK_HEAD.size:
        raise WireError("work", f"{len(body)} bytes", f"at least {WORK_HEAD.size}")
    came, at, count = WORK_HEAD.unpack_from(body)
    rest = len(body) - WORK_HEAD.size - count * ASK.itemsize
    if not math.isfinite(came) or rest < 0 or rest % 4:
        raise WireError("work", f"{count} asks of {came} in {len(body)} bytes", "a time, asks and whole samples")
    table = np.frombuffer(body, ASK, count, WORK_HEAD.size)
    verbs = table["f0"]
    if count and int(verbs.max()) > max(Verb):
        raise WireError("work.verb", int(verbs.max()), f"at most {max(Verb)}")
    brought = int(table["f2"][verbs <= Verb.FINISH].sum(dtype=np.int64))
    if rest != (4 * brought if at == INLINE else 0):
        expected = f"the {4 * brought} that its asks bring, here or in the ring"
        raise WireError("work", f"{rest} bytes of samples", expected)
    if at == INLINE:
        return came, table.tolist(), np.frombuffer(body, np.dtype("<f4"), brought, len(body) - rest)
    pcm = None if ring is None or at < 0 else ring.look(at, brought)
    if pcm is None:
        raise WireError("work.samples", f"{brought} at {at}", "a place in the ring, each once and in order")
    return came, table.tolist(), pcm


def write_heard(told: Sequence[Told]) -> bytes:
    """Results in their order."""
    rows, tokens = [], []
    for stream, (spoken, frames, samples, mark, finished), arrived in told:
        flags = FINISHED * finished + (0 if mark is None else MARKED)
        rows.append((stream, len(spoken), frames, flags, samples, arrived, mark or 0))
        if spoken:
            tokens += [(token.id, token.frame, token.logp) for token in spoken]
    head = HEARD_HEAD.pack(len(rows), len(tokens))
    return _frame(Kind.HEARD, head, np.array(rows, RESULT), np.array(tokens, TOKEN))


def read_heard(body: memoryview) -> list[Told]:
    """What `write_heard` wrote."""
    if len(body) < HEARD_HEAD.size:
        raise WireError("heard", f"{len(body)} bytes", f"at least {HEARD_HEAD.size}")
    count, spoken = HEARD_HEAD.unpack_from(body)
    if len(body) != HEARD_HEAD.size + count * RESULT.itemsize + spoken * TOKEN.itemsize:
        raise WireError("heard", f"{count} results and {spoken} tokens in {len(body)} bytes", "as many as it holds")
    table = np.frombuffer(body, RESULT, count, HEARD_HEAD.size)
    if (claimed := int(table["f1"].sum(dtype=np.int64))) != spoken:
        raise WireError("heard.tokens", claimed, f"{spoken}, as many as it holds")
    words = np.frombuffer(body, TOKEN, spoken, len(body) - spoken * TOKEN.itemsize)
    tokens = [Token(*token) for token in words.tolist()]
    told: list[Told] = []
    at = 0
    for stream, own, frames, flags, samples, arrived, mark in table.tolist():
        marked, finished = mark if flags & MARKED else None, bool(flags & FINISHED)
        told.append((stream, Heard(tuple(tokens[at : at + own]), frames, samples, marked, finished), arrived))
        at += own
    return told


def write_note(kind: str, **fields: Any) -> bytes:
    """What is rare; the fields are what JSON knows."""
    text = json.dumps({"kind": kind, **fields}).encode()
    return _frame(Kind.NOTE, text + b" " * (-len(text) % 4))  # so that samples in the frames behind it stay aligned


def read_note(body: memoryview) -> dict[str, Any]:
    """A note's fields, its `kind` among them."""
    try:
        note = json.loads(bytes(body))
    except (ValueError, RecursionError) as error:
        raise WireError("note", type(error).__name__, "JSON") from None
    if not isinstance(note, dict) or not isinstance(note.get("kind"), str):
        raise WireError("note", type(note).__name__, "an object with its kind")
    return note
