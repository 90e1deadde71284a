"""Recordings through a backend's slots, alone and in company: what each stream says. Knows nothing of devices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from streamer.backends.base import Backend, Row, samples_needed
from streamer.decoding import Token
from streamer.gpu_check.sounds import Pcm

Plain = list[tuple[int, int]]  # (token, frame)


@dataclass(slots=True)
class Talk:
    """A recording on its way through a slot."""

    pcm: Pcm
    chunk: int
    prompt: int | None = None
    slot: int = -1
    index: int = 0
    at: int = 0
    done: bool = False
    tokens: list[Token] = field(default_factory=list)

    def next_row(self) -> Row:
        needed = samples_needed(self.index, self.chunk)
        part = self.pcm[self.at : self.at + needed]
        self.at += needed
        self.index += 1
        self.done = len(part) < needed
        return Row(self.slot, part, self.done)


def step(backend: Backend, talks: Sequence[Talk]) -> None:
    """A chunk of each, all of one length."""
    ticket = backend.launch(talks[0].chunk, [talk.next_row() for talk in talks])
    for talk, heard in zip(talks, backend.collect(ticket), strict=True):
        if isinstance(heard, Exception):
            raise heard
        talk.tokens += heard


def alone(backend: Backend, talk: Talk, slot: int = 0) -> list[Token]:
    """What it says with nobody beside it."""
    backend.open(slot, talk.prompt)
    talk.slot = slot
    while not talk.done:
        step(backend, [talk])
    return talk.tokens


def together(backend: Backend, talks: Sequence[Talk], seed: int, share: float = 0.7) -> list[list[Token]]:
    """What they say in random slots, starting and stepping at random; `share` of those that run take part in a step."""
    random = np.random.default_rng(seed)
    waiting, running = list(talks), list[Talk]()
    free = random.permutation(backend.slots).tolist()
    while waiting or running:
        while waiting and free and random.random() < 0.8:
            talk = waiting.pop(int(random.integers(len(waiting))))
            talk.slot = free.pop()
            backend.open(talk.slot, talk.prompt)
            running.append(talk)
        some = [talk for talk in running if random.random() < share]
        for chunk in sorted({talk.chunk for talk in some}):
            rows = [talk for talk in some if talk.chunk == chunk]
            random.shuffle(rows)
            step(backend, rows)
        free = [talk.slot for talk in running if talk.done] + free
        running = [talk for talk in running if not talk.done]
    return [talk.tokens for talk in talks]


def plain(tokens: Sequence[Token]) -> Plain:
    return [(token.id, token.frame) for token in tokens]


def furthest(got: Sequence[Token], want: Sequence[Token]) -> float:
    """The largest difference of two equal transcripts' log-probabilities."""
    return max((abs(a.logp - b.logp) for a, b in zip(got, want, strict=True)), default=0.0)


def agreement(got: Sequence[Plain], want: Sequence[Plain]) -> float:
    """Share of the wanted tokens that are there, at the same frame and in the same recording."""
    total = sum(map(len, want))
    same = sum(len(set(a) & set(b)) for a, b in zip(got, want, strict=True))
    return round(same / total, 5) if total else 1.0
