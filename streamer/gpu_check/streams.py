"""The most real-time streams in one process, through the engine as the daemon runs it."""

from __future__ import annotations

import random
import time
from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np

from models.config import SAMPLE_RATE
from streamer.commands import TAIL_MS
from streamer.engine.loop import Engine, EngineSettings, Failed, Full, Result
from streamer.fronts import calm
from streamer.gpu_check.job import NO_TIME, Job
from streamer.gpu_check.random_models import SPARES, fitting, narrowed, speaker
from streamer.gpu_check.search import Search, complaints
from streamer.gpu_check.seats import Load, Seat, Wheel
from streamer.gpu_check.sounds import Pcm, speech

RAMP_S, BEGIN_A_SECOND = 2.0, 1500  # in which the streams begin, or longer, so that not more do at once
LONG, LONG_FIRST = 7, 4  # from chunks of so many frames on a search begins with so many times the streams
REST_S = 0.001  # the generator looks this often
SPARE_SEATS = 0.95  # of the slots: streams that have ended hold theirs until they have heard all
NONE_PASSED = "none: not one run passed"
STEP_BACK = 0.94  # where a limit that a search found does not last
SILENCE = np.zeros(TAIL_MS * SAMPLE_RATE // 1000, np.float32)  # heard at the end, as the daemon does
AFTER_S = 5.0  # that a run takes beyond its time


def run(job: Job, model: str, latency_ms: int) -> None:
    """A search, and where the latency is one of those that are confirmed, a long run of what it found."""
    whole = job.size.models[model]
    chunk = whole.chunk_of(latency_ms)
    config = narrowed(whole, chunk)
    slots = fitting(job, config, job.size.slots)
    spoken = speaker(job, config, chunk, slots)
    job.note(
        model=model, latency_ms=latency_ms, slots=slots, about=spoken.backend.about,
        tokens_a_second=spoken.tokens_a_second, tail_ms=TAIL_MS, tries=[],
    )  # fmt: skip
    audio = speech(job.size.recordings)
    runner = InProcess(spoken.backend, audio)
    try:
        top = max(1, int(slots / SPARES * SPARE_SEATS))
        confirmed = confirm(job, search(job, runner, (chunk, top)), runner, chunk)
        job.note(confirmed=confirmed)
    finally:
        runner.stop()


def search(job: Job, runner: Any, what: tuple[int, int]) -> int:
    """The most streams of `chunk` frames that pass a short run, up to `top`; runner.run(load) makes one."""
    chunk, top = what
    first = job.size.first_streams * (LONG_FIRST if chunk >= LONG else 1)
    tried = Search(min(first, top), top)
    tries: list[dict[str, Any]] = []
    while (streams := tried.next()) is not None:
        ramp_s = ramp(job, streams)
        if not job.has(ramp_s + job.size.search_s + AFTER_S):
            break
        figures = runner.run(Load(streams, chunk, job.size.search_s, ramp_s, job.size.utterance_s))
        why = complaints(figures, chunk * 0.08)
        tried.tell(streams, not why)
        tries.append({"streams": streams, "passed": not why, "why": why, **figures})
        job.note(tries=tries, most=tried.good, top=top, all_that_fit=tried.good >= top)
    return tried.good


def confirm(job: Job, streams: int, runner: Any, chunk: int) -> Any:
    """A long run; fewer streams where it does not pass."""
    found: Any = NO_TIME if streams else NONE_PASSED
    while streams and job.has(ramp(job, streams) + job.size.confirm_s + AFTER_S):
        ramp_s = ramp(job, streams)
        figures = runner.run(Load(streams, chunk, job.size.confirm_s, ramp_s, job.size.utterance_s))
        why = complaints(figures, chunk * 0.08)
        found = {"streams": streams, "passed": not why, "why": why, **figures}
        job.note(confirmed=found)
        if not why:
            break
        streams = int(streams * STEP_BACK)
    return found


def ramp(job: Job, streams: int) -> float:
    """Seconds in which so many streams begin."""
    return max(RAMP_S, streams / BEGIN_A_SECOND) if job.size.name == "full" else 0.2


class InProcess:
    """An engine over a backend; each run is heard by it, the generator being this thread."""

    def __init__(self, backend: Any, audio: Pcm) -> None:
        self._audio = audio
        self._hearing: Hearing | None = None
        self._runs = 0
        self._engine = Engine(backend, EngineSettings(max_load=100.0), self._deliver)
        self._engine.start()
        if backend.depth > 1:  # as the daemon does on a GPU
            calm()

    def _deliver(self, results: list[Result]) -> None:
        if self._hearing is not None:
            self._hearing.hear(results)

    def run(self, load: Load) -> dict[str, Any]:
        """Put the load on; what came of it."""
        hearing = self._hearing = Hearing(load)
        self._runs += 1
        cpu, own = time.process_time(), time.thread_time()
        engines = self._speak(load, hearing)
        own, cpu = time.thread_time() - own - engines, time.process_time() - cpu
        self._hearing = None
        return hearing.figures() | {
            "generator_cpu": round(own / (load.ramp_s + load.seconds), 3),
            "engine_cpu": round((cpu - own) / (load.ramp_s + load.seconds), 3),
            "engine_cpu_of_feeding": round(engines / (load.ramp_s + load.seconds), 3),
        }

    def _speak(self, load: Load, hearing: Hearing) -> float:
        """Until the time is over; processor seconds of this thread that were the engine's."""
        seats, luck, engine = load.seats(len(self._audio)), random.Random(1), self._engine
        wheel, most, engines = Wheel(seats, load.chunk_s), len(self._audio) - load.samples, 0.0
        begin = time.monotonic()
        hearing.from_s = begin + load.ramp_s
        while (now := time.monotonic() - begin) < load.ramp_s + load.seconds:
            pieces, over = [], list[str]()
            for due, turn in wheel.due(now):
                hearing.lags.append(now - due)
                for seat in turn:
                    if seat.left <= 0:
                        over.append(seat.link)
                        seat.link, seat.left = None, load.messages(luck)
                    if seat.link is None and not self._begin(load, seat, hearing):
                        continue
                    at = seat.at % most
                    pieces.append((seat.link, self._audio[at : at + load.samples]))
                    seat.at = at + load.samples
                    seat.left -= 1
            mark = time.thread_time()
            engine.feed_all(pieces)
            for key in over:  # what they said last is among the pieces, if the generator was late
                hearing.finished[key] = time.monotonic()
                engine.finish(key, SILENCE)
            engines += time.thread_time() - mark
            time.sleep(max(REST_S, min(0.02, wheel.next_s - (time.monotonic() - begin))))
        for key in [seat.link for seat in seats if seat.link is not None]:
            hearing.waiting(engine.waiting_seconds(key))
            engine.drop(key)
        for key in list(hearing.finished):
            engine.drop(key)
        return engines

    def _begin(self, load: Load, seat: Seat, hearing: Hearing) -> bool:
        """A new stream in the seat; False if there is no room for it."""
        seat.stream += 1
        key = f"{self._runs}/{seat.number}-{seat.stream}"
        try:
            self._engine.open(key, load.chunk)
        except Full:
            hearing.errors += 1
            return False
        seat.link = key
        return True

    def stop(self) -> None:
        self._engine.stop()


class Hearing:
    """What comes back of a load, on the engine's thread; only what was asked after the ramp counts."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self.from_s = float("inf")
        self.errors = self.late = 0
        self.lateness, self.lags = array("d"), array("d")  # millions of them
        self.finals: list[float] = []
        self.finished: dict[str, float] = {}

    def hear(self, results: list[Result]) -> None:
        now = time.monotonic()
        for key, heard, arrived in results:
            if isinstance(heard, Failed):
                self.errors += 1
            elif heard.finished:
                asked = self.finished.pop(key, None)
                if asked is not None and asked >= self.from_s:
                    self.finals.append(now - asked)
            elif arrived is not None and arrived >= self.from_s:
                self.lateness.append(now - arrived)

    def waiting(self, seconds: float) -> None:
        """A stream is cut off with so much audio that was never heard: whole chunks of it but one are late."""
        self.late += max(0, int(seconds / self._load.chunk_s) - 1)

    def figures(self) -> dict[str, Any]:
        late = self.late + sum(seconds > self._load.chunk_s for seconds in self.lateness)
        now = time.monotonic()
        finals = self.finals + [now - asked for asked in self.finished.values() if asked >= self.from_s]
        return summary(self.lateness, finals, self.lags, (late, self.errors))


def summary(
    lateness: Sequence[float], finals: Sequence[float], lags: Sequence[float], bad: tuple[int, int]
) -> dict[str, Any]:
    """Seconds, and shares of 1."""
    late, errors = bad
    return {
        "results": len(lateness),
        "late_share": late / max(1, len(lateness) + late),
        "late_p50_s": quantile(lateness, 0.5),
        "late_p99_s": quantile(lateness, 0.99),
        "finals": len(finals),
        "final_p50_s": quantile(finals, 0.5),
        "final_p95_s": quantile(finals, 0.95),
        "lag_p99_s": quantile(lags, 0.99),
        "errors": errors,
    }


def quantile(values: Sequence[float], share: float) -> float:
    return round(float(np.quantile(np.asarray(values), share)), 4) if len(values) else 0.0
