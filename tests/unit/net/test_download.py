"""Downloads from a real server, honest and not."""

from __future__ import annotations

import gzip
import hashlib
import io
import ssl
import time
from typing import TYPE_CHECKING

import pytest

from layerstore.errors import InputError, LimitExceededError
from layerstore.net.download import ATTEMPTS, RESUMES_MAX, Body, Downloader, Wanted
from layerstore.net.errors import SLOW_TRIES, NetworkError, SlowServerError
from layerstore.net.guarded import GuardedStream
from layerstore.net.transport import HttpSettings, is_inward, system_authorities
from tests.support.http_server import certificate, serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.http_server import Handler, LocalServer


class Taken:
    """What a download wrote."""

    def __init__(self) -> None:
        self.data = b"never begun"
        self.begun = 0

    def begin(self) -> None:
        self.data = b""
        self.begun += 1

    def write(self, piece: bytes) -> None:
        self.data += piece


@pytest.fixture
def server() -> Iterator[LocalServer]:
    with serving() as made:
        yield made


def fetch(url: str, taken: Taken | None = None, **wanted):
    pauses: list[float] = []
    settings = HttpSettings(
        max_bytes=1 << 20,
        pause=pauses.append,
        proxies=wanted.pop("proxies", {}),
        tls=wanted.pop("tls", system_authorities),
        silence_s=wanted.pop("silence_s", 60.0),
    )
    taken = taken or Taken()
    body = Body(taken.begin, taken.write)
    return Downloader(settings).fetch(Wanted(url, **wanted), body), taken


def test_a_file_and_what_the_server_says_of_it(server: LocalServer) -> None:
    url = server.file(
        "/a/b.txt", b"content", ETag='"1"', Last_Modified="Wed, 21 Oct 2015 07:28:00 GMT",
        Content_Disposition='attachment; filename="other"',
    )  # fmt: skip
    response, taken = fetch(url)
    assert taken.data == b"content"
    assert response.sha256 == hashlib.sha256(b"content").hexdigest()
    assert (response.etag, response.size, response.unchanged) == ('"1"', 7, False)
    assert response.last_modified == "Wed, 21 Oct 2015 07:28:00 GMT"
    assert response.disposition_name == "other"
    (_, headers), *_ = server.requests
    assert headers["Accept-Encoding"] == "identity"
    assert headers["Host"] == f"127.0.0.1:{server.server_port}"


def test_an_etag_saves_the_download(server: LocalServer) -> None:
    url = server.file("/x", b"content", ETag='"1"')
    response, taken = fetch(url, etag='"1"')
    assert response.unchanged
    assert taken.begun == 0
    assert response.etag == '"1"'
    response, taken = fetch(url, etag='"0"')
    assert taken.data == b"content"


def test_chunks_and_gzip_are_understood(server: LocalServer) -> None:
    server.routes["/chunks"] = lambda handler: handler.raw(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"3\r\nabc\r\n0\r\n\r\n"
    )
    assert fetch(server.url("/chunks"))[1].data == b"abc"
    url = server.file("/gzip", gzip.compress(b"plain" * 100), Content_Encoding="gzip")
    assert fetch(url)[1].data == b"plain" * 100
    with pytest.raises(NetworkError, match="encodes the file as 'br'"):
        fetch(server.file("/br", b"x", Content_Encoding="br"))
    with pytest.raises(NetworkError, match="gzip encoding is damaged"):
        fetch(server.file("/bad", gzip.compress(b"x")[:-3], Content_Encoding="gzip"))


def test_bombs_in_gzip_meet_the_limit(server: LocalServer) -> None:
    url = server.file("/bomb", gzip.compress(bytes(3 << 20)), Content_Encoding="gzip")
    with pytest.raises(LimitExceededError, match="more than the limit of 1048576 bytes"):
        fetch(url)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_followed(server: LocalServer, status: int) -> None:
    server.file("/target/name", b"content")
    response, taken = fetch(server.redirect("/from", "target/name", status=status))
    assert taken.data == b"content"
    assert response.url.path == "/target/name"


def test_redirects_have_an_end(server: LocalServer) -> None:
    with pytest.raises(NetworkError, match="redirects more than 10 times"):
        fetch(server.redirect("/loop", "/loop"))
    assert len(server.requests) == 11


@pytest.mark.parametrize(
    "location",
    ["file:///etc/passwd", "ftp://127.0.0.1/x", "gopher://x/", "http://[::1", ""],
)
def test_redirects_to_what_nobody_fetches(server: LocalServer, location: str) -> None:
    with pytest.raises(NetworkError, match="redirects"):
        fetch(server.redirect("/from", location))


def test_credentials_stay_with_their_origin(server: LocalServer) -> None:
    with serving() as other:
        other.file("/x", b"content")
        server.redirect("/here", "/there")
        server.redirect("/there", other.url("/x"))
        url = server.url("/here").replace("://", "://me:secret@")
        fetch(url)
        fetch(server.url("/here"), authorization="Bearer token")
        sent = [headers.get("Authorization") for _, headers in server.requests]
        assert sent == ["Basic bWU6c2VjcmV0"] * 2 + ["Bearer token"] * 2
        assert [headers.get("Authorization") for _, headers in other.requests] == [None, None]


def test_messages_show_no_password(server: LocalServer) -> None:
    url = server.url("/absent").replace("://", "://me:secret@")
    with pytest.raises(NetworkError, match="404 Not Found") as caught:
        fetch(url)
    assert "secret" not in caught.value.message
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("peer", "first", "inward"),
    [
        ("127.0.0.1", "192.0.2.1", True),
        ("169.254.169.254", "192.0.2.1", True),
        ("::1", "2001:db8::1", True),
        ("::ffff:127.0.0.1", "192.0.2.1", True),
        ("fe80::1%eth0", "192.0.2.1", True),
        ("0.0.0.0", "192.0.2.1", True),
        ("10.0.0.1", "192.0.2.1", False),
        ("127.0.0.1", "127.0.0.2", False),
        ("192.0.2.2", "192.0.2.1", False),
    ],
)
def test_where_a_stranger_may_not_send_us(peer: str, first: str, inward: bool) -> None:
    assert is_inward(peer, first) is inward


def test_lengths_that_are_lies(server: LocalServer) -> None:
    url = server.file("/short", b"abc", Content_Length="10")
    with pytest.raises(NetworkError, match="ended 7 bytes before the end"):
        fetch(url)
    assert len(server.requests) == 3
    assert fetch(server.file("/long", b"abcdef", Content_Length="3"))[1].data == b"abc"
    server.routes["/chunk"] = lambda handler: handler.raw(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"10\r\nabc"
    )
    with pytest.raises(NetworkError, match="ended within the file"):
        fetch(server.url("/chunk"))


def test_a_broken_download_begins_anew(server: LocalServer) -> None:
    def route(handler: Handler) -> None:
        handler.answer(b"abc", Content_Length="3" if len(server.requests) > 1 else "4")

    server.routes["/x"] = route
    taken = fetch(server.url("/x"))[1]
    assert (taken.data, taken.begun) == (b"abc", 2)


CONTENT = bytes(range(256)) * 400


def breaking(server: LocalServer, cuts: list[int], *, etag: str = '"v1"', **changes: str) -> str:
    """Return the URL of a file that breaks off after so many bytes, one cut each time."""

    def route(handler: Handler) -> None:
        begin, status, more = 0, "200 OK", ""
        asked = handler.headers["Range"]
        if asked and handler.headers["If-Range"] == changes.get("current", etag):
            begin = int(asked.removeprefix("bytes=").removesuffix("-"))
            status = "206 Partial Content"
            shown = int(changes.get("shown", begin))
            more = f"Content-Range: bytes {shown}-{len(CONTENT) - 1}/{len(CONTENT)}\r\n"
        end = begin + cuts.pop(0) if cuts else len(CONTENT)
        head = (
            f"HTTP/1.1 {status}\r\nETag: {changes.get('current', etag)}\r\n{more}"
            f"Content-Length: {len(CONTENT) - begin}\r\n\r\n"
        )
        handler.raw(head.encode(), CONTENT[begin:end])

    server.routes["/broken"] = route
    return server.url("/broken")


def ranges_of(server: LocalServer) -> list[str | None]:
    return [headers.get("Range") for _, headers in server.requests]


def test_of_what_breaks_off_the_rest_is_asked_for(server: LocalServer) -> None:
    cuts = [1000, 1, 50_000, 20, 3000]
    response, taken = fetch(breaking(server, list(cuts)))
    assert taken.data == CONTENT
    assert taken.begun == 1
    assert response.sha256 == hashlib.sha256(CONTENT).hexdigest()
    assert (response.size, response.etag) == (len(CONTENT), '"v1"')
    assert ranges_of(server) == [None, *(f"bytes={sum(cuts[:n])}-" for n in range(1, 6))]


def test_another_version_begins_anew(server: LocalServer) -> None:
    """If-Range does not match: the server sends all of what it has now."""
    first = server.url("/broken")

    def old(handler: Handler) -> None:
        breaking(server, [], etag='"v2"')
        handler.raw(b'HTTP/1.1 200 OK\r\nETag: "v1"\r\nContent-Length: 9\r\n\r\n', b"old")

    server.routes["/broken"] = old
    response, taken = fetch(first)
    assert taken.data == CONTENT
    assert taken.begun == 2
    assert response.etag == '"v2"'
    assert ranges_of(server) == [None, "bytes=3-"]


@pytest.mark.parametrize("etag", ['W/"v1"', "", "v1"])
def test_without_a_strong_version_all_is_asked_for_again(server: LocalServer, etag: str) -> None:
    _, taken = fetch(breaking(server, [1000], etag=etag))
    assert taken.data == CONTENT
    assert ranges_of(server) == [None, None]


def test_a_rest_that_begins_elsewhere_is_not_taken(server: LocalServer) -> None:
    _, taken = fetch(breaking(server, [1000], shown="999"))
    assert taken.data == CONTENT
    assert taken.begun == 2
    assert ranges_of(server) == [None, "bytes=1000-", None]


@pytest.mark.parametrize(
    "claim", ["bytes 1000-1999/102400", "bytes 1000-1999/2000", "bytes 1000-1999/*", "bytes 1000-"]
)
def test_a_part_of_the_rest_is_not_taken_for_all_of_it(server: LocalServer, claim: str) -> None:
    """A server may send less than was asked for (RFC 9110, 15.3.7)."""

    def route(handler: Handler) -> None:
        head, end = f"200 OK\r\nContent-Length: {len(CONTENT)}", len(CONTENT)
        begin = 0
        if handler.headers["Range"]:
            head, begin, end = "206 Partial\r\nContent-Length: 1000", 1000, 2000
            head += f"\r\nContent-Range: {claim}"
        elif len(server.requests) == 1:
            end = 1000
        handler.raw(f'HTTP/1.1 {head}\r\nETag: "v1"\r\n\r\n'.encode(), CONTENT[begin:end])

    server.routes["/part"] = route
    response, taken = fetch(server.url("/part"))
    assert (taken.data, response.size) == (CONTENT, len(CONTENT))
    assert ranges_of(server) == [None, "bytes=1000-", None]


def test_a_server_that_always_cuts_off_is_given_up(server: LocalServer) -> None:
    with pytest.raises(NetworkError, match="ended"):
        fetch(breaking(server, [1] * 1000))
    assert len(server.requests) == RESUMES_MAX + ATTEMPTS
    server.requests.clear()
    with pytest.raises(NetworkError, match="ended"):
        fetch(breaking(server, [10, *[0] * 1000]))
    assert len(server.requests) == 1 + ATTEMPTS


def test_how_much_is_there_is_told(server: LocalServer) -> None:
    told: list[tuple[int, int | None]] = []
    taken = Taken()
    url = breaking(server, [1000])
    body = Body(taken.begin, taken.write, lambda done, total: told.append((done, total)))
    Downloader(HttpSettings(pause=lambda _: None)).fetch(Wanted(url), body)
    assert {total for _, total in told} == {len(CONTENT)}
    assert told[0][0] <= 1000
    assert told[-1][0] == len(CONTENT)
    assert [done for done, _ in told] == sorted({done for done, _ in told})


def test_errors_of_servers(server: LocalServer) -> None:
    for status, requests in ((500, 1), (404, 1), (403, 1), (503, 3), (429, 3), (204, 1), (206, 1)):
        server.requests.clear()
        server.routes["/x"] = lambda handler, status=status: handler.answer(b"", status=status)
        with pytest.raises(NetworkError, match=f"says {status}"):
            fetch(server.url("/x"))
        assert len(server.requests) == requests


@pytest.mark.parametrize("length", [str(1 << 62), str((1 << 20) + 1)])
def test_claims_beyond_the_limit_are_not_read(server: LocalServer, length: str) -> None:
    with pytest.raises(LimitExceededError, match=f"it has {length} bytes"):
        fetch(server.file("/x", b"", Content_Length=length))


def test_bodies_without_an_end(server: LocalServer) -> None:
    def route(handler: Handler) -> None:
        handler.raw(b"HTTP/1.0 200 OK\r\n\r\n", *[bytes(1 << 16)] * 100)

    server.routes["/x"] = route
    with pytest.raises(LimitExceededError, match="does not end"):
        fetch(server.url("/x"))


@pytest.mark.parametrize(
    "pieces",
    [
        [b"HTTP/1.1 100 Continue\r\n\r\n" * 1000] * 200,
        [b"HTTP/1.1 200 OK\r\n", *[b"X: %s\r\n" % (b"x" * 60_000)] * 100],
        [b"HTTP/1.1 200 OK\r\n", b"X: " + b"x" * 200_000],
        [b"SSH-2.0-OpenSSH_9.2\r\n"],
        [b"\r\n\r\n"],
        [b"HTTP/1.1 20x OK\r\n\r\n"],
        [b""],
        [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"-5\r\nx"],
        [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"zz\r\nx"],
    ],
)
def test_servers_that_do_not_speak_http(server: LocalServer, pieces: list[bytes]) -> None:
    server.routes["/x"] = lambda handler: handler.raw(*pieces)
    with pytest.raises(NetworkError, match="cannot fetch http"):
        fetch(server.url("/x"))


def test_a_silent_server_is_given_up(server: LocalServer) -> None:
    def route(handler: Handler) -> None:
        handler.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab")
        handler.rfile.read(1)  # until the client has gone

    server.routes["/x"] = route
    with pytest.raises(NetworkError, match="sends nothing any more"):
        fetch(server.url("/x"), silence_s=0.5)


def test_a_trickle_is_given_up() -> None:
    seconds = iter(range(0, 10_000, 25))
    with GuardedStream(io.BytesIO(b"x" * 100), 60.0, lambda: float(next(seconds))) as stream:
        stream.body_begins()
        buffer = memoryview(bytearray(1))
        assert stream.readinto(buffer) == stream.readinto(buffer) == stream.readinto(buffer) == 1
        with pytest.raises(NetworkError, match="too slow: 3 bytes in 75 seconds"):
            stream.readinto(buffer)


def test_headers_have_to_end() -> None:
    """However much comes: a head is at most a mebibyte, which takes its time at the least pace."""
    seconds = iter(range(0, 10_000, 10))
    head = io.BytesIO(b"X: x\r\n" * 10_000)
    with GuardedStream(head, 30.0, lambda: float(next(seconds))) as stream:
        buffer = memoryview(bytearray(15_000))
        for _ in range(3):
            stream.readinto(buffer)
        with pytest.raises(SlowServerError, match="headers have no end after 30 seconds"):
            stream.readinto(buffer)


def test_who_reads_slowly_is_not_told_that_the_server_is_slow() -> None:
    now_s = 0.0
    with GuardedStream(io.BytesIO(b"x" * 100), 60.0, lambda: now_s) as stream:
        stream.body_begins()
        while stream.readinto(memoryview(bytearray(1))):
            now_s += 100.0


def test_a_slow_server_is_not_asked_forever(server: LocalServer) -> None:
    """It has another byte each time, by which a broken line would be worth any number of tries."""

    def route(handler: Handler) -> None:
        handler.raw(b'HTTP/1.1 200 OK\r\nContent-Length: 9\r\nETag: "a"\r\n\r\na')
        handler.rfile.read(1)

    server.routes["/x"] = route
    with pytest.raises(NetworkError, match="sends nothing any more"):
        fetch(server.url("/x"), silence_s=0.5)
    until = time.monotonic() + 60
    while len(server.requests) < SLOW_TRIES and time.monotonic() < until:
        time.sleep(0.01)  # on a busy host it may not have looked at the last one yet
    assert len(server.requests) == SLOW_TRIES


def test_a_steady_stream_is_not() -> None:
    seconds = iter(range(0, 10_000, 25))
    with GuardedStream(io.BytesIO(bytes(10 << 20)), 60.0, lambda: float(next(seconds))) as stream:
        stream.body_begins()
        buffer = memoryview(bytearray(1 << 16))
        while stream.readinto(buffer):
            pass


def test_certificates_are_checked(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    with serving(context) as server:
        url = server.file("/x", b"content")
        with pytest.raises(
            NetworkError, match=r"certificate of 127.0.0.1:[0-9]+ is not trusted"
        ) as caught:
            fetch(url)
        assert "SSL_CERT_FILE" in (caught.value.hint or "")
        trusting = lambda _: ssl.create_default_context(cafile=cert)  # noqa: E731
        assert fetch(url, tls=trusting)[1].data == b"content"
        with serving() as plain:
            plain.file("/x", b"other")
            down = server.redirect("/down", plain.url("/x"))
            with pytest.raises(NetworkError, match="redirects from HTTPS to http:"):
                fetch(down, tls=trusting)
            assert plain.requests == []
            assert fetch(down, tls=trusting, pinned=True)[1].data == b"other"


def test_a_proxy_is_asked(server: LocalServer) -> None:
    server.routes["http://example.invalid/x"] = lambda handler: handler.answer(b"by proxy")
    proxies = {"http_proxy": server.url("").replace("://", "://user:pass@")}
    assert fetch("http://example.invalid/x", proxies=proxies)[1].data == b"by proxy"
    (_, headers), *_ = server.requests
    assert headers["Proxy-Authorization"] == "Basic dXNlcjpwYXNz"
    with pytest.raises(InputError, match="not an HTTP proxy"):
        fetch("http://example.invalid/x", proxies={"all_proxy": "socks5://127.0.0.1:1"})


def test_nobody_listens(server: LocalServer) -> None:
    url = server.url("/x")
    server.server_close()
    with pytest.raises(
        NetworkError, match=r"no connection with 127.0.0.1:[0-9]+: Connection refused"
    ):
        fetch(url)
