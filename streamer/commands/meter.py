"""The line below the captions of a microphone: level, time, what is wrong. Knows no device and no terminal."""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING

from clients.mic import PIECE_S, Level, level

if TYPE_CHECKING:
    from rich.text import Text

SHOWN_S = 0.3  # the level is that of the last moments
LOWEST_DB = -60.0  # the bar's left end
GOOD_DB, LOUD_DB = -12.0, -3.0  # peaks above the second are nearly cut off
MUTED_DB, MUTED_S = -60.0, 5.0  # no peak above for so long: nothing is heard, not even the room
_BAR = (6, 30)  # columns


class Meter:
    """Takes each piece that was captured; says when only silence comes."""

    def __init__(self, rate: int) -> None:
        self.note = ""
        """What is wrong now, shown beside the level."""
        self._rate = rate
        self._recent: deque[bytes] = deque(maxlen=round(SHOWN_S / PIECE_S))
        self._samples = 0
        self._squares, self._peak_db = 0.0, -math.inf
        self._silent = 0  # samples in a row

    @property
    def seconds(self) -> float:
        """Captured so far."""
        return self._samples / self._rate

    @property
    def overall(self) -> Level:
        """Of all that was captured."""
        mean = self._squares / self._samples if self._samples else 0.0
        return Level(self._peak_db, 10 * math.log10(mean) if mean > 0 else -math.inf)

    def take(self, pcm: bytes) -> bool:
        """One more piece; True when with it silence has lasted so long that somebody should look."""
        now, samples = level(pcm), len(pcm) // 2
        self._recent.append(pcm)
        self._samples += samples
        self._squares += samples * 10 ** (now.rms_db / 10)
        self._peak_db = max(self._peak_db, now.peak_db)
        before, self._silent = self._silent, self._silent + samples if now.peak_db < MUTED_DB else 0
        return before < MUTED_S * self._rate <= self._silent

    def line(self, width: int, ascii_only: bool) -> Text:
        """Time, bar and figures in so many columns; the bar is full to the RMS and goes on thin to the peak.

        A Ctrl-C that the terminal echoes behind it still fits, so that the line can be drawn anew.
        """
        from rich.text import Text

        now = level(b"".join(self._recent))
        minutes, seconds = divmod(int(self.seconds), 60)
        clock = f"{minutes:d}:{seconds:02d}"
        loudest = _figure(now.peak_db)
        figures = f"peak {loudest}  rms {_figure(now.rms_db)} dBFS" if width >= 70 else loudest
        note = self.note or ("only silence: muted?" if self._silent >= MUTED_S * self._rate else "")
        note = f"  {note}" if note else ""
        bar = min(_BAR[1], max(_BAR[0], width - 7 - len(clock) - len(figures) - len(note)))
        full, thin, empty = "#=." if ascii_only else "━─┄"
        rms, peak = _share(now.rms_db, bar), _share(now.peak_db, bar)
        colour = "red" if now.peak_db >= LOUD_DB else "yellow" if now.peak_db >= GOOD_DB else "green"
        line = Text.assemble(
            ("* " if ascii_only else "● ", "yellow" if self.note else "red"),
            f"{clock} ",
            (full * rms, colour),
            (thin * (peak - rms), colour),
            (empty * (bar - peak), "dim"),
            f" {figures}",
            (note, "yellow"),
            no_wrap=True,
        )
        line.truncate(width - len("^C") - 1, overflow="crop" if ascii_only else "ellipsis")
        return line


def _share(db: float, columns: int) -> int:
    return round(columns * min(1.0, max(0.0, 1 - max(db, LOWEST_DB) / LOWEST_DB)))


def _figure(db: float) -> str:
    return f"{db:4.0f}" if db > -100 else "-inf"


def spoken(now: Level) -> str:
    """A level in words for a line of text."""
    return f"peak {_exact(now.peak_db)}, RMS {_exact(now.rms_db)}"


def _exact(db: float) -> str:
    return f"{db:.1f} dBFS" if db > -math.inf else "silence"
