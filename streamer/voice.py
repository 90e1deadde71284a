"""One channel of a stream: what is heard of it in segments, and the forks under way. Knows nothing of the wire's bytes,
of time, or of why a stream ends; samples are 16 kHz."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from streamer.actions import Action, Feed, Finish, Fork, Heard, Say
from streamer.wording import Wording, final

if TYPE_CHECKING:
    import numpy.typing as npt

    from streamer.transcript.transcript import Transcript
    from streamer.transcript.utterance import Segment

    Samples = npt.NDArray[np.float32]
    Tail = Callable[[], Samples]  # what the resampler still holds: dear to know

MAX_FORKS = 16  # of one voice; the engine makes one at a time


@dataclass(frozen=True, slots=True)
class _Asked:
    """A fork under way: why, for how many finalizes, and where the audio ended for it."""

    mark: int
    reason: str
    answers: int
    samples: int


class Voice:
    """`feed`, `finalize` and `stall` until `end`; then, when `finished`, what is `owed` and `last_words`."""

    def __init__(self, channel: int, transcript: Transcript, silence: Samples) -> None:
        self.transcript = transcript
        self.finished = False
        """The engine heard the last sample."""
        self.fed = 0
        """Samples given to the engine."""
        self._channel, self._silence = channel, silence
        self._quiet_from = 0  # samples that a stall has already finalised
        self._marks = 0
        self._asked: deque[_Asked] = deque()  # forks under way; the engine makes them one after the other
        self._waiting = 0  # finalizes beyond MAX_FORKS: the next fork answers them, or the end
        self._wording = Wording(channel)

    def feed(self, pcm: Samples) -> list[Action]:
        """More of the channel."""
        self.fed += pcm.size
        return [Feed(channel=self._channel, pcm=pcm)] if pcm.size else []

    def finalize(self, tail: Tail) -> list[Action]:
        """A fork of what was sent so far, the resampler's `tail` too; several where no audio came between share one."""
        if len(self._asked) >= MAX_FORKS:
            self._waiting += 1
            return []
        last = self._asked[-1] if self._asked else None
        if last and last.reason == "finalize" and last.samples == self.fed + tail().size:
            self._asked[-1] = dataclasses.replace(last, answers=last.answers + 1)
            return []
        return self._fork("finalize", 1, tail)

    def finalize_at_end(self) -> None:
        """One that came when the end had begun: it is answered before the last final."""
        self._waiting += 1

    def fork_waiting(self, tail: Tail) -> list[Action]:
        """After a fork has been heard: one for all finalizes that found no room."""
        waiting, self._waiting = self._waiting, 0
        return self._fork("finalize", waiting, tail) if waiting else []

    def stall(self, tail: Tail) -> list[Action]:
        """Audio has stopped coming: finalise what hangs, once, until audio comes again."""
        if self._asked or (self._quiet_from == self.fed and not self.transcript.pending):
            return []
        self._quiet_from = self.fed
        return self._fork("stall", 0, tail)

    def _fork(self, reason: str, answers: int, tail: Tail) -> list[Action]:
        self._marks += 1
        pcm = tail()
        self._asked.append(_Asked(self._marks, reason, answers, self.fed + pcm.size))
        return [Fork(channel=self._channel, mark=self._marks, pcm=np.concatenate([pcm, self._silence]))]

    def hear(self, heard: Heard, interim: bool) -> list[Action]:
        """What the engine heard of the voice itself."""
        actions = self._finals(self.transcript.hear(heard.tokens, heard.frames), "endpoint")
        self.finished = heard.finished
        if interim and heard.tokens and not heard.finished:
            event = self._wording.partial(self.transcript.draft())
            actions += [Say(event=event)] if event else []
        return actions

    def hear_fork(self, heard: Heard) -> list[Action]:
        """All that a fork heard: the finals that it owes."""
        assert self._asked, f"mark: got {heard.mark}, expected none: no fork is under way"
        asked = self._asked.popleft()
        assert asked.mark == heard.mark, f"mark: got {heard.mark}, expected that of {asked}"
        self.transcript.ahead(heard.tokens, heard.frames)
        actions: list[Action] = []
        for _ in range(max(asked.answers, self.transcript.pending)):  # a stall without words says nothing
            actions += self._finals([self.transcript.cut(asked.samples)], asked.reason)
        return actions

    def end(self, rest: Samples) -> list[Action]:
        """No more audio comes than `rest`."""
        self.fed += rest.size
        self.transcript.end(self.fed)
        return [Finish(channel=self._channel, pcm=np.concatenate([rest, self._silence]))]

    def owed(self) -> list[Action]:
        """At the end: a final for every finalize that waits."""
        waiting = self._waiting + sum(asked.answers for asked in self._asked)
        return [action for _ in range(waiting) for action in self.last_words("finalize")]

    def last_words(self, reason: str) -> list[Action]:
        """The final of the open segment."""
        return self._finals([self.transcript.cut(self.fed)], reason)

    def _finals(self, segments: Sequence[Segment], reason: str) -> list[Action]:
        return [Say(event=final(segment, reason, self._channel)) for segment in segments]
