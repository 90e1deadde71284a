"""What the daemon costs beside its model: processor time of a message, of a step, and of nothing at all.

Servers of streamer.bench.quiet run as processes of their own and take turns under the same load, so that whatever else
the machine does befalls all of them. Knows nothing of how they work.
"""

from __future__ import annotations

import asyncio
import http.client
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from streamer.bench.machine import machine
from streamer.gpu_check.lean import BINARY, Lean, frame

MESSAGE_S = 0.02
SAMPLES = 320  # of a message, at 16 kHz
SETTLE_S = 1.0  # from the first message to the first that counts
CHUNK_MESSAGES = 4
GOLDEN = 0.618034
WAIT_S = 60.0  # on a machine that is busy: for connections to be ready or gone, for an answer
STOP_S = 20.0
PATH = "/v1/stream?latency=80"
DAEMON, READER = "daemon", "reader"


class OverheadFailed(Exception):
    """A server does not do what is to be measured; the text is one sentence."""


@dataclass(frozen=True, slots=True)
class Server:
    """One of the servers, running."""

    kind: str
    pid: int
    port: int

    def cpu_s(self) -> tuple[float, float]:
        """Processor seconds of its first thread, the event loop's, and of all others."""
        loop_s = others_s = 0.0
        for task in Path(f"/proc/{self.pid}/task").iterdir():
            seconds = int((task / "schedstat").read_text().split()[0]) / 1e9
            if int(task.name) == self.pid:
                loop_s += seconds
            else:
                others_s += seconds
        return loop_s, others_s

    def steps(self) -> int:
        """Steps so far, as its /metrics says; 0 for one without steps."""
        return self._count(r"^streamer_steps_total\{.*\} (\S+)$")

    def streams(self) -> int:
        """Streams that are open now; 0 for one that does not count them."""
        return self._count(r"^streamer_streams (\S+)$")

    def _count(self, line: str) -> int:
        if self.kind != DAEMON:
            return 0
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT_S)
        try:
            connection.request("GET", "/metrics")
            text = connection.getresponse().read().decode()
        except TimeoutError:
            raise OverheadFailed(f"{self.kind}: got no answer from /metrics in {WAIT_S:.0f} s, expected one") from None
        finally:
            connection.close()
        return sum(int(float(count)) for count in re.findall(line, text, re.M))


@dataclass(frozen=True, slots=True)
class Run:
    """One server for a while."""

    seconds: float
    messages: int
    heard: int  # messages that came back
    steps: int
    loop_s: float
    """Processor seconds of the event loop's thread."""
    others_s: float
    """And of the rest: the engine's."""

    @property
    def us(self) -> float:
        """Processor microseconds a message, of all threads."""
        return 1e6 * (self.loop_s + self.others_s) / max(1, self.messages)

    @property
    def loop_us(self) -> float:
        return 1e6 * self.loop_s / max(1, self.messages)

    @property
    def step_us(self) -> float:
        """Of the other threads, a step."""
        return 1e6 * self.others_s / max(1, self.steps)

    @property
    def share(self) -> float:
        """Processor seconds a second."""
        return (self.loop_s + self.others_s) / self.seconds


@contextmanager
def serving(kind: str, streams: int, python_path: str = "") -> Iterator[Server]:
    """A server of this kind with room for so many streams; `python_path` is where another version's code lies."""
    command = [sys.executable, "-P", "-m", "streamer.bench.quiet", kind, str(streams)]
    environment = os.environ | ({"PYTHONPATH": python_path} if python_path else {})
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)
    try:
        assert process.stdout is not None
        if not (port := process.stdout.readline()):
            raise OverheadFailed(f"{kind}: got its end, expected the number of its port; standard error has why")
        yield Server(kind, process.pid, int(port))
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


async def under_load(server: Server, streams: int, seconds: float) -> Run:
    """Real-time clients, their chunks spread evenly over 80 ms and their messages over 20 ms."""
    heard: Counter[str] = Counter()
    async with _connected(server, streams, heard) as links:
        message = frame(BINARY, os.urandom(2 * SAMPLES))
        for link, phase in zip(links, _phases(streams), strict=True):
            link.say(message * int(phase))
        await _talk(links, message, SETTLE_S)
        before, steps, began = heard.total(), server.steps(), time.perf_counter()
        loop_s, others_s = server.cpu_s()
        await _talk(links, message, seconds)
        after = server.cpu_s()
        passed = time.perf_counter() - began
        count = round(seconds / MESSAGE_S) * streams
        run = Run(passed, count, heard.total() - before, server.steps() - steps, after[0] - loop_s, after[1] - others_s)
        if wrong := _wrong(heard):
            raise OverheadFailed(f"{server.kind}: got {wrong} under load, expected none")
    return run


async def at_rest(server: Server, streams: int, seconds: float) -> Run:
    """The same with clients that say nothing."""
    async with _connected(server, streams, Counter()):
        await asyncio.sleep(2 * SETTLE_S)  # longer than the pause after which hanging words are final
        before, began = server.cpu_s(), time.perf_counter()
        await asyncio.sleep(seconds)
        after = server.cpu_s()
        return Run(time.perf_counter() - began, 0, 0, 0, after[0] - before[0], after[1] - before[1])


@asynccontextmanager
async def _connected(server: Server, streams: int, heard: Counter[str]) -> AsyncIterator[list[Lean]]:
    """Clients that are ready. At the end the server has their places free again, for those of the next run."""

    def told(_: Lean, kind: str, end: float) -> None:
        del end
        heard[kind] += 1

    links = []
    try:
        loop = asyncio.get_running_loop()
        for _ in range(streams):
            _, link = await loop.create_connection(lambda: Lean(PATH, told), "127.0.0.1", server.port)
            links.append(link)
        await _all_ready(server, links, heard)
        yield links
    finally:
        for link in links:
            link.drop()
        await _all_gone(server)


async def _all_ready(server: Server, links: Sequence[Lean], heard: Counter[str]) -> None:
    until = time.perf_counter() + WAIT_S
    while (ready := sum(link.ready for link in links)) < len(links):
        if (wrong := _wrong(heard)) or time.perf_counter() > until:
            got = wrong or f"no more in {WAIT_S:.0f} s"
            raise OverheadFailed(f"{server.kind}: got {ready} ready connections and {got}, expected {len(links)}")
        await asyncio.sleep(0.01)


async def _all_gone(server: Server) -> None:
    until = time.perf_counter() + WAIT_S
    while streams := server.streams():
        if time.perf_counter() > until:
            left = f"{streams} open streams {WAIT_S:.0f} s after their clients left"
            raise OverheadFailed(f"{server.kind}: got {left}, expected none")
        await asyncio.sleep(0.01)


def _wrong(heard: Counter[str]) -> str:
    """What came that is neither words nor their beginning or end."""
    return ", ".join(f"{heard[kind]} x {kind}" for kind in ("error", "refused", "lost") if heard[kind])


def _phases(count: int) -> list[float]:
    """Where in a chunk of 80 ms each stream stands, in messages: spread by the golden ratio, any number evenly."""
    return [i * GOLDEN % 1 * CHUNK_MESSAGES for i in range(count)]


async def _talk(links: Sequence[Lean], message: bytes, seconds: float) -> None:
    """Each message by itself at its own time: an event loop's timers, of a millisecond, would make bunches of them."""
    began = time.perf_counter()
    turns = sorted((phase % 1, i) for i, phase in enumerate(_phases(len(links))))
    for number in range(round(seconds / MESSAGE_S)):
        for phase, i in turns:
            if (wait_s := began + (number + phase) * MESSAGE_S - time.perf_counter()) > 0:
                time.sleep(wait_s)
            links[i].say(message)
            await asyncio.sleep(0)


def compare(servers: Mapping[str, Server], streams: int, seconds: float, rounds: int) -> dict[str, list[Run]]:
    """Each server's runs; they take turns."""
    runs: dict[str, list[Run]] = {name: [] for name in servers}
    for _ in range(rounds):
        for name, server in servers.items():
            runs[name].append(asyncio.run(under_load(server, streams, seconds)))
    return runs


def table(runs: Mapping[str, Sequence[Run]], rest: Mapping[int, Run], streams: int) -> str:
    """Medians as Markdown, then the machine. `runs` of daemon and reader, `rest` by number of silent streams."""
    daemon, reader = runs[DAEMON], runs[READER]
    pairs = [(own.us - bare.us, own.loop_us - bare.us) for own, bare in zip(daemon, reader, strict=True)]
    of_all, of_loop = (statistics.median(column) for column in zip(*pairs, strict=True))
    first = daemon[0]
    rows = [
        ("messages in, a second", f"{first.messages / first.seconds:.0f}"),
        ("steps, and messages out, a second", f"{first.steps / first.seconds:.0f}, {first.heard / first.seconds:.0f}"),
        (
            "the daemon without its steps, of one processor",
            f"{100 * statistics.median(run.share for run in daemon):.1f} %",
        ),
        ("a message, all threads", f"{statistics.median(run.us for run in daemon):.1f} us"),
        ("a message, the event loop's thread", f"{statistics.median(run.loop_us for run in daemon):.1f} us"),
        ("a message, a server that only reads it", f"{statistics.median(run.us for run in reader):.1f} us"),
        ("our own share of a message, all threads", f"{of_all:.1f} us"),
        ("our own share of a message, the event loop's thread", f"{of_loop:.1f} us"),
        ("a step, the engine's thread", f"{statistics.median(run.step_us for run in daemon):.0f} us"),
        *((f"{count} silent streams, of one processor", f"{100 * run.share:.2f} %") for count, run in rest.items()),
        *machine(),
    ]
    title = f"# The daemon beside its model: {streams} real-time streams at 80 ms, messages of 20 ms"
    return f"{title}\n\n| | |\n|---|---|\n" + "".join(f"| {name} | {value} |\n" for name, value in rows)
