"""How log records are written: a line of text or of JSON, with the session's id. Knows nothing of what is logged."""

from __future__ import annotations

import json
import logging
import sys
from typing import TextIO


class _Text(logging.Formatter):
    """2026-11-21 14:03:07 info session=1f2e opened"""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname_lower)s%(session_mark)s %(message)s", "%Y-%m-%d %H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        record.levelname_lower = record.levelname.lower()
        session = getattr(record, "session", None)
        record.session_mark = f" session={session}" if session else ""
        return super().format(record)


class _Json(logging.Formatter):
    """One object a line: time, level, logger, message; session and traceback where there are any."""

    def format(self, record: logging.LogRecord) -> str:
        values = {
            "time": f"{self.formatTime(record, '%Y-%m-%dT%H:%M:%S')}.{int(record.msecs):03d}",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if session := getattr(record, "session", None):
            values["session"] = session
        if record.exc_info:
            values["traceback"] = self.formatException(record.exc_info)
        return json.dumps(values, ensure_ascii=False)


def set_up(form: str, level: str, stream: TextIO | None = None) -> None:
    """Everything our packages log goes to `stream` (stderr)."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_Json() if form == "json" else _Text())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # aiohttp repeats request lines of strangers, keys and all, when it cannot parse them.
    logging.getLogger("aiohttp").setLevel(logging.CRITICAL)
