"""Words to cues: where a subtitle ends, how its lines break, how long it stays. Knows nothing of files or formats.

A cue ends at sentence ends and long pauses. What lies between them is divided as it reads best, with a look ahead of
one more cue, so that a word which comes later than that changes nothing: cues come out while words still come in.
Times are whole milliseconds, for the rules about gaps hold after rounding too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from streamer.protocols.events import Word
from streamer.subtitles import joints

MS = 1000
LONE_LENGTH = 3  # characters of a word that is no cue by itself
PER_CUE, PER_LINE = 1.5, 1.0  # what one more costs than it takes, in the currency of `joints`


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """What subtitlers agree upon; the defaults are what broadcasters and streaming services ask for."""

    line_length: int = 42
    """Characters; a longer word stands alone and whole."""
    lines: int = 2
    """Of a cue, at most."""
    characters_per_s: float = 17.0
    """Reading speed; a cue stays longer than it is spoken where the silence behind it allows."""
    shortest_s: float = 1.0
    """A cue stays at least so long, where the next one leaves the time."""
    longest_s: float = 7.0
    """A cue stays at most so long."""
    gap_s: float = 0.08
    """Between two cues: two frames of 25 a second."""
    pause_s: float = 0.8
    """Silence that ends a cue, as it ends a segment of the daemon."""
    lone_pause_s: float = 1.2
    """The same where all of the cue would be a small word that leans on the next one ("to")."""
    bridge_s: float = 0.5
    """A cue stays until the next one if less is between them; shorter holes flicker."""

    def __post_init__(self) -> None:
        assert self.line_length > 0, f"line_length: got {self.line_length}, expected 1 or more characters"
        assert 1 <= self.lines <= 3, f"lines: got {self.lines}, expected 1 to 3"
        assert self.characters_per_s > 0, f"characters_per_s: got {self.characters_per_s}, expected more than 0"
        assert 0 < self.shortest_s <= self.longest_s, f"shortest_s: got {self.shortest_s}, expected up to longest_s"


@dataclass(frozen=True, slots=True)
class Cue:
    """What is shown together."""

    start_ms: int
    end_ms: int
    lines: tuple[str, ...]
    channel: int = 0


class Cutter:
    """One channel's words in, cues out; what is out is settled. Word times never go back."""

    def __init__(self, style: Style, channel: int = 0) -> None:
        self._style, self._channel = style, channel
        self._words: list[Word] = []  # since the last cue
        self._costs: list[float] = []  # of a break behind each of them but the last
        self._length = 0  # characters, a blank behind each word
        self._free_ms = 0  # before it the last cue is shown

    @property
    def waiting_s(self) -> float | None:
        """Where the first word lies that no cue has said yet; None if all are said."""
        return self._words[0].start if self._words else None

    def add(self, words: Iterable[Word]) -> list[Cue]:
        """The cues that these words settle."""
        return [cue for word in words for cue in self._add(word)]

    def heard(self, until_s: float) -> list[Cue]:
        """No word comes that begins before; -> the cues that this settles, the same as a later word would."""
        style = self._style
        if until_s == math.inf:
            return self.end()
        if not self._words or self._short_of_a_pause(until_s) or self._hurried(until_s):
            return []
        words, costs, length, free_ms = self._words[:], self._costs[:], self._length, self._free_ms
        cues = self._settle(math.inf)
        if (until_s - style.gap_s - style.bridge_s) * MS > cues[-1].end_ms + 1:
            return cues
        self._words, self._costs, self._length, self._free_ms = words, costs, length, free_ms
        return []

    def end(self) -> list[Cue]:
        """No word comes any more."""
        return self._settle(math.inf)

    def _add(self, word: Word) -> list[Cue]:
        cues: list[Cue] = []
        if self._words:
            if self._parted(word):
                cues = self._settle(word.start)
            else:
                pause = (word.start - self._words[-1].end) / self._style.pause_s
                self._costs.append(joints.cost(self._words[-1].word, word.word, pause))
        self._words.append(word)
        self._length += len(word.word) + 1
        while len(self._words) > 1 and self._overfull():
            ends = divided(self._words, self._costs, self._style, math.inf, ended=False)
            cues.append(self._cue(ends[0], self._words[ends[0]].start if ends[0] < len(self._words) else math.inf))
        return cues

    def _short_of_a_pause(self, until_s: float) -> bool:
        """A word that begins there still belongs to the last one."""
        last, pause_s = self._words[-1], self._style.pause_s
        if len(self._words) == 1 and len(last.word) <= LONE_LENGTH and joints.leans(last.word):
            pause_s = max(pause_s, self._style.lone_pause_s)
        return round((until_s - last.end) * MS) < round(pause_s * MS)

    def _hurried(self, until_s: float) -> bool:
        """A word that begins there would leave too little time to some cue that can end in the last word."""
        length, most = -1, self._style.lines * (self._style.line_length + 1)
        for word in reversed(self._words):
            length += len(word.word) + 1
            if _hurry(length, until_s - word.start, self._style) > 0:
                return True
            if length > most:
                break
        return False

    def _parted(self, word: Word) -> bool:
        """Between the last word and this one a cue must end."""
        last = self._words[-1]
        if not self._short_of_a_pause(word.start):
            return True
        long_enough = word.start - self._words[0].start >= self._style.shortest_s
        return long_enough and joints.ends_sentence(last.word, word.word)

    def _overfull(self) -> bool:
        """The words make more than two cues, so that the first of them is settled."""
        style = self._style
        lasting_s = self._words[-1].end - self._words[0].start
        return self._length > 2 * style.lines * (style.line_length + 1) or lasting_s > 2 * style.longest_s

    def _settle(self, next_s: float) -> list[Cue]:
        if not self._words:
            return []
        ends = divided(self._words, self._costs, self._style, next_s, ended=True)
        starts_s = [word.start for word in self._words] + [next_s]
        return [self._cue(end - begin, starts_s[end]) for begin, end in pairwise([0, *ends])]

    def _cue(self, count: int, next_s: float) -> Cue:
        """The first words become a cue; the next one's first word begins at `next_s`."""
        words, costs = self._words[:count], self._costs[: count - 1]
        del self._words[:count], self._costs[:count]
        self._length -= sum(len(word.word) + 1 for word in words)
        texts = [word.word for word in words]
        start_ms = max(round(words[0].start * MS), self._free_ms)
        end_ms = self._until(start_ms, words, next_s)
        self._free_ms = end_ms + round(self._style.gap_s * MS)
        begun = [0, *laid_out([len(text) for text in texts], costs, self._style)[1], count]
        lines = tuple(" ".join(texts[a:b]) for a, b in pairwise(begun))
        return Cue(start_ms, end_ms, lines, self._channel)

    def _until(self, start_ms: int, words: Sequence[Word], next_s: float) -> int:
        """How long the cue is shown: as long as spoken, as it takes to read, and as the next one leaves."""
        style = self._style
        length = sum(len(word.word) + 1 for word in words) - 1
        wanted_ms = max(style.shortest_s, length / style.characters_per_s) * MS
        end_ms = max(words[-1].end * MS, start_ms + wanted_ms)
        room_ms = (next_s - style.gap_s) * MS
        if room_ms - end_ms < style.bridge_s * MS:
            end_ms = room_ms
        end_ms = min(end_ms, start_ms + style.longest_s * MS)
        # Words that share a frame leave no room: two frames are shown anyway, and the next cue begins later.
        return max(round(end_ms), start_ms + max(1, round(style.gap_s * MS)))


def divided(words: Sequence[Word], costs: Sequence[float], style: Style, next_s: float, *, ended: bool) -> list[int]:
    """Where cues end among words that follow each other closely: the place behind each cue's last word.

    `costs` are those of a break behind each word but the last. Unless the words have `ended`, the last cue is still
    open and costs nothing.
    """
    count = len(words)
    lengths = [len(word.word) for word in words]
    best = [0.0] + [math.inf] * count
    came_from = [0] * (count + 1)
    for begin in range(count):
        for end in _fitting(words, lengths, begin, style):
            price = best[begin]
            if end < count or ended:
                after_s = words[end].start if end < count else next_s
                price += PER_CUE + (2 * costs[end - 1] if end < count else 0.0)
                price += _hurry(sum(lengths[begin:end]) + end - begin - 1, after_s - words[begin].start, style)
                if price < best[end]:
                    price += laid_out(lengths[begin:end], costs[begin : end - 1], style)[0]
            if price < best[end]:
                best[end], came_from[end] = price, begin
    ends = []
    while count:
        ends.append(count)
        count = came_from[count]
    return ends[::-1]


def _fitting(words: Sequence[Word], lengths: Sequence[int], begin: int, style: Style) -> Iterable[int]:
    """The ends that a cue may have which begins here; one word always fits."""
    yield begin + 1
    used, lines = lengths[begin], 1
    for end in range(begin + 2, len(words) + 1):
        length = lengths[end - 1]
        used += 1 + length
        if used > style.line_length:
            used, lines = length, lines + 1
        too_wide = length > style.line_length or lengths[begin] > style.line_length
        if too_wide or lines > style.lines or words[end - 1].end - words[begin].start > style.longest_s:
            return
        yield end


def _hurry(length: int, time_s: float, style: Style) -> float:
    """The cost of a cue that has too little time to be read, or to be seen at all."""
    missing = max(0.0, 1 - time_s / style.shortest_s) + max(0.0, 1 - time_s * style.characters_per_s / length)
    return 2 * missing


def laid_out(lengths: Sequence[int], costs: Sequence[float], style: Style) -> tuple[float, tuple[int, ...]]:
    """The cheapest way to break words of these lengths into lines: its cost, and where lines begin.

    What fits one line is one line. Lines of like length are cheap, and the lower one may rather be the longer one.
    """
    fewest = _lines_needed(lengths, style)
    if fewest == 1:
        return 0.0, ()
    total = sum(lengths) + len(lengths)
    ways = []
    for count in range(fewest, style.lines + 1):
        price, breaks = _broken(lengths, costs, count, (total - count) / count, style)
        ways.append((price + PER_LINE * (count - fewest), breaks))
    return min(ways)


def _broken(
    lengths: Sequence[int], costs: Sequence[float], count: int, even: float, style: Style
) -> tuple[float, tuple[int, ...]]:
    """As `laid_out`, into exactly so many lines, best of `even` characters; infinite where they do not fit."""
    if count == 1:
        used = sum(lengths) + len(lengths) - 1
        return (abs(used - even) / style.line_length if used <= style.line_length else math.inf), ()
    best: tuple[float, tuple[int, ...]] = (math.inf, ())
    used = -1
    for at in range(1, len(lengths) - count + 2):
        used += lengths[at - 1] + 1
        if used > style.line_length:
            break
        rest, breaks = _broken(lengths[at:], costs[at:], count - 1, even, style)
        price = rest + costs[at - 1] + (abs(used - even) + 0.3 * max(0.0, used - even)) / style.line_length
        if price < best[0]:
            best = (price, (at, *(at + place for place in breaks)))
    return best


def _lines_needed(lengths: Sequence[int], style: Style) -> int:
    used, lines = lengths[0], 1
    for length in lengths[1:]:
        used += 1 + length
        if used > style.line_length:
            used, lines = length, lines + 1
    return lines
