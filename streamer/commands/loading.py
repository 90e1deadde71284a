"""What `streamer bench load` and `streamer bench soak` share: their flags, a daemon, a run, and what is kept of it."""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from streamer.commands import DEFAULT_LATENCY, USAGE, CommandError, is_terminal, say, whole

if TYPE_CHECKING:
    from streamer.bench.order import Order
    from streamer.bench.report import Figures
    from streamer.bench.scrape import Numbers
    from streamer.bench.tally import Tally

RAMP_S = 5.0  # the first streams of a long run begin within this
SHORT_RAMP_S = 1.0  # and of one without a time, where all of it counts
SAMPLES_A_MS = 16


@dataclass(frozen=True, slots=True)
class Outcome:
    """One run."""

    tally: Tally
    figures: Figures
    memory: list[tuple[float, int, int]]
    """Seconds since the beginning, bytes that the daemon holds, streams that had ended."""
    ramp_s: float
    """The first streams had begun by then; delays before do not count."""


class Loading:
    """The references, made before anything is started, and a daemon that runs until the stack is left."""

    def __init__(self, args: argparse.Namespace, stack: ExitStack) -> None:
        from streamer import artefacts
        from streamer.commands.daemon import Daemon
        from streamer.commands.references import joined, parted, recordings, references

        self._args = args
        files, options = parted(args.words)
        if args.url and options:
            raise CommandError(f"{options[0]}: an option of our own daemon, and --url names another", USAGE)
        if args.out:
            args.out.mkdir(parents=True, exist_ok=True)
        model = str(artefacts.resolve(args.model))
        cut_at = SAMPLES_A_MS * args.message_ms if args.finalize or args.stalls else 0
        spoken = joined(recordings(files, args.manifest, args.limit), args.join)
        backend = next((option.partition("=")[2] for option in options if option.startswith("model.backend=")), None)
        self.references = references(spoken, model, backend, args.latency, cut_at)
        self.url, self._pid = args.url, None
        if self.url is None:
            daemon = stack.enter_context(Daemon(f"model.path={model}", "log.level=warning", *options))
            self.url, self._pid = daemon.url, daemon.pid

    def run(self, streams: int, seconds: float, title: str) -> Outcome:
        """One load, from its first stream to the end of its last."""
        from streamer.bench import report
        from streamer.bench.live import view
        from streamer.bench.load import LoadFailed, watch
        from streamer.bench.scrape import cpu_seconds, metrics, resident_bytes
        from streamer.bench.tally import Tally

        ramp_s = min(RAMP_S, seconds / 5) if seconds else SHORT_RAMP_S
        counted = (ramp_s, seconds) if seconds else (0.0, math.inf)
        tally = Tally(self.references.words, counted=counted, letters=self._args.endpointing)
        memory: list[tuple[float, int, int]] = []
        with tempfile.TemporaryDirectory(prefix="streamer-load-") as folder, view(title, is_terminal()) as show:
            order = self._order(Path(folder), streams, (seconds, ramp_s))

            def tick(now: float) -> None:
                held = resident_bytes(self._pid)
                if held is not None:
                    memory.append((now, held, len(tally.ends)))
                show(tally, held)

            before, cpu_s = metrics(self.url), cpu_seconds(self._pid)
            try:
                watch(order, self._args.processes, tally.add, tick)
            except LoadFailed as failed:
                raise CommandError(str(failed)) from None
            spent_s, after = cpu_seconds(self._pid) - cpu_s, metrics(self.url)
        figures = report.figures(tally, order, self._about(tally, (before, after), spent_s, memory))
        for line in (*figures["errors"], *report.warnings(figures)):
            say(line)
        return Outcome(tally, figures, memory, ramp_s)

    def _order(self, folder: Path, streams: int, times: tuple[float, float]) -> Order:
        import numpy as np

        from clients.client import Options, stream_url
        from models.config import FRAME_MS
        from streamer.bench.mishaps import Mishaps
        from streamer.bench.order import Order

        args, said = self._args, self.references
        np.save(folder / "audio.npy", said.audio)
        mishaps = Mishaps(
            jitter_ms=args.jitter,
            stalls=args.stalls,
            stall_s=args.stall_s,
            disconnects=args.disconnects,
            finalize_s=args.finalize,
        )
        return Order(
            url=stream_url(self.url, Options(latency_ms=said.latency_ms, endpointing=args.endpointing)),
            chunk=said.latency_ms // FRAME_MS,
            streams=streams,
            audio=str(folder / "audio.npy"),
            speeches=said.speeches,
            seconds=times[0],
            ramp_s=times[1],
            message_ms=args.message_ms,
            mishaps=mishaps,
            seed=args.seed,
        )

    def _about(
        self, tally: Tally, numbers: tuple[Numbers, Numbers], cpu_s: float, memory: list[tuple[float, int, int]]
    ) -> Figures:
        """The fields that come from the daemon; None where it is not ours or does not say."""
        from streamer.bench.scrape import mean

        names = ("streamer_step_seconds", "streamer_batch_rows", "streamer_partial_latency_seconds")
        step_s, rows, partial_s = (mean(*numbers, name) for name in names)
        own = self._pid is not None and tally.audio_s > 0
        return {
            "model": self.references.model,
            "latency_ms": self.references.latency_ms,
            "endpointing": self._args.endpointing,
            "cpu_s_per_audio_s": round(cpu_s / tally.audio_s, 4) if own else None,
            "step_ms": None if step_s is None else round(1000 * step_s, 2),
            "rows_a_step": None if rows is None else round(rows, 1),
            "daemon_partial_ms": None if partial_s is None else round(1000 * partial_s, 1),
            "finalize_goal_ms": None if step_s is None else round(2000 * step_s + 20, 1),
            "rss_mib": round(memory[-1][1] / (1 << 20), 1) if memory else None,
        }


def publish(args: argparse.Namespace, stem: str, figures: Figures, table: Callable[[str], str], svg: str) -> None:
    """The table, or one line of JSON, to stdout; all three into the folder that is named. `table` takes the picture's
    name."""
    line = json.dumps(figures)
    print(line if args.json else table(""), end="\n" if args.json else "")
    if args.out:
        (args.out / f"{stem}.md").write_text(table(f"{stem}.svg"), "utf-8")
        (args.out / f"{stem}.json").write_text(f"{line}\n", "utf-8")
        (args.out / f"{stem}.svg").write_text(svg, "utf-8")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Those that every load has."""
    flag = parser.add_argument
    flag("--latency", type=whole(1), metavar="MS", help=f"of every stream (default: {DEFAULT_LATENCY})")
    flag("--model", default="", metavar="M", help="model folder or .nemo file (default: the one that ships)")
    flag("--url", help="a daemon that runs already with the same model (default: one of our own)")
    flag("--manifest", type=Path, metavar="M.jsonl", help="what the streams say, too; as for `streamer eval`")
    flag("--limit", type=whole(1), metavar="N", help="only the first N lines of it")
    flag("--join", type=seconds, default=0.0, metavar="S", help="say recordings one after the other for so long")
    flag("--endpointing", action="store_true", help="segments end in pauses; words are compared by their letters")
    flag("--message-ms", type=whole(10, 1000), default=80, metavar="MS", help="audio in a message (default: 80)")
    flag("--jitter", type=whole(0, 10_000), default=0, metavar="MS", help="messages leave up to so much late")
    flag("--stalls", type=share, default=0.0, metavar="SHARE", help="of the streams that send nothing for a while")
    flag("--stall-s", type=whole(1, 60), default=3, metavar="S", help="how long that is (default: 3)")
    flag("--disconnects", type=share, default=0.0, metavar="SHARE", help="of the streams whose line breaks")
    flag("--finalize", type=seconds, default=0.0, metavar="S", help="ask for finals every so often (default: never)")
    flag("--seed", type=whole(0), default=0, metavar="N", help="of all that is random (default: 0)")
    flag("--processes", type=whole(1, 64), default=1, metavar="N", help="for the clients (default: 1)")
    flag("--json", action="store_true", help="one line of JSON on stdout in place of the table")
    flag("--out", type=Path, metavar="FOLDER", help="also write table, JSON and plot there")
    flag(
        "words",
        nargs="*",
        metavar="FILE | section.key=value",
        help="what the streams say (default: the recording that ships); options of our own daemon",
    )


def share(text: str) -> float:
    """A flag's type: 0 to 1."""
    return _number(text, 1.0, "a share from 0 to 1")


def seconds(text: str) -> float:
    """A flag's type: 0 to an hour."""
    return _number(text, 3600.0, "seconds, 0 to 3600")


def _number(text: str, most: float, expected: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= most:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected {expected}")
    return value
