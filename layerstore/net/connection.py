"""Connections to servers, kept open between requests: directly or through a proxy.

A connection serves one request after the other and one thread at a time. What comes in is
guarded (:mod:`layerstore.net.guarded`), the answer of a proxy included.

Source: RFC 9112, "Persistence"; RFC 9110, "CONNECT".
"""

from __future__ import annotations

import contextlib
import http.client
import select
import socket
import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from layerstore.net.errors import NetworkError
from layerstore.net.guarded import GuardedSocket

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterable, Mapping

    from layerstore.net.proxies import Proxy
    from layerstore.net.urls import HttpUrl

CONNECT_S = 30.0
_IDLE_S = 30.0
"""Servers close what is unused for a minute or more; a request then would come too late."""

_IDLE_PER_SERVER = 8
_SEND_BYTES = 1 << 18
"""Of a body at once: a timeout is for all of a ``sendall``."""


class Route(NamedTuple):
    """Where a connection leads; equal routes can share connections."""

    scheme: str
    host: str
    port: int
    proxy: Proxy | None


def dial(host: str, port: int, timeout_s: float) -> tuple[socket.socket, str]:
    """Connect, and return the socket and the address that it reached.

    Raises:
        OSError: Nobody answers, or there is no such host.
    """
    sock = socket.create_connection((host, port), timeout_s)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock, sock.getpeername()[0]


class Connection:
    """See the module.

    Args:
        route: Where it leads.
        sock: Connected, to the proxy if there is one.
        context: For TLS; None without it.
        window_s: How long the server may be slow.

    Attributes:
        peer: The server's address; None behind a proxy.

    Raises:
        OSError: The TLS handshake failed.
        NetworkError: The proxy refuses.
    """

    def __init__(
        self,
        route: Route,
        sock: socket.socket,
        peer: str | None,
        context: ssl.SSLContext | None,
        window_s: float,
    ) -> None:
        self.route = route
        self.peer = peer
        self.idle_since = 0.0
        if context is not None:
            if route.proxy is not None:
                _tunnel(sock, route)
            sock = context.wrap_socket(sock, server_hostname=route.host)
        self.sock = sock
        self._guarded = GuardedSocket(sock, window_s)
        self._http = http.client.HTTPConnection(route.host, route.port)
        self._http.auto_open = 0
        # What http.client does to a socket, a GuardedSocket can do.
        self._http.sock = self._guarded

    def send(self, method: str, url: HttpUrl, headers: Mapping[str, str]) -> None:
        """Send the head of a request."""
        proxy = self.route.proxy if url.scheme == "http" else None
        target = f"http://{url.authority}{url.target}" if proxy else url.target
        self._http.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
        for name, value in {**headers, **proxy_headers(proxy)}.items():
            self._http.putheader(name, value)
        self._http.endheaders()

    def send_piece(self, piece: bytes, *, chunked: bool) -> None:
        """Send the next bytes of a body."""
        if chunked:
            self._guarded.sendall(b"%x\r\n" % len(piece))
        view = memoryview(piece)
        for start in range(0, len(piece), _SEND_BYTES):
            self._guarded.sendall(view[start : start + _SEND_BYTES])
        if chunked:
            self._guarded.sendall(b"\r\n")

    def end_chunks(self) -> None:
        """End a body that was sent in chunks."""
        self._guarded.sendall(b"0\r\n\r\n")

    def response(self) -> http.client.HTTPResponse:
        """Read the head of the response."""
        return self._http.getresponse()

    def body_begins(self) -> None:
        """End the bound on the head."""
        self._guarded.body_begins()

    @property
    def is_quiet(self) -> bool:
        """Whether it is open and nothing lies in it: the next bytes answer the next request."""
        readable, _, _ = select.select([self.sock], [], [], 0)
        return not readable

    def close(self) -> None:
        """Close it."""
        self._http.close()
        self._guarded.close()


class ConnectionPool:
    """Open connections that nobody uses. For several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: dict[Route, list[Connection]] = {}

    def take(self, route: Route) -> Connection | None:
        """Return an open connection, and forget it; None if there is none."""
        while True:
            with self._lock:
                idle = self._idle.get(route)
                if not idle:
                    return None
                connection = idle.pop()
            if time.monotonic() - connection.idle_since < _IDLE_S and connection.is_quiet:
                return connection
            connection.close()

    def give(self, connection: Connection) -> None:
        """Keep a connection whose last response was read to its end."""
        connection.idle_since = time.monotonic()
        with self._lock:
            idle = self._idle.setdefault(connection.route, [])
            if len(idle) < _IDLE_PER_SERVER:
                idle.append(connection)
                return
        connection.close()

    def close(self) -> None:
        """Close all of them."""
        with self._lock:
            every, self._idle = self._idle, {}
        close_all(connection for idle in every.values() for connection in idle)


def close_all(connections: Iterable[Connection]) -> None:
    """Close connections."""
    for connection in connections:
        connection.close()


def proxy_headers(proxy: Proxy | None) -> dict[str, str]:
    """Return what a proxy wants to know."""
    if proxy is None or not proxy.user:
        return {}
    return {"Proxy-Authorization": basic(proxy.user)}


def basic(user: str) -> str:
    """Return the header value for ``user:password``; empty for nobody (RFC 7617)."""
    if not user:
        return ""
    import base64

    return "Basic " + base64.b64encode(user.encode()).decode("ascii")


def _tunnel(sock: socket.socket, route: Route) -> None:
    """Ask a proxy for a connection to the server."""
    host = f"[{route.host}]" if ":" in route.host else route.host
    target = f"{host}:{route.port}"
    lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
    lines += [f"{name}: {value}" for name, value in proxy_headers(route.proxy).items()]
    sock.sendall(("\r\n".join(lines) + "\r\n\r\n").encode("ascii"))
    guarded: Any = GuardedSocket(sock)  # has what HTTPResponse uses of a socket
    with contextlib.closing(http.client.HTTPResponse(guarded, method="CONNECT")) as response:
        response.begin()
        status = response.status
    if status != http.client.OK:
        raise NetworkError(f"the proxy refuses a connection with {target}: status {status}")
