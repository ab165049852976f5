"""An engine on a socket that answers what a test tells it to, the truth or not."""

from __future__ import annotations

import contextlib
import json
import socketserver
import tempfile
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class Engine:
    """What a stub says, by the beginning of a request's target without its version.

    Attributes:
        replies: Status and body, or a function that answers by itself.
        asked: Every request, ``METHOD /target``.
        given: The body of the last request that had one.
    """

    def __init__(self) -> None:
        self.replies: dict[str, object] = {"/_ping": (200, b"OK")}
        self.headers = {"Api-Version": "1.41"}
        self.asked: list[str] = []
        self.given = b""
        self.address = ""

    def say(self, target: str, value: object, status: int = 200) -> None:
        raw = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.replies[target] = (status, raw)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        engine: Engine = self.server.engine  # type: ignore[attr-defined]
        target = self.path
        if target.startswith("/v1."):
            target = "/" + target.split("/", 2)[2]
        engine.asked.append(f"{self.command} {self.path}")
        if self.command == "POST":
            engine.given = self._body()
        for beginning, reply in sorted(engine.replies.items(), reverse=True):
            if target.startswith(beginning):
                if callable(reply):
                    reply(self)
                    return
                status, raw = reply  # type: ignore[misc]
                self.answer(status, raw)
                return
        self.answer(404, b'{"message": "no such thing"}')

    do_POST = do_GET  # noqa: N815 - http.server's name

    def answer(self, status: int, raw: bytes) -> None:
        engine: Engine = self.server.engine  # type: ignore[attr-defined]
        self.send_response(status)
        for name, value in engine.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline() or b"0", 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def address_string(self) -> str:
        return "unix"

    def log_message(self, *_: object) -> None:
        pass


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64  # with a full queue, connect(2) on a socket like this fails at once

    def handle_error(self, *_: object) -> None:
        pass  # clients that hang up


@contextlib.contextmanager
def stub_engine() -> Iterator[Engine]:
    """Serve a stub; it answers a ping and nothing else until it is told more."""
    engine = Engine()
    with tempfile.TemporaryDirectory(prefix="engine-", dir="/tmp") as place:
        path = Path(place) / "engine.sock"
        server = _Server(str(path), _Handler)
        server.engine = engine  # type: ignore[attr-defined]
        engine.address = f"unix://{path}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield engine
        finally:
            server.shutdown()
            server.server_close()
            thread.join()
