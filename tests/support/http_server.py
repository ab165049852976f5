"""A real HTTP server on this host for tests, that can be as wrong as a test needs."""

from __future__ import annotations

import contextlib
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Route = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """One request, handed to the route of its path."""

    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, LocalServer)
        server.requests.append((self.path, dict(self.headers)))
        route = server.routes.get(self.path.partition("?")[0])
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            if route is None:
                self.answer(b"nothing here", status=404)
            else:
                route(self)
        self.close_connection = True

    def answer(self, body: bytes, *, status: int = 200, **headers: str) -> None:
        """Send an honest response; ``Last_Modified`` is the header ``Last-Modified``."""
        self.send_response(status)
        headers.setdefault("Content_Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def raw(self, *pieces: bytes) -> None:
        """Send bytes as they are."""
        for piece in pieces:
            self.wfile.write(piece)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class LocalServer(ThreadingHTTPServer):
    """Serves ``routes``, remembers ``requests``."""

    handler = Handler
    daemon_threads = True
    block_on_close = True

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), self.handler)
        self.routes: dict[str, Route] = {}
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.scheme = "http"
        if context is not None:
            self.socket = context.wrap_socket(self.socket, server_side=True)
            self.scheme = "https"

    def url(self, path: str) -> str:
        return f"{self.scheme}://127.0.0.1:{self.server_port}{path}"

    def file(self, path: str, body: bytes, **headers: str) -> str:
        """Serve a file, revalidated by its ETag if it has one; return its URL."""

        def route(handler: Handler) -> None:
            etag = headers.get("ETag")
            if etag and handler.headers.get("If-None-Match") == etag:
                handler.answer(b"", status=304, **headers)
            else:
                handler.answer(body, **headers)

        self.routes[path] = route
        return self.url(path)

    def redirect(self, path: str, location: str, *, status: int = 302) -> str:
        self.routes[path] = lambda handler: handler.answer(b"", status=status, Location=location)
        return self.url(path)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is part of the tests."""


@contextlib.contextmanager
def serving(context: ssl.SSLContext | None = None) -> Iterator[LocalServer]:
    with LocalServer(context) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def certificate(directory: Path) -> tuple[Path, Path]:
    """Make a certificate for 127.0.0.1 that no authority knows; return it and its key."""
    cert, key = directory / "cert.pem", directory / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-nodes", "-days", "3650", "-subj", "/CN=127.0.0.1", "-addext",
         "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", cert],
        check=True, capture_output=True,
    )  # fmt: skip
    return cert, key
