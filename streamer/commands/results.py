"""Where the words of recordings go: text and JSON on stdout, in the order of the recordings, or files of their own.

Knows nothing of how they are heard.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from streamer.commands import say
from streamer.commands.listening import Heard
from streamer.errors import printable
from streamer.protocols.events import Word
from streamer.subtitles.utterances import Utterances
from streamer.subtitles.writers import json_line

if TYPE_CHECKING:
    from streamer.commands.listening import Said
    from streamer.subtitles.writers import Writer
    from streamer.transcript.words import Word as SpokenWord


@dataclass(frozen=True, slots=True)
class Job:
    """One recording to be heard: a file, or one channel of it."""

    name: str
    position: int
    """Of the file among all that are asked for."""
    channel: int | None = None
    """None where all channels are mixed."""
    channels: int = 1
    """That are heard apart."""

    @property
    def title(self) -> str:
        """For one line of a terminal."""
        name = printable(self.name)
        return name if self.channel is None else f"{name} channel {self.channel + 1}"


class Results(Protocol):
    """Takes what recordings say, as they say it."""

    @property
    def given_up(self) -> int:
        """Outputs that could not be written."""

    def add(self, job: Job, said: Said) -> None:
        """One recording said more."""

    def close(self) -> None:
        """Nothing more comes."""


class InTurn:
    """Puts recordings that are heard together one after the other: those whose turn has not come yet wait.

    Channels of one file follow each other too, unless they go `together`.
    """

    def __init__(self, results: Results, *, together: bool = False) -> None:
        self._results, self._together = results, together
        self.given_up = 0  # who writes to stdout has nothing left to write to
        self._turn = 0  # the recording's index; a file's channels have neighbouring ones
        self._ended = 0  # of the recordings whose turn it is
        self._waiting: dict[int, list[tuple[Job, Said]]] = {}

    def add(self, job: Job, said: Said) -> None:
        first = said.index - (job.channel or 0) if self._together else said.index
        self._waiting.setdefault(first, []).append((job, said))
        while self._turn in self._waiting:
            for job_, said_ in self._waiting.pop(self._turn):
                self._results.add(job_, said_)
                self._ended += said_.last
            at_once = job_.channels if self._together else 1
            if self._ended < at_once:
                return
            self._turn += at_once
            self._ended = 0

    def close(self) -> None:
        self._results.close()


class Lines:
    """A line of text for each recording, written as it is heard, or when it ends if lines must stay whole."""

    given_up = 0

    def __init__(self, *, titled: bool, whole: bool) -> None:
        self._titled, self._whole = titled, whole
        self._texts: list[str] = []
        self._begun = False

    def add(self, job: Job, said: Said) -> None:
        self._texts += [word.text for word in said.words]
        if self._whole and not said.last:
            return
        title = f"{job.title}: " if self._titled and not self._begun else ""
        if said.last and said.error is not None and not (self._begun or self._texts):
            return
        if self._texts or said.last:
            blank = " " if self._begun and self._texts else ""
            print(title + blank + " ".join(self._texts), end="\n" if said.last else "", flush=True)
            self._begun = not said.last
            self._texts.clear()

    def close(self) -> None:
        if self._begun:
            print(flush=True)


class Objects:
    """A JSON object for each recording when it ends; its words and tokens are kept until then."""

    given_up = 0

    def __init__(self) -> None:
        self._heard: dict[int, Heard] = {}

    def add(self, job: Job, said: Said) -> None:
        heard = self._heard.setdefault(said.index, Heard())
        heard.add(said)
        if said.last and said.error is None:
            print(json_line(line(job, heard, said.duration_s)), flush=True)
        if said.last:
            del self._heard[said.index]

    def close(self) -> None:
        pass


def line(job: Job, heard: Heard, duration_s: float) -> dict[str, Any]:
    """The JSON line of one recording."""
    words = [
        {"word": w.text, "start": round(w.start_s, 3), "end": round(w.end_s, 3), "confidence": round(w.confidence, 4)}
        for w in heard.words
    ]
    fields = {
        "audio_filepath": job.name,
        "text": " ".join(word.text for word in heard.words),
        "words": words,
        "tokens": [token.id for token in heard.tokens],
        "frames": [token.frame for token in heard.tokens],
        "duration": round(duration_s, 4),
    }
    return fields if job.channel is None else fields | {"channel": job.channel}


class Files:
    """A writer for each file that is heard, opened with its first words and closed when all its channels have ended.

    An output that cannot be written (the disk is full) is said and given up; the others go on. What is no file of its
    own, stdout, raises.
    """

    def __init__(self, open_for: Callable[[Job], Writer]) -> None:
        self._open_for = open_for
        self._open: dict[int, _File] = {}
        self._lost: set[int] = set()  # positions

    @property
    def given_up(self) -> int:
        return len(self._lost)

    def add(self, job: Job, said: Said) -> None:
        if job.position in self._lost:
            return
        with self._guarded(job.position):
            file = self._open.get(job.position)
            if file is None:
                file = self._open[job.position] = _File(self._open_for(job), job.channels)
            file.add(job.channel or 0, said)
            if not file.channels_left:
                self._open.pop(job.position).writer.close()

    def close(self) -> None:
        """What was heard until an interruption is in the files."""
        for position in list(self._open):
            with self._guarded(position):
                self._open.pop(position).close()

    @contextmanager
    def _guarded(self, position: int) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if not error.filename:
                raise
            self._lost.add(position)
            if (file := self._open.pop(position, None)) is not None:
                with suppress(OSError):  # what it could not write it tries once more
                    file.writer.close()
            say(f"streamer: {printable(str(error.filename))}: {error.strerror or error}")


class _File:
    def __init__(self, writer: Writer, channels: int) -> None:
        self.writer, self.channels_left = writer, channels
        self._utterances = [Utterances() for _ in range(channels)]

    def add(self, channel: int, said: Said) -> None:
        utterances = self._utterances[channel]
        ended = utterances.add(written(said.words))
        quiet_s = said.quiet_s
        if said.last:
            self.channels_left -= 1
            ended += utterances.end()
            quiet_s = float("inf") if self.channels_left else quiet_s  # the others wait for it no more
        for words in ended:
            self.writer.add(words, channel)
        waiting_s = utterances.waiting_s
        self.writer.heard(quiet_s if waiting_s is None else waiting_s, channel)

    def close(self) -> None:
        for channel, utterances in enumerate(self._utterances):
            for words in utterances.end():
                self.writer.add(words, channel)
        self.writer.close()


def written(words: Iterable[SpokenWord]) -> Sequence[Word]:
    """Words as they are written: milliseconds, four decimals."""
    return [Word(word=w.text, start=w.start_s, end=w.end_s, confidence=w.confidence) for w in words]
