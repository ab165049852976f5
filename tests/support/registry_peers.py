"""Debian's docker-registry for tests, with a port and directories of its own."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.support.http_server import certificate

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

USER, SECRET = "user", "s3cret-canary"
_HASHED = (
    "$2y$05$gzyWC624Ia38v1KXJBylxOQZKrEeF4R670fnnH3WN2GbFFWmeqVoK"
    """bcrypt of SECRET, by htpasswd(1)."""
)
START_SECONDS = 60

needs_registry = [
    pytest.mark.peers,
    pytest.mark.skipif(
        shutil.which("docker-registry") is None, reason="docker-registry is not installed"
    ),
]


@dataclass
class Server:
    """A running docker-registry.

    Attributes:
        name: ``host:port``.
        ca: Its authority.
        home: For the HOME of clients: files of its own.
        log: What it writes; see :meth:`told`.
        process: The server.
        sockets: How many it has while nobody talks to it.
    """

    name: str
    ca: Path
    home: Path
    log: Path
    process: subprocess.Popen[bytes]
    sockets: int

    @property
    def environment(self) -> dict[str, str]:
        """Variables of a layerstore that knows its authority."""
        return {
            "HOME": str(self.home), "XDG_CONFIG_HOME": "", "XDG_RUNTIME_DIR": "",
            "DOCKER_CONFIG": "", "REGISTRY_AUTH_FILE": "",
        }  # fmt: skip

    def told(self) -> str:
        """Return its log, with all that clients who have ended asked for.

        It logs a request once it has answered, which is after the client has the answer; but
        before it looks at the connection again, and finds it closed.
        """
        deadline = time.monotonic() + START_SECONDS
        while _sockets(self.process) > self.sockets and time.monotonic() < deadline:
            time.sleep(0.01)
        return self.log.read_text()

    def requests(self, method: str) -> list[str]:
        """Paths that were asked for by a method, in order."""
        found = re.findall(rf'"{method} (\S+) HTTP/1.1"', self.told())
        return [path for path in found if path != "/v2/"]


@contextlib.contextmanager
def docker_registry(tmp_path: Path) -> Iterator[Server]:
    """Start a registry with TLS by an authority of its own, and htpasswd."""
    place = tmp_path / "registry"
    place.mkdir()
    cert, key = certificate(place)
    (place / "htpasswd").write_text(f"{USER}:{_HASHED}\n")
    config = place / "config.json"  # YAML takes it
    config.write_text(json.dumps({
        "version": 0.1,
        "storage": {"filesystem": {"rootdirectory": str(place / "data")}},
        "http": {"addr": "127.0.0.1:0", "tls": {"certificate": str(cert), "key": str(key)}},
        "auth": {"htpasswd": {"realm": "test", "path": str(place / "htpasswd")}},
    }))  # fmt: skip
    log = place / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            ["docker-registry", "serve", str(config)], stdout=out, stderr=out
        )
    try:
        port = _wait_for(log, rb"listening on 127\.0\.0\.1:(\d+)", process).decode()
        home = tmp_path / "home"
        (home / ".config/layerstore").mkdir(parents=True)
        (home / ".config/layerstore/registries.toml").write_text(
            f'[registry."127.0.0.1:{port}"]\nca = "{cert}"\n'
        )
        yield Server(f"127.0.0.1:{port}", cert, home, log, process, _sockets(process))
    finally:
        process.terminate()
        process.wait(START_SECONDS)


def _sockets(process: subprocess.Popen[bytes]) -> int:
    found = 0
    for number in os.listdir(f"/proc/{process.pid}/fd"):
        with contextlib.suppress(FileNotFoundError):  # closed since
            found += os.readlink(f"/proc/{process.pid}/fd/{number}").startswith("socket:")
    return found


def _wait_for(log: Path, pattern: bytes, process: subprocess.Popen[bytes]) -> bytes:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if found := re.search(pattern, log.read_bytes()):
            return found.group(1)
        time.sleep(0.02)
    raise AssertionError(f"it does not start: {log.read_text()[-2000:]}")


def skopeo(server: Server, *words: str) -> str:
    """Run skopeo as somebody who is logged in."""
    files = server.home / "skopeo"
    files.mkdir(exist_ok=True)
    shutil.copy(server.ca, files / "ca.crt")
    prefix = {"inspect": "", "copy": "dest-", "login": ""}[words[0]]
    options = [f"--{prefix}cert-dir={files}"]
    if words[0] == "copy":
        options.append(f"--src-cert-dir={files}")
    done = subprocess.run(
        ["skopeo", words[0], *options, *words[1:]],
        capture_output=True,
        check=False,
        env={**os.environ, "REGISTRY_AUTH_FILE": str(server.home / "auth.json")},
    )
    assert done.returncode == 0, f"skopeo {words}: {done.stderr.decode()}"
    return done.stdout.decode()
