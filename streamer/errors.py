"""Refusals: one sentence that says where, what was got and what was expected. Knows nothing of sockets or JSON."""

from __future__ import annotations

import difflib
import re
import reprlib
import unicodedata
from collections.abc import Iterable

CODES: dict[str, str] = {  # the code on the wire -> what it means (docs/protocol.md repeats this table)
    "bad_request": "a value in the query of the connection is missing, unknown or out of range",
    "bad_message": "a text message is not one of the protocol's, or carries a wrong value",
    "bad_state": "the message is known, but not allowed now (audio after close, for instance)",
    "bad_audio": "the bytes are not the audio that was announced, or too many in one message; the stream ends",
    "too_many_errors": "too many refused messages on one stream; the stream ends",
    "idle_timeout": "no audio and no keepalive for too long; the stream ends",
    "session_limit": "the longest session the server allows has been reached; the stream ends",
    "at_capacity": "the server is full; try again later",
    "room_taken": "another stream speaks in this room; try again when it has ended",
    "unauthorized": "the API key is missing or wrong",
    "internal": "a fault of the server; the stream ends with what was heard",
}

_PLAIN = re.compile(r"[\w.,+:/%-]{1,60}\Z", re.ASCII)
_SHOWN = 60  # characters of a wrong value that an error repeats: enough to recognise it, too few to flood a log
_TURNS = frozenset("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_SHORT = reprlib.Repr()  # JSON may be nested deeper than repr() can go
_SHORT.maxlevel, _SHORT.maxother, _SHORT.maxstring = 3, _SHOWN + 1, _SHOWN + 1


class Refusal(Exception):
    """The other side's mistake: `where=got: expected ...`, and the code that travels with it."""

    def __init__(self, where: str, got: object, expected: str, code: str = "bad_request") -> None:
        assert code in CODES, f"code: got {code!r}, expected one of {', '.join(CODES)}"
        self.where, self.got, self.expected, self.code = where, got, expected, code
        super().__init__(f"{where}={shown(got)}: expected {expected}")


def shown(value: object) -> str:
    """A value as an error repeats it: plain words as they are, anything else quoted and cut short."""
    if isinstance(value, str) and _PLAIN.match(value):
        return value
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    text = repr(value[: _SHOWN + 1]) if isinstance(value, (str, bytes)) else _SHORT.repr(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."


def printable(text: str) -> str:
    """A text for one line of a terminal: control characters, ends of lines, marks that turn the direction of writing
    and bytes that are no UTF-8 (from names of files) are written as `\\x1b`."""
    return text if text.isprintable() else "".join(map(_printable, text))


def _printable(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # os.fsdecode's way to carry a byte
        return f"\\x{code - 0xDC00:02x}"
    unseen = unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") or character in _TURNS
    return character.encode("unicode_escape").decode("ascii") if unseen else character


def one_of(names: Iterable[str], got: str) -> str:
    """The sentence's end for an unknown name: the nearest known one where there is one, then all of them."""
    known = list(names)
    near = difflib.get_close_matches(got, known, n=1, cutoff=0.6)
    hint = f" (did you mean {near[0]}?)" if near else ""
    return f"one of {', '.join(known)}{hint}"
