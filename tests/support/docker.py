"""A dockerd of a test's own: data, state, socket and containerd under its own directories.

It has no network, and is ended by its process id; the containerd that it starts ends with it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

SECONDS = 60.0
DOCKER = "/usr/bin/docker"
DOCKERD = "/usr/sbin/dockerd"

needs_dockerd = [
    pytest.mark.root,
    pytest.mark.peers,
    pytest.mark.skipif(os.geteuid() != 0, reason="dockerd needs root"),
    pytest.mark.skipif(
        not (os.path.exists(DOCKERD) and os.path.exists(DOCKER)),
        reason="Debian's docker.io is not installed",
    ),
]


class Docker:
    """A client of a running daemon.

    Attributes:
        address: Where it listens, ``unix://PATH``.
    """

    def __init__(self, address: str) -> None:
        self.address = address

    def __call__(self, *words: str | Path) -> str:
        """Run a command that must succeed; return what it printed."""
        done = self.run(*words)
        assert done.returncode == 0, f"docker {words}: {done}"
        return done.stdout

    def run(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        """Run a command whatever comes of it."""
        return subprocess.run(
            [DOCKER, "--host", self.address, *map(str, words)],
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )


@contextlib.contextmanager
def docker_daemon(data: Path) -> Iterator[Docker]:
    """Run a daemon whose images lie in ``data``; everything else lies under a short path of ours.

    The names of sockets may have 107 bytes only.
    """
    state = Path(tempfile.mkdtemp(prefix="docker-", dir="/tmp"))
    address = f"unix://{state}/docker.sock"
    command = [DOCKERD, "--data-root", str(data), "--exec-root", str(state / "exec")]
    command += ["--pidfile", str(state / "pid"), "--host", address, "--bridge=none"]
    command += ["--iptables=false", "--ip6tables=false"]
    with (state / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    docker = Docker(address)
    try:
        until = time.monotonic() + SECONDS
        while docker.run("version").returncode != 0:
            tail = (state / "log").read_text(errors="replace")[-500:]
            if process.poll() is not None:
                pytest.skip(f"dockerd does not start here: {tail}")
            assert time.monotonic() < until, tail
            time.sleep(0.1)
        yield docker
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(SECONDS)
        if process.poll() is None:
            process.kill()
            process.wait()
        shutil.rmtree(state, ignore_errors=True)
