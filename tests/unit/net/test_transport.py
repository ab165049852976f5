"""Requests over connections that stay open."""

from __future__ import annotations

import contextlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest

from layerstore.net.errors import CanceledError, NetworkError
from layerstore.net.lifelines import Lifelines
from layerstore.net.transport import HttpSettings, Request, Transport
from layerstore.net.urls import parse_http_url

if TYPE_CHECKING:
    from collections.abc import Iterator


class Keeping(BaseHTTPRequestHandler):
    """Keeps connections open, and answers with what it was sent."""

    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        server = self.server
        assert isinstance(server, Server)
        server.peers.append(self.client_address)
        if self.path == "/refuse":
            self.reply(413, b"too large")
            self.close_connection = True
            return
        body = self.body()
        server.bodies.append(body)
        if self.path == "/drop":
            self.close_connection = True
            return
        if self.path == "/last":
            self.close_connection = True
            self.reply(200, b"", announce=False)
            return
        self.reply(200, self.command.encode() + b" " + body)

    do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = answer  # noqa: N815 -- the names of http.server

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            pieces = []
            while size := int(self.rfile.readline(), 16):
                pieces.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(pieces)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def reply(self, status: int, body: bytes, *, announce: bool = True) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if announce and self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Keeping)
        self.peers: list[object] = []
        self.bodies: list[bytes] = []

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is part of the tests."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield made
        made.shutdown()
        thread.join()


@pytest.fixture
def transport() -> Iterator[Transport]:
    with contextlib.closing(Transport(HttpSettings())) as made:
        yield made


def request(server: Server, path: str = "/x", method: str = "GET", **rest) -> Request:
    return Request(parse_http_url(f"http://127.0.0.1:{server.server_port}{path}"), method, **rest)


def test_one_connection_serves_many_requests(server: Server, transport: Transport) -> None:
    for method in ("GET", "HEAD", "POST", "GET"):
        with transport.exchange(request(server, method=method)) as answer:
            assert answer.status == 200
    assert len(set(server.peers)) == 1


def test_bodies_with_a_length_and_without(server: Server, transport: Transport) -> None:
    pieces = [b"a" * 300_000, b"", b"b" * 300_000]
    for rest in ({"length": 600_000}, {}):
        with transport.exchange(request(server, method="PUT", body=iter(pieces), **rest)) as answer:
            assert answer.whole(1 << 20, "the answer") == b"PUT " + b"".join(pieces)
    with transport.exchange(request(server, method="PATCH", body=b"at once")) as answer:
        assert answer.whole(100, "the answer") == b"PATCH at once"


def test_a_connection_that_the_server_closed_is_made_anew(
    server: Server, transport: Transport
) -> None:
    with transport.exchange(request(server)):
        pass
    with transport.exchange(request(server, "/last")):  # closes without having said so
        pass
    with transport.exchange(request(server)) as answer:
        assert answer.read() == b"GET "
    assert len(set(server.peers)) == 2


def test_a_refusal_within_the_body_is_heard(server: Server, transport: Transport) -> None:
    def endless() -> Iterator[bytes]:
        while True:
            yield bytes(1 << 20)

    with transport.exchange(
        request(server, "/refuse", "PUT", body=endless(), length=1 << 40)
    ) as answer:
        assert answer.status == 413


def test_errors_of_who_sends_are_theirs(server: Server, transport: Transport) -> None:
    def broken() -> Iterator[bytes]:
        yield b"x"
        raise OSError("the disk is gone")

    with (
        pytest.raises(OSError, match="the disk is gone"),
        transport.exchange(request(server, method="PUT", body=broken(), length=9)),
    ):
        pass


def test_nothing_is_asked_when_the_work_has_ended(server: Server) -> None:
    lifelines = Lifelines()
    with contextlib.closing(Transport(HttpSettings(), lifelines)) as transport:
        lifelines.cut()
        with pytest.raises(CanceledError), transport.exchange(request(server)):
            pass
    assert server.bodies == []


def test_headers_cannot_be_smuggled(server: Server, transport: Transport) -> None:
    with (
        pytest.raises(NetworkError, match="does not speak HTTP"),
        transport.exchange(request(server, headers={"X": "a\r\nY: b"})),
    ):
        pass


def test_a_stranger_cannot_send_us_to_ourselves(server: Server) -> None:
    """What counts is the address that was reached; nothing is said to it."""
    from layerstore.net.connection import dial

    addresses = {"stranger.example": "192.0.2.1", "rebound.example": "127.0.0.1"}

    def dialed(host: str, _port: int, timeout_s: float):
        return dial("127.0.0.1", server.server_port, timeout_s)[0], addresses[host]

    with contextlib.closing(Transport(HttpSettings(dial=dialed))) as transport:
        with transport.exchange(Request(parse_http_url("http://stranger.example/x"))) as answer:
            sender = answer.peer
        inward = Request(parse_http_url("http://rebound.example/x"), sent_by=sender)
        with pytest.raises(NetworkError, match="a service of this host"):
            transport.exchange(inward).__enter__()
    assert len(server.peers) == 1


@pytest.mark.parametrize(("method", "times"), [("GET", 2), ("HEAD", 2), ("PATCH", 1), ("POST", 1)])
def test_only_questions_are_asked_twice(
    server: Server, transport: Transport, method: str, times: int
) -> None:
    """Whether a server did what it was sent cannot be told when the connection ends."""
    with transport.exchange(request(server)):
        pass
    server.bodies.clear()
    body = b"x" if method in ("PATCH", "POST") else None
    with (
        pytest.raises(NetworkError) as caught,
        transport.exchange(request(server, "/drop", method, body=body)),
    ):
        pass
    assert caught.value.transient
    assert len(server.bodies) == times


def test_a_pause_ends_with_the_work(server: Server) -> None:
    lifelines = Lifelines()
    with contextlib.closing(Transport(HttpSettings(), lifelines)) as transport:
        transport.pause(0.0)
        timer = threading.Timer(0.05, lifelines.cut)
        timer.start()
        with pytest.raises(CanceledError):
            transport.pause(600.0)
        timer.join()
        with pytest.raises(CanceledError):
            transport.pause(600.0)
