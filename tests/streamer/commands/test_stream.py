"""Claims about `streamer stream`: finals with times, whole events as JSON, and who is to blame when nothing comes."""

from __future__ import annotations

import asyncio
import json
import signal
import ssl
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from websockets.asyncio.server import ServerConnection, serve

from clients.client import Client
from streamer.cli import main
from tests.conftest import ROOT
from tests.served import served
from tests.shell import failing

CLIP = str(ROOT / "tests" / "golden" / "clips" / "speech.wav")


async def test_stream_prints_timed_finals_without_escape_codes(capsys: pytest.CaptureFixture[str]) -> None:
    async with served() as url:
        assert await asyncio.to_thread(main, ["stream", "--fast", "--url", url, CLIP]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()
    for line in out.splitlines():
        start, end = float(line[:7]), float(line[10:16])
        assert 0 <= start <= end
    assert "\x1b" not in out


async def test_stream_json_is_the_protocols_events(capsys: pytest.CaptureFixture[str]) -> None:
    async with served() as url:
        assert await asyncio.to_thread(main, ["stream", "--fast", "--json", "--url", url, CLIP]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {event["type"] for event in events} <= {"partial", "final", "closed"}
    assert [event["type"] for event in events][-2:] == ["final", "closed"]


async def test_a_file_sent_as_it_is_says_what_its_samples_say(capsys: pytest.CaptureFixture[str]) -> None:
    async with served() as url:
        assert await asyncio.to_thread(main, ["stream", "--fast", "--url", url, CLIP]) == 0
        said = capsys.readouterr().out
        assert await asyncio.to_thread(main, ["stream", "--as-is", "--url", url, CLIP]) == 0
        assert capsys.readouterr().out == said
        assert await asyncio.to_thread(main, ["stream", "--as-is", "--url", url, "no-such.webm"]) == 1
    assert capsys.readouterr().err == "streamer: no-such.webm: no such file or directory\n"


async def test_channels_heard_apart_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mono, rate = soundfile.read(CLIP, dtype="int16")
    call = str(tmp_path / "call.wav")
    soundfile.write(call, np.column_stack([np.zeros_like(mono), mono]), rate)
    async with served() as url:
        assert await asyncio.to_thread(main, ["stream", "--fast", "--url", url, CLIP]) == 0
        alone = [line[18:] for line in capsys.readouterr().out.splitlines()]
        for flags in ([], ["--as-is"]):
            wanted = ["stream", "--fast", "--multichannel", *flags, "--url", url, call]
            assert await asyncio.to_thread(main, wanted) == 0
            second = [line[18:] for line in capsys.readouterr().out.splitlines() if "[2]" in line]
            assert [line.removeprefix("[2] ") for line in second] == alone


async def test_a_latency_the_model_lacks_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    async with served() as url:
        code, err = await asyncio.to_thread(failing, capsys, "stream", "--latency", "100", "--url", url, CLIP)
    assert code == 2
    assert "latency=100: expected one of the model's" in err


async def test_of_several_files_the_one_that_is_no_audio_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loud = str(tmp_path / "loud.wav")
    soundfile.write(loud, np.full(1600, 1000.0, np.float32), 16000, subtype="FLOAT")
    async with served() as url:
        assert await asyncio.to_thread(main, ["stream", "--fast", "--url", url, loud, CLIP]) == 1
    assert capsys.readouterr().err.startswith(f"streamer: {loud}: audio=1000.0: expected pcm_f32le samples")


def test_no_daemon_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    code, err = failing(capsys, "stream", "--url", "ws://127.0.0.1:1", CLIP)
    assert code == 1
    assert "Connection refused" in err
    assert "streamer serve" in err


@pytest.mark.parametrize("url", ["ws://h:99999", "ws://h:abc", "ws://[::1", "ftp://h", "ws://:9000", "ws://a..b:1"])
def test_a_url_that_is_none_is_one_sentence(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, err = failing(capsys, "stream", "--url", url, CLIP)
    assert code == 2
    assert url in err


async def test_a_failure_of_tls_is_not_called_a_missing_daemon(capsys: pytest.CaptureFixture[str]) -> None:
    async with served() as url:
        secure = url.replace("ws://", "wss://")
        code, err = await asyncio.to_thread(failing, capsys, "stream", "--url", secure, CLIP)
    assert code == 1
    assert err.startswith(f"streamer: TLS to {secure} failed: ")


def test_a_certificate_that_cannot_be_verified_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def distrusts(_: Client) -> None:
        error = ssl.SSLCertVerificationError(1, "certificate verify failed")
        error.verify_message = "self-signed certificate"
        raise error

    monkeypatch.setattr(Client, "connect", distrusts)
    _, err = failing(capsys, "stream", "--url", "wss://h", CLIP)
    assert err == "streamer: TLS to wss://h failed: self-signed certificate"


async def test_an_output_that_fails_is_not_called_a_missing_daemon(capfd: pytest.CaptureFixture[str]) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full here")
    async with served() as url:
        command = [sys.executable, "-m", "streamer", "stream", "--fast", "--json", "--url", url, CLIP]
        with full.open("w") as out:
            process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=out)
            assert await process.wait() == 1
    assert capfd.readouterr().err == "streamer: No space left on device\n"


async def test_a_server_that_says_nothing_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def silent(socket: ServerConnection) -> None:
        await socket.wait_closed()

    monkeypatch.setitem(Client.__init__.__kwdefaults__, "open_timeout_s", 0.3)
    async with serve(silent, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        code, err = await asyncio.to_thread(failing, capsys, "stream", "--url", f"ws://127.0.0.1:{port}", CLIP)
    assert code == 1
    assert "said nothing for 0.3 s, expected ready" in err


async def test_an_interrupt_is_quiet() -> None:
    async with served() as url:
        command = [sys.executable, "-m", "streamer", "stream", "--json", "--url", url, CLIP]
        process = await asyncio.create_subprocess_exec(
            *command, cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        await process.stdout.readline()  # it streams by now
        process.send_signal(signal.SIGINT)
        _, err = await process.communicate()
    assert process.returncode == 130
    assert err == b""
