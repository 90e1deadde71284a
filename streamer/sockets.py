"""The sockets that are listened on, their TLS and their buffers; what is wrong with them is said by option. No HTTP."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import logging
import socket
import ssl
from asyncio import BaseTransport, WriteTransport
from collections.abc import Sequence
from typing import cast

from streamer import auth
from streamer.config import Server
from streamer.errors import Refusal

log = logging.getLogger(__name__)

SEND_BUFFER_BYTES = 1 << 16  # of the kernel: more would only hide a slow reader
WRITE_BUFFER_BYTES = 1 << 14  # of our own, after which a message waits for the ones before it
_NOT_HERE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


def bind(server: Server) -> list[socket.socket]:
    """One socket for each address of server.host. They hold the port; nobody can connect before they listen."""
    try:
        flags = socket.AI_PASSIVE
        found = dict.fromkeys(
            socket.getaddrinfo(server.host or None, server.port, type=socket.SOCK_STREAM, flags=flags)
        )
    except (OSError, UnicodeError) as error:
        raise refusal(server, error) from None
    port = server.port
    bound: list[socket.socket] = []
    with contextlib.ExitStack() as unless_all_is_well:
        for family, kind, protocol, _, address in found:
            try:
                bound.append(_bound(family, kind, protocol, (address[0], port, *address[2:])))
            except OSError as error:
                if error.errno in _NOT_HERE and len(found) > 1:  # localhost names ::1 also where there is no IPv6
                    continue
                raise refusal(server, error) from None
            unless_all_is_well.callback(bound[-1].close)
            port = bound[-1].getsockname()[1]
        if not bound:
            raise refusal(server, OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address"))
        unless_all_is_well.pop_all()
    return bound


def share(server: Server) -> list[socket.socket]:
    """As `bind`, but `again` can bind more of them: these hold the port and never listen."""
    if not hasattr(socket, "SO_REUSEPORT"):
        raise Refusal("server.fronts", server.fronts, "0 on this system: it shares no ports")
    found = bind(server)  # without sharing: a port that another daemon shares among its own fronts is taken
    places = [(own.family, own.type, own.proto, own.getsockname()) for own in found]
    for own in found:
        own.close()
    return [_bound(*place, shared=True) for place in places]


def again(bound: Sequence[socket.socket]) -> list[socket.socket]:
    """More sockets at the same addresses. The system divides connections among those that listen."""
    return [_bound(own.family, own.type, own.proto, own.getsockname(), shared=True) for own in bound]


def _bound(
    family: int, kind: int, protocol: int, address: tuple[object, ...], *, shared: bool = False
) -> socket.socket:
    made = socket.socket(family, kind, protocol)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind(address)
    except OSError:
        made.close()
        raise
    return made


def refusal(server: Server, error: Exception) -> Refusal:
    """Which option is to blame for what the system said."""
    why = getattr(error, "strerror", None) or str(error)
    unnamed = isinstance(error, (socket.gaierror, UnicodeError))
    if unnamed or getattr(error, "errno", None) in _NOT_HERE:
        return Refusal("server.host", server.host, f"a name or an address of this machine ({why})")
    return Refusal("server.port", f"{server.host}:{server.port}", f"a free port ({why})")


def tls(server: Server) -> ssl.SSLContext | None:
    """None where TLS is not wanted."""
    if not server.tls_cert:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(server.tls_cert, server.tls_key)
    except OSError as error:  # ssl.SSLError is one
        raise Refusal("server.tls_cert", server.tls_cert, f"a PEM chain and its key ({error})") from None
    return context


def page_url(server: Server, port: int) -> str:
    """The address that a person on this machine opens. All addresses means localhost too, where pages may listen."""
    host = server.host
    try:
        anywhere = not host or ipaddress.ip_address(host).is_unspecified
    except ValueError:
        anywhere = False
    shown = "localhost" if anywhere else f"[{host}]" if ":" in host else host
    return f"http{'s' if server.tls_cert else ''}://{shown}:{port}/"


def tune(transport: BaseTransport | None) -> None:
    """Little is kept for a slow reader, so that it is noticed and gets the newest partial."""
    if transport is None:
        return
    cast(WriteTransport, transport).set_write_buffer_limits(high=WRITE_BUFFER_BYTES)
    if (raw := transport.get_extra_info("socket")) is not None:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)


def warn(server: Server) -> None:
    """Say what should not be overlooked."""
    if not auth.is_loopback(server.host) and not server.key:
        log.warning("SERVER.KEY IS EMPTY AND %s IS NOT LOOPBACK: ANYBODY WHO REACHES IT CAN USE IT", server.host)


def announce(server: Server, port: int, *, pages: bool) -> None:
    """Say where it listens."""
    shown = f"[{server.host}]" if ":" in server.host else server.host
    log.info("listening on %s://%s:%d/v1/stream", "wss" if server.tls_cert else "ws", shown, port)
    if pages:
        log.info("captions on %s", page_url(server, port))


def allow_many() -> None:
    """As many open sockets as the system lets this process have; what it begins with may be no more than 1024."""
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # macOS says "infinity" and means less
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
