"""A dockerd of a test's own: data, state and socket under its directory, no network.

It starts a containerd of its own. What it mounts goes with it.
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

CLIENT = Path("/usr/bin/docker")
_START_SECONDS = 60
_STOP_SECONDS = 30

needs_docker = [
    pytest.mark.root,
    pytest.mark.peers,
    pytest.mark.skipif(os.geteuid() != 0, reason="dockerd needs root"),
    pytest.mark.skipif(
        shutil.which("dockerd") is None or not CLIENT.exists(), reason="docker.io is not installed"
    ),
]


@contextlib.contextmanager
def docker_daemon(data: Path) -> Iterator[list[str]]:
    """Run a daemon; give the client's command line."""
    state = Path(tempfile.mkdtemp(prefix="dockerd-", dir="/tmp"))  # sockets have short names
    host = f"unix://{state}/s"
    command = [
        *("dockerd", "--data-root", str(data), "--exec-root", str(state / "x")),
        *("--pidfile", str(state / "pid"), "--host", host, "--bridge=none"),
        *("--iptables=false", "--ip6tables=false", "--storage-driver=vfs"),
    ]
    client = [str(CLIENT), "--host", host]
    with (state / "log").open("wb") as log:
        daemon = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + _START_SECONDS
        while subprocess.run([*client, "version"], capture_output=True, check=False).returncode:
            if daemon.poll() is not None or time.monotonic() > deadline:
                pytest.skip(f"dockerd does not start here: {(state / 'log').read_text()[-500:]}")
            time.sleep(0.1)
        yield client
    finally:
        daemon.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            daemon.wait(_STOP_SECONDS)
        daemon.kill()
        daemon.wait()
        shutil.rmtree(state, ignore_errors=True)
        shutil.rmtree(data, ignore_errors=True)
