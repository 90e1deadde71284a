"""Claims about the child daemon of demo and bench: it is only ours, and it ends with us."""

from __future__ import annotations

import asyncio
import http.server
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from clients.client import Client
from streamer.commands import CommandError, daemon
from streamer.commands.daemon import Daemon, why_not_ready
from tests.conftest import ROOT

FAKE = ("model.backend=fake", "engine.max_load=100")
PARENT = f"""
import time
from streamer.commands.daemon import Daemon
with Daemon(*{FAKE!r}) as daemon:
    print(daemon.port, flush=True)
    time.sleep(60)
"""


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_what_surrounds_the_user_does_not_reach_the_daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "streamer").mkdir()
    (tmp_path / "streamer" / "__init__.py").write_text("raise SystemExit('not me')")
    monkeypatch.chdir(tmp_path)
    for name, value in {"HTTP_PROXY": "http://127.0.0.1:1", "http_proxy": "http://127.0.0.1:1"}.items():
        monkeypatch.setenv(name, value)
    for name, value in {"HOST": "0.0.0.0", "PORT": "80", "KEY": "secret", "TLS_CERT": "a", "TLS_KEY": "b"}.items():
        monkeypatch.setenv(f"STREAMER_SERVER_{name}", value)

    async def talk(url: str) -> None:
        async with Client(url):
            pass

    with Daemon(*FAKE) as running:
        asyncio.run(talk(running.url))
        before = running.port
    assert not listens(before)


@pytest.mark.parametrize("kind", [signal.SIGTERM, pytest.param(signal.SIGKILL, marks=pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="what follows SIGKILL is Linux's own"))])  # fmt: skip
def test_the_daemon_ends_with_its_parent(kind: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        port = int(parent.stdout.readline())
        assert listens(port)
        parent.send_signal(kind)
        assert parent.wait(60) == (143 if kind is signal.SIGTERM else -signal.SIGKILL)
    until = time.monotonic() + 30
    while listens(port) and time.monotonic() < until:
        time.sleep(0.05)
    assert not listens(port)


def test_the_handler_that_was_there_is_back_afterwards() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as told, daemon._unwound():
        signal.raise_signal(signal.SIGTERM)
    assert told.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_daemon_that_cannot_start_says_why() -> None:
    with pytest.raises(CommandError, match=r"did not start \(code 2\): .*server\.port"), Daemon("server.prot=1"):
        pass


def test_the_reason_for_not_being_ready_is_the_daemons_own() -> None:
    class Full(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(503)
            self.end_headers()
            self.wfile.write(b"the machine is full\n")

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Full) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        assert why_not_ready(server.server_port) == "the machine is full"
    assert why_not_ready(1) == "it does not answer"
