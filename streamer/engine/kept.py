"""capacity.json: step costs that were measured, kept by model, backend and machine. Knows no streams and no threads.

    {"format": 2, "tables": {NAME: {"measured": "2026-11-22", "slots": 1024, "costs": {"1": [[1, 0.0038], ...]}}}}

NAME says of what machine and model they are; costs are [rows, seconds] by encoder frames a chunk. What cannot be used
is passed over with a warning and measured again; tables of other models and machines stay as they are.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from streamer.backends.base import Backend
from streamer.engine.costs import Clock, Costs, measure
from streamer.engine.machine import processor_name, processors
from streamer.engine.results import EngineSettings

log = logging.getLogger(__name__)

FORMAT = 2
# Wall seconds a processor second: on a machine that does nothing else a step takes no longer than its threads' work.
DISTURBED = 1.25


@dataclass(frozen=True, slots=True)
class Kept:
    """The file; without a name nothing is kept. `again`: what it has of this model and machine is measured anew."""

    file: str
    threads: int = 0
    again: bool = False
    lanes: int = 1  # engines that work while it is measured

    def costs(
        self, backend: Backend, chunks: Iterable[int], clock: Clock, longest_s: float, busy: Clock | None = None
    ) -> Costs:
        """As kept, else measured now (see `measure`) and kept, unless the machine was at other work."""
        wanted = sorted(set(chunks))
        name, tables = name_of(backend, self.threads, self.lanes), self._read()
        if not self.again and name in tables:
            if (known := _costs(tables[name], wanted, backend.slots)) is not None:
                return known
            log.warning("engine.capacity_file=%s: got a table that is no good; measured again: %s", self.file, name)
        costs = measure(backend, wanted, clock, longest_s, busy)
        if costs.disturbed > DISTURBED:
            said = "other work took the processors while steps were measured (%.1f s for a second of ours)%s"
            loss = "; the table is not kept" if self.file else ""
            log.log(logging.WARNING if self.file else logging.INFO, said, costs.disturbed, loss)
        elif self.file:
            points = {str(chunk): [list(point) for point in points] for chunk, points in costs.points.items()}
            table = {"measured": time.strftime("%Y-%m-%d"), "slots": backend.slots, "costs": points}
            self._write({**tables, name: table})
        return costs

    def _read(self) -> dict[str, Any]:
        """The tables by name. All of it can be measured again, so a file that cannot be read is as good as none."""
        if not self.file:
            return {}
        try:
            kept = json.loads(Path(self.file).read_text("utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, RecursionError) as error:
            log.warning("engine.capacity_file=%s: got %s, expected JSON; written anew", self.file, type(error).__name__)
            return {}
        match kept:
            case {"format": 2, "tables": dict(tables)}:
                return tables
        log.warning("engine.capacity_file=%s: got another format, expected %d; written anew", self.file, FORMAT)
        return {}

    def _write(self, tables: dict[str, Any]) -> None:
        """Whole or not at all: another daemon may read it at this moment."""
        text = json.dumps({"format": FORMAT, "tables": tables}, indent=1) + "\n"
        beside = Path(f"{self.file}.{os.getpid()}")
        try:
            beside.write_text(text, "utf-8")
            beside.replace(self.file)
        except OSError as error:
            beside.unlink(missing_ok=True)
            why = f"expected a file that can be written ({error.strerror}); the next start measures again"
            log.warning("engine.capacity_file=%s: %s", self.file, why)


def known(backend: Backend, settings: EngineSettings, clock: Clock) -> Costs:
    """The costs of all that the model can be stepped by, from the settings' file if it has them. As many engines as the
    settings say work meanwhile."""
    busy = partial(_a_lane, settings.lanes) if backend.about.get("device") == "cpu" else None
    kept = Kept(settings.capacity_file, settings.threads, lanes=settings.lanes)
    return kept.costs(backend, backend.config.chunks, clock, settings.budget_s, busy)


def _a_lane(lanes: int) -> float:
    """This process's processor seconds, a share of them where several engines are at work."""
    return time.process_time() / lanes


def name_of(backend: Backend, threads: int, lanes: int = 1) -> str:
    """What a table is good for: the same model's shape in the same precision, on the same processors."""
    config = backend.config
    model = f"{config.name} {config.layers}x{config.d_model}"
    runs = " ".join((backend.name, *backend.about.values()))
    side_by_side = f"{lanes} engines of " if lanes > 1 else ""
    return f"{model}, {runs}, {side_by_side}{threads} threads, {processor_name()}, {processors()} processors"


def _costs(kept: Any, wanted: list[int], slots: int) -> Costs | None:
    """What was kept as costs of exactly the wanted chunks and as many rows; None for anything that is not that."""
    try:
        table = kept["costs"].items()
        points = {int(chunk): tuple((int(r), float(s)) for r, s in points) for chunk, points in table}
        costs = Costs(points) if sorted(points) == wanted else None
        had = int(kept["slots"])
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
        return None
    cut_off = had < slots and any(own[-1][0] >= had for own in points.values())  # there were no more slots to step
    return None if cut_off else costs
