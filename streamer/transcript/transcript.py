"""A stream's tokens into segments: what each frame adds, where the text is cut, what a fork said ahead.

Knows nothing of the wire, of sessions or of why a fork was made. Samples are 16 kHz, frames encoder frames of 80 ms.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from models.config import FRAME_SAMPLES, SAMPLE_RATE, WINDOW
from streamer.transcript.echo import Echoes
from streamer.transcript.endpoint import Clock, Cut, Rules
from streamer.transcript.utterance import Draft, Segment, Utterance

if TYPE_CHECKING:
    from streamer.decoding import Token
    from streamer.transcript.words import Speller

CHUNK_SHORT = FRAME_SAMPLES - WINDOW // 2  # a chunk ends this many samples before its last frame's 80 ms do


class Transcript:
    """All that one stream says. `rules` may be exchanged at any time and hold from the next frame on."""

    def __init__(
        self, speller: Speller, rules: Rules, chunk: int, eou_ids: Sequence[int] = (), delay_s: float = 0.0
    ) -> None:
        self.rules = rules
        self._utterance = Utterance(speller, delay_s)
        self._speller, self._chunk, self._eou_ids = speller, chunk, frozenset(eou_ids)
        self._clock = Clock()
        self._echoes = Echoes()
        self._frames = 0
        self._audio_s = self._audio_frames = math.inf  # where the audio ends, once that is known

    @property
    def pending(self) -> bool:
        """There are words that no final has said."""
        return self._utterance.words > 0

    def hear(self, tokens: Sequence[Token], frames: int) -> list[Segment]:
        """The stream heard up to `frames` in total; -> the segments that ended by themselves."""
        segments: list[Segment] = []
        for token in tokens:
            segments += self._frames_done(token.frame)
            segments += self._token(token)
        segments += self._frames_done(frames)
        return segments

    def end(self, samples: int) -> None:
        """The audio ends here; what is heard from now on may be silence of our own.

        Tokens that the silence brings out belong to the audio, but silence that was never sent ends no segment.
        """
        self._audio_s = samples / SAMPLE_RATE
        self._audio_frames = -(-samples // FRAME_SAMPLES)

    def ahead(self, tokens: Sequence[Token], frames: int) -> None:
        """A fork heard all audio there is, and silence: what it said belongs to the segment, if that is cut now."""
        for token in self._echoes.unsaid(tokens):
            self._utterance.add(token)
        self._echoes.add(tokens, frames)

    def cut(self, samples: int) -> Segment:
        """The open segment is final as it is; the audio ends at `samples`."""
        self._clock.restart(self._frames)
        return self._utterance.cut(samples / SAMPLE_RATE)

    def draft(self) -> Draft:
        """What the open segment says so far."""
        return self._utterance.draft(self._heard_s())

    def _token(self, token: Token) -> list[Segment]:
        if self._echoes.repeats(token):
            return []
        self._utterance.add(token)
        if self._speller.visible(token):
            self._clock.spoke = token.frame
        eou = token.id in self._eou_ids and token.frame < self._audio_frames
        if eou and self.rules.enabled and self.pending:
            self._clock.restart(token.frame)
            return [self._utterance.cut(self._heard_s(token.frame))]
        return []

    def _frames_done(self, frames: int) -> list[Segment]:
        """Ask the clock once for each frame that has no more tokens."""
        segments: list[Segment] = []
        for frame in range(self._frames, frames):
            self._frames = frame + 1
            if frame >= self._audio_frames:
                continue
            segments += self._cut(self._clock.cut(self.rules, frame, self._utterance.words), frame)
        return segments

    def _cut(self, cut: Cut | None, frame: int) -> list[Segment]:
        match cut:
            case None:
                return []
            case Cut.RESTART:
                self._clock.restart(frame + 1)
                return []
            case Cut.LENGTH:
                spoke = self._clock.spoke
                self._clock.restart(self._utterance.last_word_frame())
                self._clock.spoke = spoke
                return [self._utterance.cut_before_last(self._heard_s(frame))]
            case _:
                self._clock.restart(frame + 1)
                return [self._utterance.cut(self._heard_s(frame))]

    def _heard_s(self, frame: int | None = None) -> float:
        """The end of the chunk that a frame (the last one heard) came in, whatever pieces the audio came in."""
        frame = self._frames - 1 if frame is None else frame
        chunks = frame // self._chunk + 1
        heard_s = max(0, chunks * self._chunk * FRAME_SAMPLES - CHUNK_SHORT) / SAMPLE_RATE
        return min(heard_s, self._audio_s)
