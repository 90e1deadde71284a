"""`streamer bench peers --sockets`: how many real-time streams each server sustains on this machine.

A number of streams is sustained while the 95th percentile of the lateness of news is within a chunk. Knows nothing of
what servers and clients say to each other.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamer.bench.machine import cpu_name
from streamer.bench.peer_load import Load, load_text
from streamer.bench.peers import PEER, ROOT, SIDES, Book, Cell, PeerError, Say
from streamer.gpu_check.search import Search

BINARY = "sherpa-onnx-online-websocket-server"
START_S, STOP_S = 60.0, 10.0
RAMP_S = 5.0
FIRST, MOST = 8, 1024
SPARE_SLOTS = 8
TRIES = 2  # a number that fails is tried once more: what else the machine did may have been to blame
SECTION = "sockets"


@dataclass(frozen=True, slots=True)
class Servers:
    """How both are started: our exported folders, their models and program with its flags, the audio of the load."""

    ours: Callable[[str, str], Path]
    daemon: Callable[..., Any]  # streamer.commands.daemon.Daemon
    peers: Path
    binary: Path
    flags: Sequence[str]
    audio: NDArray[np.float32]
    seconds: float


def run(chosen: Sequence[Cell], servers: Servers, book: Book, say: Say, *, again: bool) -> int:
    """Find the most streams of each cell for both, a run of ours and one of theirs in turn; how many cells failed."""
    failed, kept = 0, book.section(SECTION)
    for cell in chosen:
        name = cell_name(cell)
        before = kept.get(name, {})
        if not again and before.get("finished") and before["machine"] == cpu_name():
            say(f"{name}: done before")
            continue
        record: dict[str, Any] = {side: [] for side in SIDES}
        record |= {"machine": cpu_name(), "date": time.strftime("%Y-%m-%d"), "flags": list(servers.flags)}
        kept[name] = record
        try:
            for side, tried in found(cell, servers):
                record[side].append(tried)
                say(f"{name} {side}: {tried['streams']} streams, {passed(tried, cell) or 'sustained'}")
                book.save()
            record["finished"] = True
        except PeerError as error:
            failed += 1
            record["error"] = str(error)
            say(f"{name}: {error}")
        book.save()
    return failed


def cell_name(cell: Cell) -> str:
    return f"{cell.size}/{cell.precision}/{cell.latency_ms}ms"


def found(cell: Cell, servers: Servers) -> Iterator[tuple[str, dict[str, Any]]]:
    """Run after run, of the two in turn, until the limits of both are known."""
    searches = {side: Search(FIRST, MOST) for side in SIDES}
    while any(search.next() for search in searches.values()):
        for side, search in searches.items():
            if (streams := search.next()) is None:
                continue
            for _ in range(TRIES):
                tried = measured(cell, servers, side, streams)
                yield side, tried
                if not passed(tried, cell):
                    break
            search.tell(streams, not passed(tried, cell))


def passed(tried: dict[str, Any], cell: Cell) -> str:
    """Why a run did not pass; nothing where it did."""
    if tried["errors"]:
        return f"{len(tried['errors'])} streams failed: {tried['errors'][0]}"
    if "late_p95_s" not in tried:
        return "no news came"
    if tried["late_p95_s"] > cell.chunk_s:
        return f"{1000 * tried['late_p95_s']:.0f} ms late at p95"
    return ""


def measured(cell: Cell, servers: Servers, side: str, streams: int) -> dict[str, Any]:
    """One load on a server that was started for it."""
    start = ours if side == "ours" else theirs
    with tempfile.TemporaryDirectory(prefix="bench-peers-") as name:
        audio = Path(name) / "audio.npy"
        np.save(audio, servers.audio)
        with start(cell, servers, streams, Path(name)) as (url, pid):
            chunk = cell.latency_ms // 80
            load = Load(side, url, pid, str(audio), streams, chunk, RAMP_S, RAMP_S + servers.seconds)
            command = [sys.executable, "-m", "streamer.bench.peer_load", load_text(load)]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        last = done.stderr.strip().rpartition("\n")[2]
        raise PeerError(f"load on {side}: got exit code {done.returncode}, expected 0: {last[:300]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


@contextmanager
def ours(cell: Cell, servers: Servers, streams: int, _: Path) -> Iterator[tuple[str, int]]:
    """A daemon that takes all that comes: what it would refuse is what is to be found out."""
    options = (
        f"model.path={servers.ours(cell.size, cell.precision)}", "log.level=warning", "engine.max_load=100",
        f"engine.slots={streams + streams // 8 + SPARE_SLOTS}",
    )  # fmt: skip
    with servers.daemon(*options) as daemon:
        asked = f"latency={cell.latency_ms}&endpointing=false&encoding=pcm_f32le&sample_rate=16000"
        yield f"{daemon.url}/v1/stream?{asked}", daemon.pid


@contextmanager
def theirs(cell: Cell, servers: Servers, _: int, folder: Path) -> Iterator[tuple[str, int]]:
    """Their program with endpoints off; it listens when its model is loaded."""
    model, kind = (servers.peers / f"{cell.size}-{cell.latency_ms}ms").absolute(), ".int8" * (cell.precision == "int8")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    command = [
        str(servers.binary), f"--port={port}", f"--tokens={model}/tokens.txt", f"--encoder={model}/encoder{kind}.onnx",
        f"--decoder={model}/decoder{kind}.onnx", f"--joiner={model}/joiner{kind}.onnx", "--enable-endpoint=false",
        f"--log-file={folder}/log", *servers.flags,
    ]  # fmt: skip
    try:
        process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    except OSError as error:
        raise PeerError(f"{servers.binary}: got {error.strerror}, expected {PEER}'s server") from None
    try:
        wait_for(process, port)
        yield f"ws://127.0.0.1:{port}/", process.pid
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for(process: subprocess.Popen[bytes], port: int) -> None:
    """Until it listens."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if (code := process.poll()) is not None:
            raise PeerError(f"{BINARY}: got exit code {code} at its start, expected a server")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise PeerError(f"{BINARY}: got no listener after {START_S:.0f} s")
