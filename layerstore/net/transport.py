"""Requests over HTTP and HTTPS: to a server that is not trusted, over connections that stay open.

What is not trusted: the server and everything it says. Heads are bounded, silence and slowness end
(:mod:`layerstore.net.guarded`). Redirects are counted, lead to HTTP URLs only, never from HTTPS to
HTTP unless the caller can tell that the content is right, never from elsewhere to this host's own
services, and take no credentials to another origin. Certificates are checked against the system's
authorities unless the caller says otherwise for a server.

The client is the standard library's: docs/decisions/0170. Imported when something is fetched.

Source: RFC 9110, RFC 9112; Go's net/http for what docker's users are used to.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import threading
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from layerstore.errors import InputError, LimitExceededError
from layerstore.net.connection import (
    CONNECT_S,
    Connection,
    ConnectionPool,
    Route,
    basic,
    dial,
)
from layerstore.net.errors import InsecureRedirectError, NetworkError, SlowServerError
from layerstore.net.guarded import WINDOW_S
from layerstore.net.lifelines import Lifelines
from layerstore.net.proxies import proxy_for
from layerstore.net.urls import redirected

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from layerstore.net.urls import HttpUrl

MAX_DOWNLOAD_BYTES = 100 << 30
"""Of one file: what a layer may hold."""

MAX_REDIRECTS = 10
READ_BYTES = 1 << 20
_AGENT = "layerstore"
_SILENCE_S = 60.0
_DRAIN_BYTES = 1 << 16
"""Read to keep a connection; a new one is cheaper than more."""

_REDIRECTS = frozenset({301, 302, 303, 307, 308})


def system_authorities(_authority: str) -> ssl.SSLContext:
    """Return a context that trusts whom the system trusts."""
    return ssl.create_default_context()


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpSettings:
    """How requests are made.

    Attributes:
        proxies: As :func:`~layerstore.net.proxies.proxy_environment` returns them.
        max_bytes: Largest body of a download.
        silence_s: How long a server may send nothing.
        window_s: How long a server may send slowly.
        tls: Makes the context of TLS connections to ``host[:port]``.
        dial: Connects; returns the socket and the address that it reached.
        pause: Waits so many seconds between attempts; None for a wait that the lifelines end.
    """

    proxies: Mapping[str, str] = field(default_factory=dict)
    max_bytes: int = MAX_DOWNLOAD_BYTES
    silence_s: float = _SILENCE_S
    window_s: float = WINDOW_S
    tls: Callable[[str], ssl.SSLContext] = system_authorities
    dial: Callable[[str, int, float], tuple[socket.socket, str]] = dial
    pause: Callable[[float], None] | None = None


class Request(NamedTuple):
    """What is asked of a server.

    Attributes:
        url: Where; credentials in it are sent there.
        method: Only ``GET`` and ``HEAD`` follow redirects.
        headers: Sent wherever redirects lead.
        authorization: Value of the header, for the URL's origin only; instead of what it has.
        body: Bytes, or pieces of a body that can be read once.
        length: Of pieces, in bytes; None to send them in chunks.
        pinned: The content's digest is known, so that a redirect to HTTP can do no harm.
        patience_s: How long the server may think; None for as long as it may be silent.
        sent_by: Address of the server that named this URL; None for the user.
        inward_private: Addresses of private networks are not told to us by strangers either.
    """

    url: HttpUrl
    method: str = "GET"
    headers: Mapping[str, str] = {}
    authorization: str = ""
    body: bytes | Iterable[bytes] | None = None
    length: int | None = None
    pinned: bool = False
    patience_s: float | None = None
    sent_by: str | None = None
    inward_private: bool = False


class Answer:
    """The head of a response, and its body to be read by one thread.

    Attributes:
        url: Where the last redirect led.
        peer: The server's address; None behind a proxy.
        length: Of the body as it was announced; None if it was not.
        tells_its_end: A body that was cut off can be told from a whole one.
    """

    def __init__(
        self, response: http.client.HTTPResponse, connection: Connection, url: HttpUrl
    ) -> None:
        self._response = response
        self._connection = connection
        self.url = url
        self.peer = connection.peer
        self.status = response.status
        self.reason = printable(response.reason)
        self.headers = response.headers
        self.length: int | None = response.length
        self.tells_its_end = response.length is not None or bool(response.chunked)
        self._in_body = False

    def header(self, name: str) -> str:
        """Return a header's value; empty without one."""
        return self.headers.get(name) or ""

    def read(self, size: int = READ_BYTES) -> bytes:
        """Return 1 to ``size`` bytes of the body, none at its end.

        Raises:
            NetworkError: The connection ended within it.
        """
        if not self._in_body:
            self._in_body = True
            self._connection.body_begins()
        response = self._response
        with translated(self.url):
            piece = response.read1(size)
        if not piece and response.length:  # http.client passes over a body that is too short
            raise NetworkError(
                f"the connection ended {response.length} bytes before the end of the file",
                transient=True,
            )
        return piece

    def pieces(self) -> Iterator[bytes]:
        """Yield the body."""
        while piece := self.read():
            yield piece

    def whole(self, limit: int, what: str) -> bytes:
        """Return all of a small body.

        Raises:
            LimitExceededError: It has more than ``limit`` bytes.
            NetworkError: The connection ended within it.
        """
        if self.length is not None and self.length > limit:
            raise LimitExceededError(
                f"{what} has {self.length} bytes, more than the limit of {limit}"
            )
        pieces, size = [], 0
        while piece := self.read():
            size += len(piece)
            if size > limit:
                raise LimitExceededError(f"{what} has more than the limit of {limit} bytes")
            pieces.append(piece)
        return b"".join(pieces)

    def finish(self) -> bool:
        """Read what little is left; return whether the connection can be used again."""
        response = self._response
        if not response.isclosed() and response.length is not None:
            with contextlib.suppress(NetworkError):
                if response.length <= _DRAIN_BYTES:
                    while self.read(_DRAIN_BYTES):
                        pass
            if response.length == 0:  # read1 leaves it open
                response.close()
        return response.isclosed() and not response.will_close

    def close(self) -> None:
        """Let go of the connection, in whatever state it is."""
        self._response.close()


class Transport:
    """Sends requests; keeps connections open between them. For several threads.

    Args:
        settings: How requests are made.
        lifelines: Cut when what is asked for is not wanted any more.
    """

    def __init__(self, settings: HttpSettings, lifelines: Lifelines | None = None) -> None:
        self.settings = settings
        self.lifelines = lifelines or Lifelines()
        self._pool = ConnectionPool()
        self._lock = threading.Lock()
        self._contexts: dict[str, ssl.SSLContext] = {}

    def pause(self, seconds: float) -> None:
        """Wait between two tries.

        Raises:
            LayerstoreError: The work has ended.
        """
        (self.settings.pause or self.lifelines.wait)(seconds)

    def close(self) -> None:
        """Close the connections that are not in use."""
        self._pool.close()

    @contextlib.contextmanager
    def follow(self, request: Request) -> Iterator[Answer]:
        """Send a request, and again to where redirects lead; hold the last response.

        Raises:
            NetworkError: No answer, or a redirect that is not followed.
            InputError: A proxy's URL is wrong.
        """
        first = request.url
        for _ in range(MAX_REDIRECTS + 1):
            with self.exchange(request) as answer:
                url = request.url
                if answer.status not in _REDIRECTS or request.method not in ("GET", "HEAD"):
                    yield answer
                    return
                target = _next(url, answer, pinned=request.pinned)
            authorization = ""
            if target.origin == first.origin:
                authorization = request.authorization or basic(first.user)
            request = request._replace(
                url=target, authorization=authorization, sent_by=request.sent_by or answer.peer
            )
        raise NetworkError(f"it redirects more than {MAX_REDIRECTS} times")

    @contextlib.contextmanager
    def exchange(self, request: Request) -> Iterator[Answer]:
        """Send a request and hold its response, whatever it is.

        Raises:
            NetworkError: No answer.
            InputError: A proxy's URL is wrong.
        """
        connection, answer = self._begin(request)
        keep = False
        try:
            with self.lifelines.held(partial(_shut_down, connection.sock)):
                yield answer
                keep = answer.finish()
        finally:
            if keep:
                self._pool.give(connection)
            else:
                answer.close()
                connection.close()

    def _begin(self, request: Request) -> tuple[Connection, Answer]:
        """Send a request over an open connection if there is one; return it and the answer."""
        url = request.url
        route = Route(url.scheme, url.host, url.port, proxy_for(url, self.settings.proxies))
        connection = self._pool.take(route)
        if connection is not None:
            try:
                return connection, self._ask(connection, request)
            except NetworkError as err:
                if not _may_repeat(request, err) or self.lifelines.is_cut:
                    raise
        connection = self._open(route, url)
        return connection, self._ask(connection, request)

    def _open(self, route: Route, url: HttpUrl) -> Connection:
        settings = self.settings
        host, port = (route.proxy.host, route.proxy.port) if route.proxy else (url.host, url.port)
        with translated(url):
            context = self._context(url.authority) if url.scheme == "https" else None
            sock, peer = settings.dial(host, port, CONNECT_S)
            try:
                return Connection(
                    route, sock, None if route.proxy else peer, context, settings.window_s
                )
            except BaseException:
                sock.close()
                raise

    def _context(self, authority: str) -> ssl.SSLContext:
        with self._lock:
            if authority not in self._contexts:
                self._contexts[authority] = self.settings.tls(authority)
            return self._contexts[authority]

    def _ask(self, connection: Connection, request: Request) -> Answer:
        """Send a request and read the answer's head; close the connection if that fails."""
        url = request.url
        try:
            _check_peer(connection, request)
            with self.lifelines.held(partial(_shut_down, connection.sock)):
                with translated(url):
                    connection.sock.settimeout(self.settings.silence_s)
                    connection.send(request.method, url, self._headers(request))
                _send_body(connection, request)
                with translated(url):
                    connection.sock.settimeout(request.patience_s or self.settings.silence_s)
                    response = connection.response()
                    connection.sock.settimeout(self.settings.silence_s)
                return Answer(response, connection, url)
        except BaseException:
            connection.close()
            raise

    def _headers(self, request: Request) -> dict[str, str]:
        headers = {
            "Host": request.url.authority,
            "User-Agent": _AGENT,
            "Accept": "*/*",
            "Accept-Encoding": "identity",
            **request.headers,
        }
        authorization = request.authorization or basic(request.url.user)
        if authorization:
            headers["Authorization"] = authorization
        if isinstance(request.body, bytes):
            headers["Content-Length"] = str(len(request.body))
        elif request.body is not None and request.length is not None:
            headers["Content-Length"] = str(request.length)
        elif request.body is not None:
            headers["Transfer-Encoding"] = "chunked"
        return headers


@contextlib.contextmanager
def translated(url: HttpUrl) -> Iterator[None]:
    """Make failures of the line to NetworkErrors."""
    try:
        yield
    except ssl.SSLCertVerificationError as err:
        raise NetworkError(
            f"the certificate of {url.authority} is not trusted: {err.verify_message}",
            hint="a private authority belongs into the system's: update-ca-certificates; "
            "or name it in the variable SSL_CERT_FILE",
        ) from err
    except http.client.IncompleteRead as err:
        raise NetworkError("the connection ended within the file", transient=True) from err
    except http.client.RemoteDisconnected as err:
        raise NetworkError(f"{url.authority} ended the connection", transient=True) from err
    except http.client.HTTPException as err:
        kind = type(err).__name__
        raise NetworkError(
            f"the server of {url.shown} does not speak HTTP ({kind})",
            transient=isinstance(err, http.client.BadStatusLine),  # or it was cut off
        ) from err
    except socket.gaierror as err:
        again = err.errno == socket.EAI_AGAIN
        raise NetworkError(f"there is no host {url.host}: {err.strerror}", transient=again) from err
    except TimeoutError as err:
        raise SlowServerError(f"{url.authority} does not answer") from err
    except ValueError as err:  # http.client, of lengths of chunks that are none
        raise NetworkError(f"the server of {url.shown} does not speak HTTP") from err
    except OSError as err:
        why = err.strerror or str(err)
        raise NetworkError(f"no connection with {url.authority}: {why}", transient=True) from err


def _check_peer(connection: Connection, request: Request) -> None:
    """Return if a server may send us there; nothing was said to it yet."""
    peer, sender = connection.peer, request.sent_by
    if peer and sender and is_inward(peer, sender, private=request.inward_private):
        raise NetworkError(
            f"it leads to {request.url.shown}, a service of this host or network segment"
        )


def _send_body(connection: Connection, request: Request) -> None:
    """Send a body; a server that answers before it has all of it is heard."""
    body = request.body
    if body is None:
        return
    chunked = not isinstance(body, bytes) and request.length is None
    for piece in (body,) if isinstance(body, bytes) else body:
        if not piece:
            continue
        try:
            with translated(request.url):
                connection.send_piece(piece, chunked=chunked)
        except NetworkError as err:
            if isinstance(err.__cause__, ConnectionError) and not connection.is_quiet:
                return  # it said why: refused, too large
            raise
    if chunked:
        with translated(request.url):
            connection.end_chunks()


def _may_repeat(request: Request, err: NetworkError) -> bool:
    """Return whether to ask again over a new connection, at once.

    A server may close a connection while a request is on its way to it. Whether it did what it
    was asked for cannot be told, so only questions are repeated: who sends knows what to do.
    """
    closed = isinstance(err.__cause__, ConnectionError | ssl.SSLError)
    return closed and request.method in ("GET", "HEAD")


def _next(url: HttpUrl, answer: Answer, *, pinned: bool) -> HttpUrl:
    """Return where a redirect leads.

    Raises:
        NetworkError: To where nothing is fetched.
    """
    location = answer.header("Location")
    if not location:
        raise NetworkError(f"it redirects (status {answer.status}) to nowhere")
    try:
        target = redirected(url, location)
    except InputError as err:
        raise NetworkError(f"it redirects to where nothing is fetched: {err.message}") from err
    if url.scheme == "https" and target.scheme == "http" and not pinned:
        raise InsecureRedirectError(
            f"it redirects from HTTPS to {target.shown}, which anybody could change"
        )
    return target


def _shut_down(sock: socket.socket) -> None:
    """End a connection under the thread that reads from it."""
    with contextlib.suppress(OSError):  # it ended already
        # Not TLS' own, which takes away what that thread uses.
        socket.socket.shutdown(sock, socket.SHUT_RDWR)


def is_inward(peer: str, first_peer: str, *, private: bool = False) -> bool:
    """Return whether a server leads from elsewhere to where only this host should ask.

    Loopback and link-local addresses answer whoever is near: metadata services of clouds, and
    administration. A URL may name them; somebody else's server may not send us there.

    Args:
        peer: Address that was reached.
        first_peer: Address of the URL that was written.
        private: Private networks count as near, too.
    """
    if peer == first_peer:
        return False
    return _is_near(peer, private=private) and not _is_near(first_peer, private=private)


def _is_near(peer: str, *, private: bool) -> bool:
    import ipaddress

    address = ipaddress.ip_address(peer.partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None)
    address = mapped or address
    if private and address.is_private:
        return True
    return address.is_loopback or address.is_link_local or address.is_unspecified


def printable(text: str) -> str:
    """Return a server's words as a message can show them."""
    return "".join(char if char.isprintable() else "?" for char in text[:200])
