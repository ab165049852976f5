"""A builder that is killed while it fetches leaves no process behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.git_server import needs_git

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    "source",
    [pytest.param("git://127.0.0.1:{port}/x", marks=needs_git),
     pytest.param("http://127.0.0.1:{port}/x.git", marks=needs_git),
     "http://127.0.0.1:{port}/x"],
)  # fmt: skip
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_holds_the_connection(tmp_path: Path, source: str, how: signal.Signals) -> None:
    """The connection ends only when every process that has it is gone."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(60)
        url = source.format(port=server.getsockname()[1])
        (tmp_path / "Dockerfile").write_text(f"FROM scratch\nADD {url} /x\n")
        command = [sys.executable, "-m", "layerstore", "--store", tmp_path / "store", "build"]
        environ = {**os.environ, "no_proxy": "*"}
        builder = subprocess.Popen([*command, tmp_path], env=environ, stderr=subprocess.PIPE)
        connection, _ = server.accept()
        with connection:
            connection.settimeout(60)
            assert connection.recv(1)  # the request: whoever fetches waits for an answer now
            builder.send_signal(how)
            while connection.recv(1 << 16):
                pass
        assert builder.wait(60) != 0
        assert builder.stderr is not None
        builder.stderr.close()
    if how is not signal.SIGKILL:
        assert not list((tmp_path / "store" / "tmp").iterdir())
