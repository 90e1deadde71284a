"""When the words of recordings were seen, beside when they were spoken: latencies of `streamer eval --timing`.

All on the audio's clock: a word is seen when the last sample has come that its chunk needs. What a step takes to
compute and a network to carry comes on top of it (docs/benchmarks). Knows nothing of how recordings are heard.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from models.config import FRAME_S, FRAME_SAMPLES, SAMPLE_RATE
from models.training.text import normalize
from streamer import artefacts
from streamer.backends.base import FIRST_SHORTER_BY
from streamer.bench.emission import Emission, Told
from streamer.bench.tally import quantile
from streamer.commands import USAGE, CommandError
from streamer.commands.listening import Listener
from streamer.config import Endpoint
from streamer.transcript.utterance import Utterance

if TYPE_CHECKING:
    from streamer.commands.listening import Said, Samples, Transcript
    from streamer.decoding import Token
    from streamer.recordings import Entry, Recordings
    from streamer.transcript.words import Word

MS = 1000.0


@dataclass(frozen=True, slots=True)
class Spoken:
    """A word of the reference, and when it was spoken."""

    word: str
    start_s: float
    end_s: float


def of_manifest(fields: Mapping[str, Any]) -> list[Spoken] | None:
    """The words of a line that says when each was spoken: `words`, each with word, start and end in seconds."""
    words = fields.get("words")
    if not isinstance(words, list) or not words:
        return None
    try:
        return [Spoken(str(one["word"]), float(one["start"]), float(one["end"])) for one in words]
    except (TypeError, KeyError, ValueError):
        return None


@dataclass(slots=True)
class Seen:
    """What one recording showed."""

    words: tuple[Word, ...]
    told: list[Told]
    revised: int
    final_s: float | None
    """When the last word is final if silence follows and nobody asks; None where no word was heard."""


@dataclass(slots=True)
class _Open:
    utterance: Utterance
    emission: Emission = field(default_factory=Emission)
    chunk: int | None = None  # of the last token
    last: Token | None = None  # that is seen


class Watch(Listener):
    """Hears as another listener does, and keeps what a client of the daemon would have seen, step by step."""

    def __init__(self, listener: Listener) -> None:
        if listener.latency_ms is None:
            raise CommandError("--timing: got --latency offline, expected one of a streaming model's latencies", USAGE)
        self.config, self.latency_ms, self.speller = listener.config, listener.latency_ms, listener.speller
        self._listener = listener
        self._chunk = round(listener.latency_ms / MS / FRAME_S)
        self._open: dict[int, _Open] = {}
        self.seen: dict[int, Seen] = {}  # by the recording's index

    def follow(self, recordings: Iterable[Iterable[Samples]]) -> Iterator[Said]:
        for said in self._listener.follow(recordings):
            self.notice(said)
            yield said

    def notice(self, said: Said) -> None:
        """One step more, of however many chunks: a token's frame says in which of them it came."""
        one = self._open.setdefault(said.index, _Open(Utterance(self.speller)))
        for token in said.tokens:
            chunk = token.frame // self._chunk
            if chunk != one.chunk:
                self._show(one)
            one.chunk = chunk
            one.utterance.add(token)
            if self.speller.visible(token):
                one.last = token
        self._show(one)
        if said.last:
            del self._open[said.index]
            if said.error is None:
                self.seen[said.index] = self._end(one, said.duration_s)

    def _show(self, one: _Open) -> None:
        """What a client sees when the chunk of the last token has been heard."""
        if one.chunk is not None:
            draft = one.utterance.draft(math.inf)
            message = {"words": _plain(draft.words), "stable_words": draft.stable}
            one.emission.partial(message, self._whole_s(one.chunk))

    def _end(self, one: _Open, duration_s: float) -> Seen:
        """Whoever closes gets the rest at once: nothing is seen later than the audio's end."""
        words = one.utterance.cut(duration_s).words
        told = [
            Told(word.end_s, *(min(at, duration_s) for at in (word.first, word.stable, word.final)))
            for word in one.emission.final({"words": _plain(words)}, duration_s)
        ]
        final_s = None if one.last is None else self._final_s(one.last.frame)
        return Seen(words, told, one.emission.revised, final_s)

    def _final_s(self, frame: int) -> float:
        """When the chunk is whole in which the daemon's endpoint rule, as it is by default, ends the segment."""
        due = frame + math.ceil(Endpoint().silence_ms / MS / FRAME_S)
        return self._whole_s(due // self._chunk)

    def _whole_s(self, chunk: int) -> float:
        """When the last sample comes that a chunk needs."""
        return (FRAME_SAMPLES * self._chunk * (chunk + 1) - FIRST_SHORTER_BY) / SAMPLE_RATE


def _plain(words: Sequence[Word]) -> list[dict[str, Any]]:
    return [{"word": word.text, "end": word.end_s} for word in words]


class Times:
    """When the words of recordings were spoken: the manifest's word for it, or else an aligner's."""

    def __init__(self, recordings: Recordings, model: str) -> None:
        self._recordings, self._model = recordings, model
        self._aligner: Any = None

    def of(self, entry: Entry) -> tuple[list[Spoken] | None, bool]:
        """The words of a line, and whether the line itself has their times."""
        told = of_manifest(entry.fields)
        if told is not None:
            return told, True
        if not entry.text.strip():
            return [], False
        if self._aligner is None:
            self._aligner = self._open()
        words = self._aligner.words(self._recordings.read(entry.audio_filepath, entry.part), entry.text)
        return (None if words is None else [Spoken(*word) for word in words]), False

    def _open(self) -> Any:
        if find_spec("torch") is None:
            how = artefacts.how_to_add("torch")
            raise CommandError(f"--timing: aligning words needs torch, which is not installed: {how}")
        from models import store
        from models.training.alignment import Aligner

        return Aligner(*store.load(artefacts.resolve(self._model, "pytorch")))


def measure(entries: list[Entry], heard: Mapping[int, Transcript], watch: Watch, times: Times) -> dict[str, Any]:
    """The latencies of all recordings that were heard, by their place in the manifest."""
    latencies = Latencies()
    for place, transcript in sorted(heard.items()):
        spoken, exact = times.of(entries[place])
        latencies.add(watch.seen[transcript.index], spoken, exact)
    return latencies.summary()


def pairs(spoken: Sequence[Spoken], words: Sequence[Word]) -> list[tuple[int, int]]:
    """Places of words that were heard as they were spoken, in both."""
    said = [normalize(one.word) for one in spoken]
    heard = [normalize(one.text) for one in words]
    blocks = difflib.SequenceMatcher(None, said, heard, autojunk=False).get_matching_blocks()
    return [(block.a + i, block.b + i) for block in blocks for i in range(block.size)]


class Latencies:
    """Numbers of all recordings, in seconds until they are told."""

    def __init__(self) -> None:
        self._seen: dict[str, list[float]] = {"emission": [], "stable": [], "final": []}
        self._moved: dict[str, list[float]] = {"start": [], "end": []}
        self._words = self._revised = self._unaligned = 0

    def add(self, seen: Seen, spoken: Sequence[Spoken] | None, exact: bool) -> None:
        """One recording; `exact` where the reference itself says when its words were spoken."""
        self._words += len(seen.words)
        self._revised += seen.revised
        if spoken is None:
            self._unaligned += 1
            return
        matched = pairs(spoken, seen.words)
        for place, heard in matched:
            word, told, truth = seen.words[heard], seen.told[heard], spoken[place]
            self._seen["emission"].append(told.first - truth.end_s)
            self._seen["stable"].append(told.stable - truth.end_s)
            if exact:
                self._moved["start"].append(abs(word.start_s - truth.start_s))
                self._moved["end"].append(abs(word.end_s - truth.end_s))
        if matched and matched[-1] == (len(spoken) - 1, len(seen.words) - 1) and seen.final_s is not None:
            self._seen["final"].append(seen.final_s - spoken[-1].end_s)

    def summary(self) -> dict[str, Any]:
        """Milliseconds; rates are shares of the words heard."""
        return {
            "words": self._words,
            "words_in_time": len(self._seen["emission"]),
            "recordings_without_times": self._unaligned,
            **{f"{name}_ms": _quantiles(values) for name, values in self._seen.items()},
            **{f"word_{name}_error_ms": _quantiles(values) for name, values in self._moved.items()},
            "revised_words": round(self._revised / self._words, 4) if self._words else None,
        }


def _quantiles(values: list[float]) -> dict[str, int] | None:
    if not values:
        return None
    ordered = sorted(values)
    return {name: round(MS * quantile(ordered, share)) for name, share in (("p50", 0.5), ("p95", 0.95))}


def table(summary: dict[str, Any]) -> None:
    """For people."""
    for name, about in (
        ("emission_ms", "word seen after its end"),
        ("stable_ms", "word stable after its end"),
        ("final_ms", "last word final after its end, in silence"),
        ("word_start_error_ms", "error of a word's start"),
        ("word_end_error_ms", "error of a word's end"),
    ):
        if summary[name]:
            print(f"{about}: p50 {summary[name]['p50']} ms, p95 {summary[name]['p95']} ms")
    if summary["revised_words"] is not None:
        print(f"partial words revised: {100 * summary['revised_words']:.1f} of 100")
