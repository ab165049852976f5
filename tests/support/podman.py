"""A podman of a test's own: storage, state and sockets under its directory, nothing of the host's.

Containers run by runc without a network of their own; limits are low ones, for
not every root may raise them.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import stat
import subprocess
import tempfile
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SECONDS = 120.0

needs_podman = [
    pytest.mark.root,
    pytest.mark.peers,
    pytest.mark.skipif(os.geteuid() != 0, reason="podman with its own overlays needs root"),
    pytest.mark.skipif(shutil.which("podman") is None, reason="podman is not installed"),
    pytest.mark.skipif(shutil.which("runc") is None, reason="runc is not installed"),
]


class Podman:
    """Runs podman over a storage of its own."""

    def __init__(self, base: Path, additional: Path | None = None) -> None:
        self.base = base
        base.mkdir(exist_ok=True)
        self.root = base / "root"
        # podman refuses a longer path than 50 characters.
        self._running = tempfile.mkdtemp(prefix="podman-", dir="/tmp")
        self._config = base / "storage.conf"
        more = f'additionalimagestores = ["{additional}"]' if additional else ""
        self._config.write_text(
            f'[storage]\ndriver = "overlay"\ngraphroot = "{self.root}"\n'
            f'runroot = "{self._running}"\n[storage.options]\n{more}\n'
        )
        (base / "containers.conf").write_text(
            '[containers]\ndefault_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]\n'
            'netns = "none"\ncgroupns = "host"\n'
        )
        # As options: the process that cleans up after a container is given these, and no variable.
        self.command = [
            *("podman", "--root", str(self.root), "--runroot", self._running),
            *("--storage-driver", "overlay", "--runtime", "runc", "--cgroup-manager", "cgroupfs"),
            *(("--storage-opt", f"additionalimagestore={additional}") if additional else ()),
        ]

    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "CONTAINERS_STORAGE_CONF": str(self._config),
            "CONTAINERS_CONF": str(self.base / "containers.conf"),
        }

    def __call__(self, *words: str | Path, check: bool = True) -> str:
        """Run a command and return what it printed."""
        done = self.run(*words)
        assert not check or done.returncode == 0, f"podman {words}: {done}"
        return done.stdout

    def run(self, *words: str | Path, program: str = "") -> subprocess.CompletedProcess[str]:
        """Run a command whatever comes of it; ``program`` is another that uses its storage."""
        return subprocess.run(
            [*([program] if program else self.command), *map(str, words)],
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )

    def json(self, *words: str | Path) -> list:
        return json.loads(self(*words))

    def names(self) -> set[str]:
        """Full names of the images it sees."""
        listed = self.json("images", "--format", "json")
        return {name for image in listed for name in image.get("Names") or ()}

    def ids(self) -> set[str]:
        """Ids of the images it sees, in hex."""
        return {image["Id"] for image in self.json("images", "--format", "json")}

    def stored_bytes(self) -> int:
        """What its own layers hold of files, whatever else it can see."""
        files = (path.lstat() for path in self.root.glob("overlay/*/diff/**/*"))
        return sum(status.st_size for status in files if stat.S_ISREG(status.st_mode))

    @contextmanager
    def service(self) -> Iterator[str]:
        """Serve its API on a socket; yield that as ``unix://PATH``."""
        address = f"unix://{self.base / 'podman.sock'}"
        server = subprocess.Popen(
            [*self.command, "system", "service", "--time=0", address],
            env=self.environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        try:
            _await(lambda: _listens(self.base / "podman.sock"), server)
            yield address
        finally:
            server.kill()
            server.wait()
            assert server.stderr is not None
            server.stderr.close()

    def close(self) -> None:
        """End every container and let go of every mount."""
        self.run("rm", "--all", "--force", "--time", "0")
        self.run("umount", "--all")
        for place in (self.root / "overlay", self.root):
            subprocess.run(["umount", "--lazy", str(place)], capture_output=True, check=False)
        shutil.rmtree(self._running, ignore_errors=True)


def _listens(path: Path) -> bool:
    """Whether somebody takes connections; a socket has its name before that."""
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0


def _await(ready: object, server: subprocess.Popen[bytes]) -> None:
    assert callable(ready)
    until = time.monotonic() + SECONDS
    while not ready():
        if server.poll() is not None:
            assert server.stderr is not None
            pytest.skip(f"podman serves nothing here: {server.stderr.read()[-300:]!r}")
        assert time.monotonic() < until
        time.sleep(0.02)
