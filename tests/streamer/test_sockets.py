"""The port is taken early, and what is wrong with it is said by the option that is to blame."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from streamer import server
from streamer.config import Server, load
from streamer.errors import Refusal
from streamer.sockets import bind


@contextmanager
def bound(options: Server) -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(own) for own in bind(options)]


def test_all_addresses_of_a_name_get_one_port() -> None:
    with bound(Server(host="localhost", port=0)) as sockets:
        assert len({own.getsockname()[1] for own in sockets}) == 1
        assert all(own.getsockname()[1] for own in sockets)


def test_nobody_can_connect_before_it_listens() -> None:
    with bound(Server(port=0)) as (own,), pytest.raises(ConnectionRefusedError):
        socket.create_connection(own.getsockname())


@pytest.mark.parametrize(("host", "why"), [("192.0.2.1", "Cannot assign"), ("a..b", "label")])
def test_an_address_that_is_not_ours_is_a_fault_of_the_host(host: str, why: str) -> None:
    with pytest.raises(Refusal, match=rf"server\.host={host}: expected a name or an address of this machine .*{why}"):
        bind(Server(host=host, port=0))


def test_a_name_that_is_not_found_is_a_fault_of_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(*_args: object, **_options: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", nowhere)
    with pytest.raises(Refusal, match=r"server\.host=nowhere: .*Name or service not known"):
        bind(Server(host="nowhere"))


def test_a_port_in_use_is_found_before_the_model_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_backend(*_: object) -> None:
        raise AssertionError("the model was loaded, expected the port to be tried first")

    monkeypatch.setattr(server, "load_backend", load_backend)
    monkeypatch.setattr(server.logs, "set_up", lambda *_: None)
    with bound(Server(port=0)) as (own,):
        own.listen()
        port = own.getsockname()[1]
        config = load(env={}, overrides=[f"server.port={port}", "model.backend=fake"])
        with pytest.raises(Refusal, match=f"server.port=127.0.0.1:{port}: expected a free port"):
            server.serve(config)
