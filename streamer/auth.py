"""May this connection come in: API key and origin. Pure; knows nothing of sockets or of what the key opens."""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from streamer.errors import Refusal

SUBPROTOCOL = "bearer"  # a browser cannot set headers: it offers the subprotocols `bearer` and the key


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """Who may come in. `loopback`: we listen on this machine only, so a page must have been loaded from it too."""

    key: str = ""
    origins: tuple[str, ...] = ()
    loopback: bool = True


@dataclass(frozen=True, slots=True)
class Closed:
    """Why a connection stays out: an HTTP status and a sentence. It never repeats a key."""

    status: int
    refusal: Refusal


def refusal(headers: Mapping[str, str], door: Door) -> Closed | None:
    """None lets the connection in. Headers are looked up as given: pass a case-insensitive mapping."""
    origin = headers.get("Origin")
    if origin is not None and not _welcome(origin, headers.get("Host", ""), door):
        expected = "our own page, or one of server.origins"
        return Closed(403, Refusal("Origin", origin, expected, code="unauthorized"))
    if door.key and not _has_key(headers, door.key):
        expected = "Authorization: Bearer KEY, or the subprotocols bearer, KEY"
        return Closed(401, Refusal("key", "none or a wrong one", expected, code="unauthorized"))
    return None


def _welcome(origin: str, host: str, door: Door) -> bool:
    if "*" in door.origins or origin in door.origins:
        return True
    try:
        named, own = urlsplit(origin).netloc, urlsplit("//" + host).hostname or ""
    except ValueError:  # "http://a]b"
        return False
    # A page of a name that was pointed at 127.0.0.1 (DNS rebinding) has its own name as Origin and Host.
    return named.lower() == host.lower() != "" and (not door.loopback or is_loopback(own))


def is_loopback(host: str) -> bool:
    """Whether a name or address can only be this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _has_key(headers: Mapping[str, str], key: str) -> bool:
    scheme, _, given = headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return _equal(given.strip(), key)
    offered = [part.strip() for part in headers.get("Sec-WebSocket-Protocol", "").split(",")]
    return len(offered) == 2 and offered[0] == SUBPROTOCOL and _equal(offered[1], key)


def _equal(given: str, key: str) -> bool:
    """In a time that does not tell how much of the key was right."""
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), key.encode())
