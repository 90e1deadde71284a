"""Who may come in: keys and origins."""

from __future__ import annotations

import pytest
from multidict import CIMultiDict

from streamer.auth import Door, is_loopback, refusal


def status(door: Door, **headers: str) -> int | None:
    closed = refusal(CIMultiDict({name.replace("_", "-"): value for name, value in headers.items()}), door)
    return closed.status if closed else None


def test_without_a_key_a_program_comes_in() -> None:
    assert status(Door(), Host="127.0.0.1:9000") is None


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer sesame"},
        {"authorization": "bearer sesame"},
        {"Sec_WebSocket_Protocol": "bearer, sesame"},
        {"Sec_WebSocket_Protocol": "bearer,sesame"},
    ],
)
def test_the_key_opens_by_header_and_by_subprotocol(headers: dict[str, str]) -> None:
    assert status(Door(key="sesame"), **headers) is None


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer sesam"},
        {"Authorization": "Bearer sesame2"},
        {"Authorization": "Basic sesame"},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer s\udce9same"},
        {"Sec_WebSocket_Protocol": "sesame"},
        {"Sec_WebSocket_Protocol": "bearer"},
        {"Sec_WebSocket_Protocol": "sesame, bearer"},
    ],
)
def test_anything_else_stays_out_with_401(headers: dict[str, str]) -> None:
    assert status(Door(key="sesame"), **headers) == 401


def test_a_refusal_repeats_no_key() -> None:
    closed = refusal({"Authorization": "Bearer almost-sesame"}, Door(key="sesame"))
    assert closed is not None
    assert "sesame" not in str(closed.refusal)


@pytest.mark.parametrize(
    ("origin", "host", "door", "expected"),
    [
        ("http://127.0.0.1:9000", "127.0.0.1:9000", Door(), None),
        ("http://localhost:9000", "localhost:9000", Door(), None),
        ("http://[::1]:9000", "[::1]:9000", Door(), None),
        ("https://evil.example", "127.0.0.1:9000", Door(), 403),
        ("http://127.0.0.1:8000", "127.0.0.1:9000", Door(), 403),
        ("null", "127.0.0.1:9000", Door(), 403),
        ("http://rebound.example:9000", "rebound.example:9000", Door(), 403),
        ("https://speech.example", "speech.example", Door(loopback=False), None),
        ("https://other.example", "speech.example", Door(loopback=False), 403),
        ("https://page.example", "127.0.0.1:9000", Door(origins=("https://page.example",)), None),
        ("https://page.example.evil", "127.0.0.1:9000", Door(origins=("https://page.example",)), 403),
        ("null", "127.0.0.1:9000", Door(origins=("*",)), None),
        ("", "", Door(), 403),
        ("http://a]b", "127.0.0.1:9000", Door(), 403),
        ("http://[::1", "127.0.0.1:9000", Door(), 403),
        ("http://[x", "[x", Door(), 403),
    ],
)
def test_pages_come_in_from_our_own_host_and_from_named_origins(
    origin: str, host: str, door: Door, expected: int | None
) -> None:
    assert status(door, Origin=origin, Host=host) == expected


def test_a_right_origin_needs_the_key_too() -> None:
    assert status(Door(key="sesame"), Origin="http://localhost:9000", Host="localhost:9000") == 401


@pytest.mark.parametrize(
    ("host", "yes"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("", False),
    ],
)
def test_loopback_is_this_machine_only(host: str, yes: bool) -> None:
    assert is_loopback(host) is yes
