"""A toy vocabulary, a toy model from PCM to tokens, and a toy engine around it. Deterministic, no weights, no threads.

The model reads one number per encoder frame: 0 is silence, k/1000 is voice k. A word is a run of one voice of two
frames or more. Its first piece comes when the second frame is heard, its last piece, which depends on the run's
length, when the run is over; both `delay` frames late. So a cut inside a word makes it another word, and a cut
elsewhere does not.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from models.config import FRAME_SAMPLES, ModelConfig
from models.tokenizer import Tokenizer
from streamer.actions import Action, Feed, Finish, Fork, Heard
from streamer.decoding import Token

VOICES = 6
HEADS = tuple(f"\u2581v{k}" for k in range(1, VOICES + 1))
TAILS = ("a", "b", "c")
PIECES = (*HEADS, *TAILS, "\u2581", "<EOU>", "<EOB>", "\u2581<en-US>", "s", ",")
ID = {piece: i for i, piece in enumerate(PIECES)}


class Pieces(Tokenizer):
    """A SentencePiece vocabulary as plain text."""

    kind = "sentencepiece"

    def __init__(self, pieces: Sequence[str] = PIECES) -> None:
        self.pieces = tuple(pieces)

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(self.pieces[i] for i in ids).replace("\u2581", " ").removeprefix(" ")

    def starts_word(self, id_: int) -> bool:
        return self.pieces[id_].startswith("\u2581")


def toy_config(chunks: Sequence[int] = (1, 2, 7), eou: bool = False) -> ModelConfig:
    """A streaming model's numbers around the toy vocabulary."""
    return ModelConfig(
        name="toy",
        kind="ctc",
        mels=80,
        d_model=16,
        layers=1,
        heads=2,
        d_ff=32,
        contexts=tuple((14 * 5 // c * c, c - 1) for c in chunks),
        vocab_size=len(PIECES),
        labels=PIECES,
        eou_id=ID["<EOU>"] if eou else None,
        eob_id=ID["<EOB>"] if eou else None,
    )


def token(piece: str, frame: int, logp: float = 0.0) -> Token:
    return Token(ID[piece], frame, logp)


@dataclass
class Hearing:
    """The model's state: what it carries from frame to frame."""

    delay: int = 0
    frame: int = 0
    voice: int = 0
    run: int = 0
    due: list[tuple[int, int]] = field(default_factory=list)

    def frames(self, voices: Sequence[int]) -> list[Token]:
        tokens: list[Token] = []
        for voice in voices:
            self._frame(voice)
            while self.due and self.due[0][0] <= self.frame:
                id_ = self.due.pop(0)[1]
                tokens.append(Token(id_, self.frame, -0.01 * (id_ + 1)))
            self.frame += 1
        return tokens

    def _frame(self, voice: int) -> None:
        if voice == self.voice:
            self.run += 1
            if voice and self.run == 2:
                self.due.append((self.frame + self.delay, voice - 1))
            return
        if self.voice and self.run >= 2:
            self.due.append((self.frame + self.delay, VOICES + self.run % len(TAILS)))
        self.voice, self.run = voice, 1


def voices_of(pcm: npt.NDArray[np.float32]) -> list[int]:
    """One voice per frame whose sample 100 is there."""
    return [abs(round(float(x) * 1000)) % (VOICES + 1) for x in pcm[100::FRAME_SAMPLES]]


def pcm_of(voices: Sequence[int]) -> npt.NDArray[np.float32]:
    return np.repeat(np.asarray(voices, np.float32) / 1000, FRAME_SAMPLES)


class ToyEngine:
    """One stream: chunks as the real engine cuts them, forks that hear what is pending when they are asked for."""

    def __init__(self, chunk: int, delay: int = 0) -> None:
        self._chunk = chunk
        self._model = Hearing(delay)
        self._pcm = np.zeros(0, np.float32)  # everything fed
        self._last: int | None = None
        self._answers: list[Heard] = []

    def do(self, action: Action) -> None:
        match action:
            case Feed(pcm=pcm):
                assert self._last is None, "fed after Finish"
                self._pcm = np.concatenate([self._pcm, pcm])
            case Fork(mark=mark, pcm=pcm):
                self._answers.append(self._fork(mark, pcm))
            case Finish(pcm=pcm):
                assert self._last is None, "finished twice"
                self._pcm = np.concatenate([self._pcm, pcm])
                self._last = len(voices_of(self._pcm))

    def step(self) -> Heard | None:
        """The next thing the engine says, None if it waits for audio. Forks come before later chunks."""
        if self._answers:
            return self._answers.pop(0)
        begun = self._model.frame
        ready = (len(self._pcm) + 1080) // FRAME_SAMPLES
        finished = self._last is not None and begun + self._chunk >= ready
        if not finished and begun + self._chunk > ready:
            return None
        end = self._last if finished and self._last is not None else begun + self._chunk
        if finished:
            self._last = None
        tokens = self._model.frames(voices_of(self._pcm)[begun:end])
        samples = len(self._pcm) if finished else end * FRAME_SAMPLES - 1080
        return Heard(tokens=tuple(tokens), frames=self._model.frame, samples=samples, finished=finished)

    def _fork(self, mark: int, pcm: npt.NDArray[np.float32]) -> Heard:
        other = copy.deepcopy(self._model)
        voices = voices_of(np.concatenate([self._pcm, pcm]))
        tokens = other.frames(voices[other.frame :])
        return Heard(tokens=tuple(tokens), frames=other.frame, samples=len(self._pcm), mark=mark, finished=True)
