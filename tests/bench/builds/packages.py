"""A proxy for packages that fetches each URL once, so that no network is measured.

apt asks it as an HTTP proxy. pip and npm, which would ask over TLS, get it as their index and
registry: what they need is fetched from the ones this host uses, with links rewritten. What was
fetched stays in a directory, and later runs are served from there. It listens on localhost only
and its work is nobody's: it runs in the benchmark's process.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import threading
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Self
from urllib.parse import urljoin, urlsplit

if TYPE_CHECKING:
    from pathlib import Path

_TIMEOUT_SECONDS = 120
_HREF = re.compile(rb'href="([^"#]+)')
_TARBALL = re.compile(rb'"tarball":\s*"([^"]+)"')
_PIP_ACCEPT = "application/vnd.pypi.simple.v1+html, text/html;q=0.1"


class PackageCache:
    """Serves packages on a port of its own; use it in a ``with`` block.

    Args:
        directory: Where what was fetched lies.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.fetched = 0
        self._locks: dict[str, threading.Lock] = {}
        self._guard = threading.Lock()
        self._registries: dict[str, str] = {}
        cache = self

        class Handler(_Handler):
            packages = cache

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def pip_configuration(self) -> bytes:
        """Return a pip.conf that names this cache as the index."""
        return f"[global]\nindex-url = {self.url}/pip/\ntrusted-host = 127.0.0.1\n".encode()

    def npm_configuration(self) -> bytes:
        """Return an npmrc that names this cache as the registry."""
        return f"registry={self.url}/npm/\n".encode()

    def answer(self, path: str) -> tuple[int, bytes]:
        """Return status and body of what a client asked for."""
        path = path.removeprefix(self.url)  # asked as the proxy of itself
        if path.startswith("http://"):
            return self._get(path)
        kind, _, rest = path.lstrip("/").partition("/")
        if kind == "file":
            return self._get(_unpacked(rest))
        if kind == "pip":
            page = urljoin(self._registry("pip"), rest)
            status, body = self._get(page, _PIP_ACCEPT)
            return status, _HREF.sub(lambda found: self._local(b'href="', found[1], page), body)
        if kind == "npm":
            page = urljoin(self._registry("npm"), rest)
            status, body = self._get(page)
            return status, _TARBALL.sub(
                lambda found: self._local(b'"tarball":"', found[1], page) + b'"', body
            )
        return 404, b"unknown"

    def _local(self, before: bytes, link: bytes, page: str) -> bytes:
        target = urlsplit(urljoin(page, link.decode()))
        query = f"?{target.query}" if target.query else ""
        local = f"{self.url}/file/{target.scheme}/{target.netloc}{target.path}{query}"
        return before + local.encode()

    def _registry(self, kind: str) -> str:
        with self._guard:
            if kind not in self._registries:
                self._registries[kind] = _REGISTRIES[kind]().rstrip("/") + "/"
            return self._registries[kind]

    def _get(self, url: str, accept: str = "*/*") -> tuple[int, bytes]:
        name = hashlib.sha256(f"{url} {accept}".encode()).hexdigest()
        with self._guard:
            lock = self._locks.setdefault(name, threading.Lock())
        with lock:
            place, told = self.directory / name, self.directory / f"{name}.json"
            if told.exists():
                status = int(json.loads(told.read_text())["status"])
                return status, place.read_bytes()
            status, body = _fetch(url, accept)
            self.fetched += 1
            place.write_bytes(body)
            told.write_text(json.dumps({"url": url, "status": status}))
            return status, body


class _Handler(BaseHTTPRequestHandler):
    packages: PackageCache
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        try:
            status, body = self.packages.answer(self.path)
        except OSError as err:
            status, body = 502, str(err).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if self.path.removeprefix(self.packages.url).startswith("/pip/"):
            self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(body)

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- its name above
        """Say nothing: the benchmark's output is the result."""


def _fetch(url: str, accept: str) -> tuple[int, bytes]:
    request = urllib.request.Request(url, headers={"Accept": accept})
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as err:
        if err.code >= 500:
            raise
        return err.code, err.read()


def _unpacked(rest: str) -> str:
    scheme, _, where = rest.partition("/")
    return f"{scheme}://{where}"


def _pip_index() -> str:
    configured = os.environ.get("PIP_INDEX_URL") or _asked(
        "pip3", "config", "get", "global.index-url"
    )
    if configured:
        return configured
    from pip._internal.models.index import PyPI

    return PyPI.simple_url


def _npm_registry() -> str:
    return _asked("npm", "config", "get", "registry")


def _asked(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip()


_REGISTRIES = {"pip": _pip_index, "npm": _npm_registry}
