"""Options: one file, one screen, and a sentence for every mistake."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from streamer import config
from streamer.config import Config, load
from streamer.errors import Refusal

FILE = Path(__file__).parents[2] / "config.yaml"


def test_the_file_says_the_defaults_and_nothing_else() -> None:
    assert FILE.read_text("utf-8") == config.render(), "write it anew: streamer serve --print-config > config.yaml"
    assert load(FILE, env={}) == Config()


def test_no_file_gives_the_defaults() -> None:
    assert load(env={}) == Config()


def test_there_are_at_most_forty_options_each_with_a_comment() -> None:
    assert len(config.keys()) <= 40
    for section in config.SECTIONS.values():
        for field in dataclasses.fields(section):
            assert len(field.metadata["help"]) > 5, field.name


def test_the_command_line_wins_over_the_environment_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("server: {port: 1, host: a, max_outgoing: 7}\n")
    got = load(file, {"STREAMER_SERVER_PORT": "2", "STREAMER_SERVER_HOST": "b"}, ["server.port=3"]).server
    assert (got.port, got.host, got.max_outgoing) == (3, "b", 7)


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("server.prot=1", "option=server.prot: expected a known name; the nearest is server.port"),
        ("server", "option=server: expected section.key=value"),
        ("server.port=many", "server.port=many: expected a whole number"),
        ("server.port=70000", "server.port=70000: expected 0 to 65535"),
        ("session.idle_s=nan", "session.idle_s=nan: expected 0.1 to 86400"),
        ("endpoint.enabled=perhaps", "endpoint.enabled=perhaps: expected true or false"),
        ("log.format=xml", "log.format=xml: expected one of text, json"),
        ("server.tls_key=a.pem", "server.tls_cert='': expected both server.tls_cert and server.tls_key, or neither"),
    ],
)
def test_a_wrong_option_is_refused_in_one_sentence(override: str, sentence: str) -> None:
    with pytest.raises(Refusal) as refused:
        load(env={}, overrides=[override])
    assert str(refused.value) == sentence


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("sever: {port: 1}", "config section=sever: expected a known name; the nearest is server"),
        ("server: {prot: 1}", "option=server.prot: expected a known name; the nearest is server.port"),
        ("server: 5", "server=5: expected a mapping of keys to values"),
        ("server: {port: true}", "server.port=true: expected a whole number"),
        ("server: [", "expected YAML (line 1)"),
        ("server: {host: [a]}", "expected a text"),
        ("model: {path: 0123}", "model.path=83: expected a text; put it in quotes"),
        ("log: {format: no}", "log.format=false: expected a text; put it in quotes"),
        ("server:\n  port: 1\n  port: 2", "config file line 3=port: expected each key once"),
        ("log: {}\nserver: {}\nlog: {}", "config file line 3=log: expected each key once"),
        ("server: {key: null}", "server.key=null: expected a text; put it in quotes"),
        ("model:\n  path:\n", "model.path=null: expected a text; put it in quotes"),
        ("server: {key: 0123}", "server.key=int: expected a text; put it in quotes"),
    ],
)
def test_a_wrong_file_is_refused_in_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(text)
    with pytest.raises(Refusal) as refused:
        load(file, env={})
    assert sentence in str(refused.value)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="a file that can be read"):
        load(tmp_path / "none.yaml", env={})


def test_variables_that_are_nearly_ours_are_refused_and_those_of_kubernetes_are_not() -> None:
    with pytest.raises(Refusal, match="STREAMER_SERVER_"):
        load(env={"STREAMER_SEVER_PORT": "1"})
    with pytest.raises(Refusal, match=r"nearest is server\.port"):
        load(env={"STREAMER_SERVER_PROT": "1"})
    assert load(env={"STREAMER_SERVICE_HOST": "10.0.0.1", "STREAMER_PORT": "tcp://10.0.0.1:80", "STREAMER_DEBUG": "1"})


def test_addresses_of_a_service_named_like_a_section_are_no_options() -> None:
    host = {
        "SERVICE_HOST": "10.0.0.1",
        "SERVICE_PORT": "9000",
        "SERVICE_PORT_WS": "9000",
        "PORT": "tcp://10.0.0.1:9000",
    }
    port = {"PORT_9000_TCP" + end: "x" for end in ("", "_PROTO", "_PORT", "_ADDR")}
    for section in ("SERVER", "MODEL", "LOG"):
        given = {f"STREAMER_{section}_{name}": value for name, value in {**host, **port}.items()}
        assert load(env=given) == Config()
        assert config.of_kubernetes(given) == sorted(given)
    assert config.of_kubernetes({"STREAMER_SERVER_PORT": "9001", "STREAMER_SERVICE_HOST": "10.0.0.1"}) == []


def test_an_empty_text_in_the_file_is_empty(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("model:\n  path: \"\"\n  language: ''\n")
    assert load(tmp_path / "c.yaml", env={}) == Config()


def test_the_rendered_file_keeps_no_key() -> None:
    assert "hunter2" not in config.render(load(env={"STREAMER_SERVER_KEY": "hunter2"}))


def test_lists_come_with_commas_or_as_yaml() -> None:
    assert load(env={}, overrides=["server.origins=https://a, https://b"]).server.origins == ("https://a", "https://b")
    assert load(env={}, overrides=["server.origins="]).server.origins == ()


def test_the_key_is_not_shown() -> None:
    assert "hunter2" not in repr(load(env={"STREAMER_SERVER_KEY": "hunter2"}))
