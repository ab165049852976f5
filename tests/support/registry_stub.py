"""A registry in this process that tests can fill, watch and break.

It speaks the distribution spec as far as clients use it, with basic or token authentication, and
remembers every request with every header. Faults are handed to it: each is for requests that match
it and lasts for so many of them. Several of them, under names of any host, make a :class:`World`.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import itertools
import json
import re
import socket
import ssl
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from layerstore.net.connection import dial
from layerstore.net.transport import HttpSettings, Transport
from layerstore.registry.client import RegistryClient
from layerstore.registry.host import Surroundings
from layerstore.registry.hosts import Registries

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from layerstore.registry.credentials import Credentials

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
USER, SECRET = "user", "s3cret-canary"


@dataclass
class Seen:
    """A request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    size: int = 0

    @property
    def authorization(self) -> str:
        return self.headers.get("Authorization", "")


@dataclass
class Fault:
    """Something wrong with the requests that match.

    Attributes:
        method: As a pattern.
        path: As a pattern, searched for.
        act: Answers instead of the registry, or returns False to let it answer.
        times: How many requests it is for.
    """

    method: str
    path: str
    act: Callable[[Stub], bool | None]
    times: int = 1


@dataclass
class Repository:
    """What a stub has of a repository."""

    blobs: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[str, tuple[bytes, str]] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)


class Stub(BaseHTTPRequestHandler):
    """One connection to a :class:`StubRegistry`."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: StubRegistry

    def handle_any(self) -> None:
        registry = self.server
        self.body = self._body()
        seen = Seen(self.command, self.path, dict(self.headers), len(self.body))
        with registry.lock:
            registry.requests.append(seen)
            fault = registry.take_fault(self.command, self.path)
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            if fault is not None and fault.act(self) is not False:
                return
            self.serve()

    do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = handle_any  # noqa: N815 -- http.server's names

    def serve(self) -> None:
        """Answer as a registry does."""
        registry = self.server
        url = urlsplit(self.path)
        self.query = {name: values[0] for name, values in parse_qs(url.query).items()}
        if url.path == "/token":
            self.token()
            return
        if not registry.lets_in(self.headers.get("Authorization", "")):
            self.answer(401, b"", {"WWW-Authenticate": registry.challenge(url.path)})
            return
        match = re.fullmatch(r"/v2/(.+)/(blobs|manifests|tags|referrers)/(.*)", url.path)
        if url.path == "/v2/":
            self.answer(200, b"{}")
        elif upload := re.fullmatch(r"/v2/(.+)/blobs/uploads/(.*)", url.path):
            self.upload(upload.group(1), upload.group(2))
        elif match is None:
            self.unknown("NAME_UNKNOWN")
        else:
            name, kind, rest = match.groups()
            getattr(self, f"serve_{kind}")(registry.repository(name), rest)

    def serve_blobs(self, repository: Repository, digest: str) -> None:
        data = repository.blobs.get(digest)
        if data is None:
            self.unknown("BLOB_UNKNOWN")
            return
        headers = {"Docker-Content-Digest": digest, "Content-Type": "application/octet-stream"}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted is None:
            self.answer(200, data, headers)
            return
        start, last = int(wanted.group(1)), int(wanted.group(2) or len(data) - 1)
        headers["Content-Range"] = f"bytes {start}-{last}/{len(data)}"
        self.answer(206, data[start : last + 1], headers)

    def serve_manifests(self, repository: Repository, reference: str) -> None:
        if self.command == "PUT":
            digest = "sha256:" + hashlib.sha256(self.body).hexdigest()
            repository.manifests[digest] = self.body, self.headers["Content-Type"]
            if ":" not in reference:
                repository.tags[reference] = digest
            self.answer(201, b"", {"Docker-Content-Digest": digest})
            return
        digest = repository.tags.get(reference, reference)
        if digest not in repository.manifests:
            self.unknown("MANIFEST_UNKNOWN")
            return
        data, kind = repository.manifests[digest]
        self.answer(200, data, {"Docker-Content-Digest": digest, "Content-Type": kind})

    def serve_tags(self, repository: Repository, _rest: str) -> None:
        names = sorted(repository.tags)
        last, count = self.query.get("last", ""), self.server.page
        rest = [name for name in names if name > last]
        headers = {}
        if len(rest) > count:
            path = urlsplit(self.path).path
            headers["Link"] = f'<{path}?last={rest[count - 1]}>; rel="next"'
        self.answer(200, json.dumps({"tags": rest[:count]}).encode(), headers)

    def serve_referrers(self, _repository: Repository, _digest: str) -> None:
        self.unknown("UNSUPPORTED")

    def upload(self, name: str, session: str) -> None:
        registry = self.server
        repository = registry.repository(name)
        if self.command == "POST":
            source = registry.repositories.get(self.query.get("from", ""))
            digest = self.query.get("mount", "")
            if source is not None and digest in source.blobs:
                repository.blobs[digest] = source.blobs[digest]
                self.answer(201, b"", {"Location": f"/v2/{name}/blobs/{digest}"})
                return
            session = str(next(registry.sessions))  # uploads begin beside each other
            registry.uploads[session] = b""
            self.answer(202, b"", {"Location": f"/v2/{name}/blobs/uploads/{session}?s=1"})
            return
        data = registry.uploads[session]
        if self.command == "PATCH" and int(self.headers["Content-Range"].split("-")[0]) != len(
            data
        ):
            self.answer(416, b"")
            return
        registry.uploads[session] = data = data + self.body
        location = f"/v2/{name}/blobs/uploads/{session}?s=1"
        if self.command in ("PATCH", "GET"):
            status = 202 if self.command == "PATCH" else 204
            headers = {"Location": location, "Range": f"0-{max(0, len(data) - 1)}"}
            self.answer(status, b"", headers)
            return
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        if digest != self.query.get("digest"):
            self.error(400, "DIGEST_INVALID")
            return
        repository.blobs[digest] = data
        self.answer(201, b"", {"Docker-Content-Digest": digest})

    def token(self) -> None:
        registry = self.server
        if self.command == "POST":
            form = {name: values[0] for name, values in parse_qs(self.body.decode()).items()}
            known = SECRET in (form.get("password"), form.get("refresh_token"))
        else:
            known = self.headers.get("Authorization", "") == registry.basic
            known = known or (registry.anonymous and not self.headers.get("Authorization"))
        if not known:
            self.error(401, "UNAUTHORIZED")
            return
        token = f"token-{len(registry.tokens)}"
        registry.tokens.append(token)
        self.answer(200, json.dumps({"token": token, "expires_in": 300}).encode())

    def unknown(self, code: str) -> None:
        self.error(404, code)

    def error(self, status: int, code: str, headers: dict[str, str] | None = None) -> None:
        document = {"errors": [{"code": code, "message": code.lower().replace("_", " ")}]}
        self.answer(status, json.dumps(document).encode(), headers)

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        """Send a response; a header that is given replaces ours, and None leaves it out."""
        every = {"Content-Length": str(len(body)), **(headers or {})}
        self.send_response(status)
        for name, value in every.items():
            if value is not None:
                self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def hang_up(self) -> None:
        """End the connection."""
        self.close_connection = True
        self.wfile.flush()
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            pieces = []
            while size := int(self.rfile.readline(), 16):
                pieces.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(pieces)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class StubRegistry(ThreadingHTTPServer):
    """See the module.

    Attributes:
        auth: ``""``, ``basic`` or ``bearer``.
        realm: Of the token server; this one by default.
        anonymous: Tokens are given to anybody.
        page: Tags on a page.
    """

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, auth: str = "", context: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Stub)
        self.auth = auth
        self.anonymous = False
        self.page = 100
        self.scheme = "https" if context else "http"
        self.realm = f"{self.scheme}://{self.name}/token"
        self.lock = threading.Lock()
        self.requests: list[Seen] = []
        self.faults: list[Fault] = []
        self.repositories: dict[str, Repository] = {}
        self.uploads: dict[str, bytes] = {}
        self.sessions = itertools.count()
        self.tokens: list[str] = []
        self.basic = "Basic " + base64.b64encode(f"{USER}:{SECRET}".encode()).decode()
        if context is not None:
            self.socket = context.wrap_socket(
                self.socket, server_side=True, do_handshake_on_connect=False
            )

    @property
    def name(self) -> str:
        return f"127.0.0.1:{self.server_port}"

    def repository(self, name: str) -> Repository:
        return self.repositories.setdefault(name, Repository())

    def put_blob(self, name: str, data: bytes) -> str:
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        self.repository(name).blobs[digest] = data
        return digest

    def put_manifest(self, name: str, data: bytes, tag: str = "", kind: str = MANIFEST) -> str:
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        repository = self.repository(name)
        repository.manifests[digest] = data, kind
        if tag:
            repository.tags[tag] = digest
        return digest

    def challenge(self, path: str) -> str:
        if self.auth == "basic":
            return 'Basic realm="stub"'
        name = path.removeprefix("/v2/").partition("/")[0]
        return f'Bearer realm="{self.realm}",service="stub",scope="repository:{name}:pull"'

    def lets_in(self, authorization: str) -> bool:
        if self.auth == "basic":
            return authorization == self.basic
        if self.auth == "bearer":
            return authorization.removeprefix("Bearer ") in self.tokens
        return True

    def break_(
        self, path: str, act: Callable[[Stub], bool | None], method: str = ".*", times: int = 1
    ) -> None:
        """Have something go wrong."""
        self.faults.append(Fault(method, path, act, times))

    def take_fault(self, method: str, path: str) -> Fault | None:
        for fault in self.faults:
            if fault.times and re.fullmatch(fault.method, method) and re.search(fault.path, path):
                fault.times -= 1
                return fault
        return None

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is part of the tests."""


@contextlib.contextmanager
def stub_registry(auth: str = "", context: ssl.SSLContext | None = None) -> Iterator[StubRegistry]:
    with StubRegistry(auth, context) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class World:
    """Servers under names of hosts and at addresses of our choice.

    Attributes:
        pauses: What the client waited, in seconds.
        notes: What it told.
    """

    def __init__(self) -> None:
        self.places: dict[str, tuple[int, str]] = {}
        self.pauses: list[float] = []
        self.notes: list[str] = []

    def put(self, host: str, server: StubRegistry, address: str = "192.0.2.1") -> None:
        self.places[host] = server.server_port, address

    def dial(self, host: str, port: int, timeout_s: float) -> tuple[socket.socket, str]:
        if host not in self.places:
            return dial(host, port, timeout_s)
        own, address = self.places[host]
        return dial("127.0.0.1", own, timeout_s)[0], address

    def transport(self, registries: Registries, **settings: object) -> Transport:
        def tls(authority: str) -> ssl.SSLContext:
            context = registries.tls(authority)
            if authority.partition(":")[0] in self.places:  # their certificates are for others
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
            return context

        known = {"tls": tls, "dial": self.dial, "pause": self.pauses.append, "silence_s": 20.0}
        return Transport(HttpSettings(**{**known, **settings}))  # type: ignore[arg-type]

    @contextlib.contextmanager
    def client(
        self,
        credentials: Credentials | None = None,
        registries: Registries | None = None,
        **settings: object,
    ) -> Iterator[RegistryClient]:
        registries = registries or Registries()
        around = Surroundings(
            transport=self.transport(registries, **settings),
            registries=registries,
            credentials=credentials,
            note=self.notes.append,
        )
        with contextlib.closing(RegistryClient(around)) as client:
            yield client


# -- what goes wrong


def cut_at(count: int) -> Callable[[Stub], None]:
    """Send so many bytes of the response, head included, and hang up."""

    def act(stub: Stub) -> None:
        real, left = stub.wfile, count

        class Cut:
            def write(self, data: bytes) -> int:
                nonlocal left
                real.write(data[:left])
                left = max(0, left - len(data))
                return len(data)

            def flush(self) -> None:
                real.flush()

        stub.wfile = Cut()  # type: ignore[assignment]
        try:
            stub.serve()
        finally:
            stub.wfile = real
            stub.hang_up()

    return act


def slow(seconds: float) -> Callable[[Stub], None]:
    """Send the head of the response, then a byte now and then."""

    def act(stub: Stub) -> None:
        stub.send_response(200)
        stub.send_header("Content-Length", "1000000")
        stub.end_headers()
        for _ in range(1000):
            stub.wfile.write(b"x")
            time.sleep(seconds)

    return act


def slowly(begins: bytes, seconds: float) -> Callable[[Stub], None]:
    """Send the beginning of a right answer, byte after byte, until the client has gone."""

    def act(stub: Stub) -> None:
        stub.send_response(200)
        stub.send_header("Content-Length", "100000")
        stub.end_headers()
        with contextlib.suppress(OSError):
            for byte in begins:
                stub.wfile.write(bytes([byte]))
                time.sleep(seconds)

    return act


def says(status: int, body: bytes = b"", **headers: str) -> Callable[[Stub], None]:
    """Answer with this; ``Retry_After`` is the header ``Retry-After``."""
    renamed = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda stub: stub.answer(status, body, renamed)


def altered(change: Callable[[bytes], bytes], **headers: str) -> Callable[[Stub], None]:
    """Answer as ever, but with another body, and headers in which nobody would notice."""

    def act(stub: Stub) -> None:
        real = stub.answer

        def answer(status: int, body: bytes, given: dict[str, str] | None = None) -> None:
            renamed = {name.replace("_", "-"): value for name, value in headers.items()}
            real(status, change(body), {**(given or {}), **renamed})

        stub.answer = answer  # type: ignore[method-assign]
        try:
            stub.serve()
        finally:
            del stub.answer  # type: ignore[attr-defined]

    return act
