"""The daemon over real sockets: words come back, doors are guarded, pages and numbers are served."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import json
import logging
import ssl
from pathlib import Path

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from websockets.exceptions import InvalidStatus

from streamer.backends.fake import FakeBackend, slow
from streamer.config import load
from streamer.errors import Refusal
from streamer.logs import set_up
from streamer.server import Daemon, _serve
from tests.streamer.house import House, finals, house, kinds, listen, say, talk, until, wire


@pytest.mark.parametrize("latency_ms", [80, 160, 560, 1120])
async def test_what_is_said_comes_back_as_words_and_the_socket_closes_with_1000(latency_ms: int) -> None:
    async with house() as home, home.client(f"latency={latency_ms}") as socket:
        pcm = wire("hello world")
        for at in range(0, len(pcm), 333):
            await socket.send(pcm[at : at + 333])
        await say(socket, "close")
        said = await listen(socket)
        assert said[0]["type"] == "ready"
        assert said[0]["latency_ms"] == latency_ms
        assert finals(said) == "hello world"
        assert said[-2]["reason"] == "close"
        assert said[-1] == {"type": "closed", "audio_seconds": round(len(pcm) / 32000, 3)}
        assert socket.close_code == 1000


async def test_partials_come_while_speaking_and_finalize_is_answered_at_once() -> None:
    async with house() as home, home.client() as socket:
        await until(socket, "ready")
        await socket.send(wire("one two three"))
        partial = await until(socket, "partial")
        assert "one two three".startswith(partial["text"])
        await say(socket, "finalize")
        final = await until(socket, "final")
        assert (final["text"], final["reason"]) == ("one two three", "finalize")
        await say(socket, "finalize")
        assert (await until(socket, "final"))["text"] == ""
        await say(socket, "close")
        assert kinds(await listen(socket)) == ["final", "closed"]


async def test_many_streams_at_once_hear_their_own_words_only() -> None:
    texts = [f"{a}{b} words {b}{a}" for a in "abcde" for b in "vwxyz"]
    async with house("engine.slots=32", backend=FakeBackend(32)) as home:
        said = await asyncio.gather(*(talk(home, text, f"latency={(80, 560)[i % 2]}") for i, text in enumerate(texts)))
    assert [finals(messages) for messages in said] == texts


async def test_the_first_free_port_is_logged_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        async with house() as home:
            assert f"listening on ws://127.0.0.1:{home.port}/v1/stream" in caplog.messages


# What is not a WebSocket.


async def get(home: House, path: str, **options: object) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(home.http + path, **options) as answer:
        return answer.status, await answer.text()


async def test_health_readiness_and_strange_paths() -> None:
    async with house() as home:
        assert await get(home, "/healthz") == (200, "ok\n")
        assert await get(home, "/readyz") == (200, "ready\n")
        assert (await get(home, "/nothing"))[0] == 404
        assert (await get(home, "/v1/stream"))[0] == 426


async def test_metrics_count_what_happened() -> None:
    async with house() as home:
        await talk(home, "count these words", "latency=560")
        await talk(home, "x", "latency=1")
        await home.empty()
        status, text = await get(home, "/metrics")
    assert status == 200
    values = {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in text.splitlines() if line[0] != "#"}
    assert values["streamer_streams"] == 0
    assert values["streamer_streams_opened_total"] == 1
    assert values['streamer_refusals_total{code="bad_request"}'] == 1
    assert values['streamer_steps_total{chunk="7"}'] >= 2, "a step takes two such chunks at most; these are three"
    assert values["streamer_audio_seconds_total"] == pytest.approx(len(wire("count these words")) / 32000, abs=0.01)
    for name in ("queue_wait", "chunk_lateness", "partial_latency", "final_latency"):
        assert values[f"streamer_{name}_seconds_count"] >= 1, name
    assert values["streamer_final_latency_seconds_count"] == 1
    for line in text.splitlines():
        if line.startswith("# HELP"):
            assert len(line.split(maxsplit=3)) == 4, f"no help: {line}"


# Doors.


async def test_without_the_key_nobody_comes_in_and_with_it_everybody_does() -> None:
    async with house("server.key=sesame") as home:
        wrong = {"additional_headers": {"Authorization": "Bearer sesam"}}
        for options in ({}, wrong, {"subprotocols": ["bearer", "no"]}):
            with pytest.raises(InvalidStatus) as refused:
                await talk(home, "x", **options)
            assert refused.value.response.status_code == 401
            assert "sesame" not in refused.value.response.body.decode()
        assert finals(await talk(home, "hi", additional_headers={"Authorization": "Bearer sesame"})) == "hi"
        async with home.client(subprotocols=["bearer", "sesame"]) as socket:
            assert socket.subprotocol == "bearer"
        assert (await get(home, "/healthz"))[0] == 200


async def test_pages_of_other_origins_stay_out() -> None:
    async with house("server.origins=https://page.example") as home:
        for origin in ("https://evil.example", "null", f"http://127.0.0.1:{home.port + 1}"):
            with pytest.raises(InvalidStatus) as refused:
                await talk(home, "x", origin=origin)
            assert refused.value.response.status_code == 403
        for origin in ("https://page.example", f"http://127.0.0.1:{home.port}"):
            assert finals(await talk(home, "hi", origin=origin)) == "hi"


async def test_being_bound_beyond_loopback_without_a_key_is_warned_of_loudly(caplog: pytest.LogCaptureFixture) -> None:
    async with house("server.host=0.0.0.0", "server.key=sesame"):
        pass
    assert not [record for record in caplog.records if record.levelno == logging.WARNING]
    async with house("server.host=0.0.0.0"):
        pass
    (warning,) = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert "SERVER.KEY IS EMPTY" in warning


async def test_tls_serves_wss(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    trust = ssl.create_default_context(cafile=str(cert))
    async with house(f"server.tls_cert={cert}", f"server.tls_key={key}", scheme="wss") as home:
        assert finals(await talk(home, "secret words", ssl=trust)) == "secret words"
        assert await get(home, "/healthz", ssl=trust) == (200, "ok\n")


async def test_a_certificate_that_cannot_be_read_is_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "a.pem").write_text("no certificate")
    config = load(env={}, overrides=[f"server.tls_cert={tmp_path}/a.pem", f"server.tls_key={tmp_path}/a.pem"])
    with pytest.raises(Refusal, match=r"server\.tls_cert"):
        await Daemon(config, FakeBackend(2)).start()


def certificate(folder: Path) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    cert = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    plain = serialization.NoEncryption()
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    (folder / "cert.pem").write_bytes(cert.public_bytes(pem))
    (folder / "key.pem").write_bytes(key.private_bytes(pem, pkcs8, plain))
    return folder / "cert.pem", folder / "key.pem"


# Refusals that are messages.


@pytest.mark.parametrize("query", ["latency=81", "sample_rate=7000", "encoding=midi", "language=de", "colour=red"])
async def test_a_wrong_query_is_an_error_in_words_and_1008(query: str) -> None:
    async with house() as home, home.client(query) as socket:
        (error,) = await listen(socket)
        assert (error["type"], error["code"]) == ("error", "bad_request")
        assert query.split("=")[0] in error["message"]
        assert "expected" in error["message"]
        assert socket.close_code == 1008


async def test_a_wrong_message_is_an_error_and_the_stream_lives_on() -> None:
    async with house() as home, home.client() as socket:
        for text in ("{", "[]", '{"type":"sing"}', '{"type":"configure","interim":3}'):
            await socket.send(text)
            error = await until(socket, "error")
            assert error["code"] == "bad_message", text
        await socket.send(wire("still here"))
        await say(socket, "close")
        assert finals(await listen(socket)) == "still here"


async def test_past_capacity_a_stream_is_refused_in_words_and_taken_when_there_is_room() -> None:
    async with house(backend=FakeBackend(3)) as home:
        async with home.client() as first, home.client() as second:
            await until(first, "ready")
            await until(second, "ready")
            async with home.client() as third:
                (error,) = await listen(third)
                assert (error["type"], error["code"]) == ("error", "at_capacity")
                full = "server: 2 streams are heard now, expected fewer: all slots are taken; try again later"
                assert error["message"] == full
                assert third.close_code == 1013
            status, reason = await get(home, "/readyz")
            assert status == 503
            assert "2 streams" in reason
            await first.send(wire("not disturbed"))
            await say(first, "close")
            assert finals(await listen(first)) == "not disturbed"
        await home.empty()
        assert (await get(home, "/readyz"))[0] == 200
        assert finals(await talk(home, "room again")) == "room again"


async def test_a_machine_that_is_too_slow_says_how_many_streams_fit() -> None:
    async with house("engine.max_load=0.2", backend=FakeBackend(2, slow(0.03))) as home:
        status, text = await get(home, "/v1/info")
        assert (status, json.loads(text)["capacity"]["80"]) == (200, 0)
        async with home.client() as socket:
            (error,) = await listen(socket)
        begins, ends = "server: 0 streams are heard now and one more would take ", "; of 80 ms 0 fit; try again later"
        assert (error["code"], socket.close_code) == ("at_capacity", 1013)
        assert error["message"].startswith(begins), error
        assert error["message"].endswith(f"% of the time, expected at most 20%{ends}"), error
        assert (await get(home, "/readyz"))[0] == 503


async def test_a_port_in_use_is_one_sentence() -> None:
    async with house() as home:
        config = load(env={}, overrides=["model.backend=fake", f"server.port={home.port}"])
        with pytest.raises(Refusal, match=f"server.port=127.0.0.1:{home.port}: expected a free port"):
            await _serve(config, FakeBackend(2))


def test_a_latency_that_the_model_does_not_have_is_refused() -> None:
    with pytest.raises(Refusal, match=r"model\.latency_ms=240: expected one of the model's: 80, 160, 560, 1120"):
        Daemon(load(env={}, overrides=["model.latency_ms=240"]), FakeBackend(2))
    assert Daemon(load(env={}), FakeBackend(2)).offer.latency_ms == 560


# Logs.


async def test_a_log_has_the_session_and_neither_text_nor_key(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_up("json", "debug")
    monkeypatch.setattr(logging.getLogger("websockets.client"), "disabled", True)  # the test's own client
    async with house("server.key=sesame") as home:
        said = await talk(home, "confidential", additional_headers={"Authorization": "Bearer sesame"})
        await home.empty()
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    own = [line["message"] for line in lines if line.get("session") == said[0]["session_id"]]
    assert own[0] == "opened"
    assert own[-1].startswith("ended after")
    assert not [line for line in lines if "sesame" in str(line) or "confidential" in str(line)]


def test_a_text_log_is_one_line_a_record(capsys: pytest.CaptureFixture[str]) -> None:
    set_up("text", "info")
    logging.getLogger("x").info("opened", extra={"session": "1f2e"})
    logging.getLogger("x").debug("not shown")
    logging.getLogger("x").warning("full")
    first, second = capsys.readouterr().err.splitlines()
    assert first.endswith(" info session=1f2e opened")
    assert second.endswith(" warning full")
