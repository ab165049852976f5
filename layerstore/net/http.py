"""A download over HTTP or HTTPS: whole and as the server has it, or an error.

The body goes to whatever takes it while it is hashed; nothing is published here. What is not
trusted: the server and everything it says. Redirects are counted, lead to HTTP URLs only, never
from HTTPS to HTTP unless the content's digest is known, never from elsewhere to this host's own
services, and take no credentials to another origin. Bodies are bounded, must be as long as they
claim, and are asked for unencoded. Certificates are checked against the system's authorities.

The client is the standard library's: docs/decisions/0144. Imported when something is fetched.

Source: RFC 9110, RFC 9112; Go's net/http for what docker's users are used to.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import socket
import ssl
import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from layerstore.errors import FormatError, InputError, LimitExceededError
from layerstore.net.errors import NetworkError
from layerstore.net.guarded import GuardedSocket
from layerstore.net.lifelines import Lifelines
from layerstore.net.proxies import proxy_for
from layerstore.net.urls import parse_http_url, redirected

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from layerstore.net.proxies import Proxy
    from layerstore.net.urls import HttpUrl

MAX_DOWNLOAD_BYTES = 100 << 30
"""Of one file: what a layer may hold."""

MAX_REDIRECTS = 10
ATTEMPTS = 3
READ_BYTES = 1 << 20
_CONNECT_S = 30.0
_SILENCE_S = 60.0
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_TRANSIENT = frozenset({429, 502, 503, 504})
_OK, _NOT_MODIFIED = 200, 304


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpSettings:
    """How requests are made.

    Attributes:
        proxies: As :func:`~layerstore.net.proxies.proxy_environment` returns them.
        max_bytes: Largest body.
        silence_s: How long a server may send nothing.
        tls: Makes the context of TLS connections; the system's authorities by default.
        pause: Waits so many seconds between attempts.
    """

    proxies: Mapping[str, str] = field(default_factory=dict)
    max_bytes: int = MAX_DOWNLOAD_BYTES
    silence_s: float = _SILENCE_S
    tls: Callable[[], ssl.SSLContext] = ssl.create_default_context
    pause: Callable[[float], None] = time.sleep


class Body(NamedTuple):
    """What takes the content of a download.

    Attributes:
        begin: Called before the first byte, and again when a broken download starts anew.
        write: Takes the next bytes.
    """

    begin: Callable[[], None]
    write: Callable[[bytes], None]


class Wanted(NamedTuple):
    """What is asked for.

    Attributes:
        url: As written.
        etag: Of the version that is there already; empty to download in any case.
        authorization: Value of the header, for the first origin only; instead of what the URL has.
        pinned: The content's digest is known, so that a redirect to HTTP can do no harm.
    """

    url: str
    etag: str = ""
    authorization: str = ""
    pinned: bool = False


class Response(NamedTuple):
    """What a server said.

    Attributes:
        unchanged: The version with the ETag that was sent is current; nothing was written.
        url: Where the last redirect led.
        sha256: Of the body, in hex; empty when unchanged.
        etag: As sent; empty without one.
        last_modified: As sent; empty without one.
        disposition_name: File name of a ``Content-Disposition``.
    """

    unchanged: bool
    url: HttpUrl
    size: int
    sha256: str
    etag: str
    last_modified: str
    disposition_name: str | None


class HttpClient:
    """Downloads files; keeps no connection and no state between them.

    Args:
        settings: How requests are made.
        lifelines: Cut when what is downloaded is not wanted any more.
    """

    def __init__(self, settings: HttpSettings, lifelines: Lifelines | None = None) -> None:
        self._settings = settings
        self._lifelines = lifelines or Lifelines()

    def fetch(self, wanted: Wanted, body: Body) -> Response:
        """Download a file; when this returns, ``body`` got all of it, exactly once.

        Raises:
            InputError: The URL, or a proxy's, is wrong.
            NetworkError: It cannot be had, or not whole.
            LimitExceededError: It is larger than ``max_bytes``.
        """
        url = parse_http_url(wanted.url)
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return self._follow(url, wanted, body)
            except NetworkError as err:
                if self._lifelines.is_cut:
                    raise self._lifelines.canceled() from err
                message = f"cannot fetch {url.shown}: {err.message}"
                if not err.transient or attempt == ATTEMPTS:
                    raise NetworkError(message, hint=err.hint) from err
            except LimitExceededError as err:
                raise LimitExceededError(f"{url.shown}: {err.message}", hint=err.hint) from err
            self._settings.pause(0.5 * 4 ** (attempt - 1))
        raise AssertionError("the last attempt returns or raises")

    def _follow(self, first: HttpUrl, wanted: Wanted, body: Body) -> Response:
        url = first
        peer: str | None = None
        for _ in range(MAX_REDIRECTS + 1):
            with self._exchange(url, first, wanted) as (response, connection):
                address = connection.peer
                if peer is not None and address is not None and is_inward(address, peer):
                    raise NetworkError(
                        f"it redirects to {url.shown}, a service of this host or network segment"
                    )
                peer = peer or address
                if response.status not in _REDIRECTS:
                    return self._take(response, connection, url, wanted, body)
                url = self._next(url, response, wanted)
        raise NetworkError(f"it redirects more than {MAX_REDIRECTS} times")

    @contextlib.contextmanager
    def _exchange(
        self, url: HttpUrl, first: HttpUrl, wanted: Wanted
    ) -> Iterator[tuple[http.client.HTTPResponse, _Connection]]:
        """Send a request and hold its response; failures of the line become NetworkError."""
        connection = _Connection(url, proxy_for(url, self._settings.proxies), self._settings)
        try:
            sock = connection.open()
            with (
                self._lifelines.held(partial(_shut_down, sock)),
                connection.ask(_headers(url, first, wanted)) as response,
            ):
                yield response, connection
        except ssl.SSLCertVerificationError as err:
            raise NetworkError(
                f"the certificate of {url.host} is not trusted: {err.verify_message}",
                hint="a private authority belongs into the system's: update-ca-certificates; "
                "or name it in the variable SSL_CERT_FILE",
            ) from err
        except http.client.IncompleteRead as err:
            raise NetworkError("the connection ended within the file", transient=True) from err
        except http.client.HTTPException as err:
            kind = type(err).__name__
            raise NetworkError(f"the server of {url.shown} does not speak HTTP ({kind})") from err
        except socket.gaierror as err:
            again = err.errno == socket.EAI_AGAIN
            raise NetworkError(
                f"there is no host {url.host}: {err.strerror}", transient=again
            ) from err
        except TimeoutError as err:
            raise NetworkError(f"{url.host} does not answer", transient=True) from err
        except ValueError as err:  # http.client, of lengths of chunks that are none
            raise NetworkError(f"the server of {url.shown} does not speak HTTP") from err
        except OSError as err:
            why = err.strerror or str(err)
            raise NetworkError(f"no connection with {url.host}: {why}", transient=True) from err
        finally:
            connection.close()

    def _next(self, url: HttpUrl, response: http.client.HTTPResponse, wanted: Wanted) -> HttpUrl:
        location = response.getheader("Location")
        if not location:
            raise NetworkError(f"it redirects (status {response.status}) to nowhere")
        try:
            target = redirected(url, location)
        except InputError as err:
            raise NetworkError(f"it redirects to where nothing is fetched: {err.message}") from err
        if url.scheme == "https" and target.scheme == "http" and not wanted.pinned:
            raise NetworkError(
                f"it redirects from HTTPS to {target.shown}, which anybody could change",
                hint="with --checksum=sha256:... that does no harm",
            )
        return target

    def _take(
        self,
        response: http.client.HTTPResponse,
        connection: _Connection,
        url: HttpUrl,
        wanted: Wanted,
        body: Body,
    ) -> Response:
        unchanged = response.status == _NOT_MODIFIED and bool(wanted.etag)
        if not unchanged and response.status != _OK:
            raise NetworkError(
                f"{url.shown} says {response.status} {_printable(response.reason)}".rstrip(),
                transient=response.status in _TRANSIENT,
            )
        size, sha256 = 0, ""
        if not unchanged:
            connection.body_begins()
            body.begin()
            size, sha256 = self._read(response, body.write)
        return Response(
            unchanged=unchanged,
            url=url,
            size=size,
            sha256=sha256,
            etag=response.getheader("ETag") or (wanted.etag if unchanged else ""),
            last_modified=response.getheader("Last-Modified") or "",
            disposition_name=response.headers.get_filename(),
        )

    def _read(
        self, response: http.client.HTTPResponse, write: Callable[[bytes], None]
    ) -> tuple[int, str]:
        limit = self._settings.max_bytes
        claimed = response.length
        if claimed is not None and claimed > limit:
            raise _too_large(f"it has {claimed} bytes", limit)
        hasher = hashlib.sha256()
        size = 0
        for piece in _decoded(response):
            size += len(piece)
            if size > limit:
                raise _too_large("it does not end", limit)
            hasher.update(piece)
            write(piece)
        return size, hasher.hexdigest()


class _Connection:
    """One request's connection, directly or through a proxy."""

    def __init__(self, url: HttpUrl, proxy: Proxy | None, settings: HttpSettings) -> None:
        self._url = url
        self._proxy = proxy
        self._silence_s = settings.silence_s
        host, port = (proxy.host, proxy.port) if proxy else (url.host, url.port)
        if url.scheme == "https":
            context = settings.tls()
            self._http: http.client.HTTPConnection = http.client.HTTPSConnection(
                host, port, timeout=_CONNECT_S, context=context
            )
            if proxy:
                self._http.set_tunnel(url.host, url.port, headers=_proxy_headers(proxy))
        else:
            self._http = http.client.HTTPConnection(host, port, timeout=_CONNECT_S)
        self._guarded: GuardedSocket | None = None
        self.peer: str | None = None

    def open(self) -> socket.socket:
        """Connect, and return the socket; from now on what comes in is guarded."""
        self._http.connect()
        sock: socket.socket = self._http.sock
        sock.settimeout(self._silence_s)
        if self._proxy is None:
            self.peer = sock.getpeername()[0]
        self._guarded = GuardedSocket(sock)
        self._http.sock = self._guarded
        return sock

    def ask(self, headers: Mapping[str, str]) -> http.client.HTTPResponse:
        """Send the request and return its response's head, the body unread."""
        url = self._url
        plain_proxy = self._proxy if url.scheme == "http" else None
        target = f"http://{url.authority}{url.target}" if plain_proxy else url.target
        self._http.putrequest("GET", target, skip_host=True, skip_accept_encoding=True)
        for name, value in {**headers, **_proxy_headers(plain_proxy)}.items():
            self._http.putheader(name, value)
        self._http.endheaders()
        return self._http.getresponse()

    def body_begins(self) -> None:
        """End the bound on the head."""
        assert self._guarded is not None
        self._guarded.body_begins()

    def close(self) -> None:
        """Close the connection."""
        self._http.close()


def _shut_down(sock: socket.socket) -> None:
    """End a connection under the thread that reads from it."""
    with contextlib.suppress(OSError):  # it ended already
        # Not TLS' own, which takes away what that thread uses.
        socket.socket.shutdown(sock, socket.SHUT_RDWR)


def _headers(url: HttpUrl, first: HttpUrl, wanted: Wanted) -> dict[str, str]:
    headers = {
        "Host": url.authority,
        "User-Agent": "layerstore",
        "Accept": "*/*",
        "Accept-Encoding": "identity",
        "Connection": "close",
    }
    if wanted.etag:
        headers["If-None-Match"] = wanted.etag
    authorization = _basic(url.user)
    if url.origin == first.origin:
        authorization = wanted.authorization or authorization or _basic(first.user)
    if authorization:
        headers["Authorization"] = authorization
    return headers


def _proxy_headers(proxy: Proxy | None) -> dict[str, str]:
    if proxy is None or not proxy.user:
        return {}
    return {"Proxy-Authorization": _basic(proxy.user)}


def _basic(user: str) -> str:
    if not user:
        return ""
    import base64

    return "Basic " + base64.b64encode(user.encode()).decode("ascii")


def _decoded(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """Yield the body; servers that compress unasked are understood as Go's client does."""
    encoding = (response.getheader("Content-Encoding") or "identity").strip().lower()
    if encoding == "identity":
        yield from _pieces(response)
        return
    if encoding not in ("gzip", "x-gzip"):
        raise NetworkError(
            f"the server encodes the file as {_printable(encoding)!r}, which nobody asked for"
        )
    from layerstore.formats.decompress import decompressed
    from layerstore.formats.tar_limits import Limits

    pieces = _pieces(response)
    try:
        yield from decompressed(lambda _: next(pieces, b""), Limits())
    except FormatError as err:
        raise NetworkError(f"the gzip encoding is damaged: {err.message}") from err


def _pieces(response: http.client.HTTPResponse) -> Iterator[bytes]:
    while piece := response.read1(READ_BYTES):
        yield piece
    if response.length:  # http.client passes over a body that is too short
        raise NetworkError(
            f"the connection ended {response.length} bytes before the end of the file",
            transient=True,
        )


def is_inward(peer: str, first_peer: str) -> bool:
    """Return whether a redirect leads from elsewhere to where only this host should ask.

    Loopback and link-local addresses answer whoever is near: metadata services of clouds, and
    administration. A URL may name them; somebody else's server may not send us there.

    Args:
        peer: Address that the redirect led to.
        first_peer: Address of the URL that was written.
    """
    return peer != first_peer and _is_near(peer) and not _is_near(first_peer)


def _is_near(peer: str) -> bool:
    import ipaddress

    address = ipaddress.ip_address(peer.partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None)
    address = mapped or address
    return address.is_loopback or address.is_link_local or address.is_unspecified


def _too_large(what: str, limit: int) -> LimitExceededError:
    return LimitExceededError(f"{what}, more than the limit of {limit} bytes for a remote file")


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text[:200])
