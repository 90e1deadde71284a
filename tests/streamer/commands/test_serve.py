"""Claims about `streamer serve` before it serves: its options, its model, its address."""

from __future__ import annotations

import logging
import os
import socket
import tarfile
from pathlib import Path

import pytest

from models.config import ConfigError
from streamer import artefacts, server
from streamer.cli import main
from streamer.commands import default_latency
from streamer.commands.serve import with_model
from streamer.config import Config, load
from streamer.engine.machine import processors
from streamer.offer import lanes, offer
from tests.models.tiny import tiny_config
from tests.shell import failing


def test_serve_refuses_an_unknown_option_with_the_nearest_one(capsys: pytest.CaptureFixture[str]) -> None:
    code, err = failing(capsys, "serve", "server.prot=1")
    assert code == 2
    assert "server.port" in err


@pytest.mark.parametrize("option", ["model.latency_ms=100", "model.language=de"])
def test_what_the_model_does_not_offer_is_wrong_usage(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, err = failing(capsys, "serve", option, "server.port=0", "model.backend=fake", "log.level=error")
    assert code == 2
    assert f"{option}: expected" in err


def test_a_port_in_use_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, err = failing(capsys, "serve", f"server.port={port}", "model.backend=fake", "log.level=error")
    assert code == 1
    assert f"127.0.0.1:{port}" in err


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a..b"])
def test_a_host_that_nobody_knows_is_named(host: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, err = failing(capsys, "serve", f"server.host={host}", "model.backend=fake", "log.level=error")
    assert code == 1
    assert f"server.host={host}: expected" in err


def test_the_printed_configuration_can_be_read_back_and_keeps_no_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", "--print-config", "server.port=9123", "server.key=hunter2"]) == 0
    first = capsys.readouterr().out
    (tmp_path / "c.yaml").write_text(first)
    assert main(["serve", "--print-config", "--config", str(tmp_path / "c.yaml")]) == 0
    assert capsys.readouterr().out == first
    assert "port: 9123" in first
    assert "key: ''" in first
    assert "hunter2" not in first


def test_without_a_model_serve_says_how_it_is_given_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(artefacts, "PRETRAINED", tmp_path)
    assert "name one: --model M, or model.path=M for serve" in failing(capsys, "serve", "log.level=error")[1]


def test_a_full_context_model_is_refused_with_what_can_hear_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuses(*_: object) -> None:
        raise ConfigError("model", "big", "a streaming model; this one hears whole files (--latency offline)")

    tarfile.open(tmp_path / "big.nemo", "w").close()
    monkeypatch.setenv("STREAMER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(artefacts, "export_model", refuses)
    code, err = failing(capsys, "serve", f"model.path={tmp_path / 'big.nemo'}", "log.level=error")
    assert code == 1
    assert f"streamer transcribe --model {tmp_path / 'big.nemo'} --latency offline FILE" in err


def test_addresses_of_a_kubernetes_service_are_passed_over_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in [name for name in os.environ if name.startswith("STREAMER_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("STREAMER_SERVER_PORT", "tcp://10.0.0.1:9000")
    monkeypatch.setattr("streamer.logs.set_up", lambda *_: None)
    monkeypatch.setattr(server, "serve", lambda config: config.server.port)
    with caplog.at_level(logging.WARNING):
        assert main(["serve", "model.backend=fake"]) == 9000
    assert "STREAMER_SERVER_PORT is a Service's address" in caplog.text


def test_threads_are_those_that_the_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5, 7}, raising=False)
    assert processors() == 3
    fake = load(env={}, overrides=["model.backend=fake"])
    assert with_model(fake).model.threads == 3
    assert with_model(load(env={}, overrides=["model.backend=fake", "model.threads=2"])).model.threads == 2
    for wanted, threads_and_lanes in (("0", (1, 3)), ("1", (1, 3)), ("2", (2, 1)), ("5", (5, 1))):
        own = with_model(load(env={}, overrides=[f"model.threads={wanted}"]))
        assert (own.model.threads, lanes(own)) == threads_and_lanes, "steps side by side on the processors there are"
    assert lanes(load(env={}, overrides=["model.threads=1", "engine.slots=40"])) == 2, "room for sixteen in each"
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(40)), raising=False)
    own = with_model(load(env={}, overrides=[]))
    assert (own.model.threads, lanes(own)) == (5, 8), "more engines than eight would wait for each other in Python"


@pytest.mark.parametrize("contexts", [((70, 13), (70, 6), (70, 0)), ((70, 13), (70, 1))])
def test_every_command_hears_with_the_daemons_own_latency(contexts: tuple[tuple[int, int], ...]) -> None:
    model = tiny_config(contexts=contexts)
    assert default_latency(model.latencies_ms) == offer(Config(), model).latency_ms
