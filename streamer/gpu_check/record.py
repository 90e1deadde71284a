"""gpu.json: what each part found, kept as it comes. Knows nothing of what the figures mean."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streamer.gpu_check.job import NOT_RUN

DONE, FAILED, CUT = "done", "failed", "cut off"


@dataclass(frozen=True, slots=True)
class Records:
    """The file, and a record for each part that was run: status, error, seconds, date, machine, figures."""

    path: Path

    def read(self) -> dict[str, dict[str, Any]]:
        """Records by part; none where there is no file or one that is not ours."""
        try:
            kept = json.loads(self.path.read_text("utf-8"))
        except (OSError, ValueError):
            return {}
        parts = kept.get("parts") if isinstance(kept, dict) else None
        return parts if isinstance(parts, dict) else {}

    def put(self, name: str, record: dict[str, Any]) -> None:
        """Keep a part's record beside the others'."""
        parts = self.read() | {name: record}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write(self.path, {"parts": parts})

    def mark(self, names: Sequence[str]) -> None:
        """Parts that nobody ran yet say so in the file."""
        kept = self.read()
        if missing := {name: {"status": NOT_RUN} for name in names if name not in kept}:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write(self.path, {"parts": kept | missing})

    def finished(self, name: str, machine: str) -> bool:
        """Whether the part was run to its end on such a machine."""
        record = self.read().get(name, {})
        return record.get("status") == DONE and record.get("machine") == machine


def write(path: Path, value: object) -> None:
    """As JSON, whole or not at all."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(json.dumps(value, indent=1, default=str) + "\n", "utf-8")
    os.replace(part, path)
