"""Words to the files that keep them: plain text, SRT, WebVTT, CTM and JSON lines. Knows nothing of audio or commands.

A file grows as words come in and is whole and readable after each cue or line, whatever ends the program. SRT and
WebVTT hold cues (streamer/subtitles/cues.py), which are written once no later word can change them; plain text and
JSON lines have a line for each `add`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from streamer.protocols.events import Word
from streamer.subtitles import KINDS
from streamer.subtitles.cues import MS, Cue, Cutter, Style

__all__ = ["KINDS", "Writer", "kind_of", "open_writer"]

# SRT has no escapes: what players take for tags or for the arrow of times is written with letters that look alike.
_LOOKALIKES = str.maketrans("<>{}", "\u2039\u203a()")
_LONE = re.compile("[\ud800-\udfff]")
_ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})


class Writer:
    """One file being written; a context manager. Of each channel the word times never go back."""

    whole_lines = False
    """Each `add` is a line of its own, so that an utterance wants to be added whole."""

    def __init__(self, out: TextIO, name: str, channels: int, *, owned: bool) -> None:
        self._out, self._name, self._channels, self._owned = out, name, channels, owned

    def add(self, words: Sequence[Word], channel: int = 0) -> None:
        """Words that were said one after the other, an utterance or a part of one."""
        raise NotImplementedError

    def heard(self, until_s: float, channel: int = 0) -> None:
        """No word of this channel comes that begins before; may be said at any time, and need not be."""

    def close(self) -> None:
        """Write what was waiting for later words. A stream that was given stays open."""
        try:
            self._finish()
        finally:
            if self._owned:
                self._out.close()

    def _finish(self) -> None:
        pass

    def _write(self, text: str) -> None:
        """Raises OSError with the file's name, if it is ours: a full disk does not say which."""
        try:
            self._out.write(text)
            self._out.flush()
        except OSError as error:
            if self._owned:
                error.filename = self._out.name
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Text(Writer):
    """The words of each `add` on a line of their own; with several channels each line begins with its own, from 1."""

    whole_lines = True

    def add(self, words: Sequence[Word], channel: int = 0) -> None:
        if words:
            who = f"{channel + 1}: " if self._channels > 1 else ""
            self._write(who + " ".join(word.word for word in words) + "\n")


class JsonLines(Writer):
    """An object for each `add`: the fields of `streamer transcribe --json`, of this utterance alone."""

    whole_lines = True

    def add(self, words: Sequence[Word], channel: int = 0) -> None:
        if not words:
            return
        line: dict[str, Any] = {"audio_filepath": self._name} if self._name else {}
        line |= {
            "channel": channel,
            "start": words[0].start,
            "end": words[-1].end,
            "text": " ".join(word.word for word in words),
            "words": [{"word": w.word, "start": w.start, "end": w.end, "confidence": w.confidence} for w in words],
        }
        self._write(json_line(line) + "\n")


class TimeMarks(Writer):
    """NIST's CTM: a line for each word with recording, channel (from 1), start, duration and confidence."""

    def add(self, words: Sequence[Word], channel: int = 0) -> None:
        seen = "".join(character if character.isprintable() else " " for character in Path(self._name).stem)
        recording = "_".join(seen.split()) or "-"
        self._write(
            "".join(
                f"{recording} {channel + 1} {word.start:.3f} {word.end - word.start:.3f} "
                f"{word.word} {word.confidence:.4f}\n"
                for word in words
            )
        )


class Subtitles(Writer):
    """Cues of all channels in the order of their beginnings."""

    def __init__(self, out: TextIO, name: str, style: Style, channels: int, *, owned: bool) -> None:
        super().__init__(out, name, channels, owned=owned)
        self._cutters = [Cutter(style, channel) for channel in range(channels)]
        self._heard_s = [0.0] * channels
        self._waiting: list[Cue] = []  # settled, but another channel may still have an earlier one
        self._number = 0

    def add(self, words: Sequence[Word], channel: int = 0) -> None:
        self._waiting += self._cutters[channel].add(words)
        if words:
            self._heard_s[channel] = max(self._heard_s[channel], words[-1].start)
        self._write_before(self._settled_s())

    def heard(self, until_s: float, channel: int = 0) -> None:
        self._waiting += self._cutters[channel].heard(until_s)
        self._heard_s[channel] = max(self._heard_s[channel], until_s)
        self._write_before(self._settled_s())

    def _settled_s(self) -> float:
        """No cue comes that begins before: each channel's next one begins with its first unsaid word or later."""
        begins = [cutter.waiting_s for cutter in self._cutters]
        return min(h if b is None else b for h, b in zip(self._heard_s, begins, strict=True))

    def _write_before(self, until_s: float) -> None:
        if self._channels == 1:
            until_s = float("inf")
        self._waiting.sort(key=lambda cue: (cue.start_ms, cue.channel))
        while self._waiting and self._waiting[0].start_ms <= until_s * MS:
            self._number += 1
            self._write(self._cue(self._waiting.pop(0)))

    def _finish(self) -> None:
        for cutter in self._cutters:
            self._waiting += cutter.end()
        self._write_before(float("inf"))

    def _cue(self, cue: Cue) -> str:
        raise NotImplementedError


class SubRip(Subtitles):
    """SRT; with several channels each cue begins with its own, from 1: `[2] `."""

    def __init__(self, out: TextIO, name: str, style: Style, channels: int, *, owned: bool) -> None:
        room = len(f"[{channels}] ") if channels > 1 else 0
        super().__init__(out, name, replace(style, line_length=style.line_length - room), channels, owned=owned)

    def _cue(self, cue: Cue) -> str:
        who = f"[{cue.channel + 1}] " if self._channels > 1 else ""
        lines = who + "\n".join(cue.lines).translate(_LOOKALIKES)
        return f"{self._number}\n{_clock(cue.start_ms, ',')} --> {_clock(cue.end_ms, ',')}\n{lines}\n\n"


class WebVtt(Subtitles):
    """WebVTT; with several channels each cue names its own as the voice."""

    def __init__(self, out: TextIO, name: str, style: Style, channels: int, *, owned: bool) -> None:
        super().__init__(out, name, style, channels, owned=owned)
        self._write("WEBVTT\n\n")

    def _cue(self, cue: Cue) -> str:
        lines = "\n".join(cue.lines).translate(_ENTITIES)
        voice = f"<v Channel {cue.channel + 1}>" if self._channels > 1 else ""
        return f"{_clock(cue.start_ms, '.')} --> {_clock(cue.end_ms, '.')}\n{voice}{lines}\n\n"


_LINES = {"txt": Text, "ctm": TimeMarks, "jsonl": JsonLines}
_CUES = {"srt": SubRip, "vtt": WebVtt}


def open_writer(
    target: Path | TextIO,
    kind: str,
    *,
    name: str | None = None,
    style: Style | None = None,
    channels: int = 1,
    overwrite: bool = False,
) -> Writer:
    """A writer of one of KINDS into a new file, or into a stream of text that is open.

    `name` is the recording's, for CTM and JSON lines (default: the target's; "": there is none). Raises
    FileExistsError where the file is there and shall not be overwritten, and OSError where it cannot be made.
    """
    assert kind in KINDS, f"kind: got {kind!r}, expected one of {', '.join(KINDS)}"
    owned = isinstance(target, Path)
    if name is None:
        name = str(target) if isinstance(target, Path) else "audio"
    out = _opened(target, overwrite) if isinstance(target, Path) else target
    try:
        if kind in _CUES:
            return _CUES[kind](out, name, style or Style(), channels, owned=owned)
        return _LINES[kind](out, name, channels, owned=owned)
    except BaseException:
        if owned:
            with suppress(OSError):
                out.close()
        raise


def _opened(path: Path, overwrite: bool) -> TextIO:
    kept = not overwrite and (path.is_file() or not path.exists())  # /dev/null and pipes lose nothing
    return path.open("x" if kept else "w", encoding="utf-8", newline="\n")


def json_line(fields: dict[str, Any]) -> str:
    """As JSON, in UTF-8's letters; bytes of a file's name that are no UTF-8 as the escapes that Python reads back."""
    return _LONE.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(fields, ensure_ascii=False))


def kind_of(path: Path) -> str | None:
    """The kind that a file's name asks for by its suffix; None where it is none of ours."""
    suffix = path.suffix.lower().removeprefix(".")
    return suffix if suffix in KINDS else None


def _clock(milliseconds: int, point: str) -> str:
    seconds, rest = divmod(milliseconds, MS)
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}{point}{rest:03d}"
