"""Real git repositories and servers of them on this host."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import threading
from typing import TYPE_CHECKING, Self

import pytest

from tests.support.http_server import Handler, LocalServer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

COMMIT_S = 1_600_000_000


def _has_git_daemon() -> bool:
    if shutil.which("git") is None:
        return False
    tools = subprocess.run(["git", "--exec-path"], capture_output=True, check=True, text=True)
    return shutil.which("git-daemon", path=tools.stdout.strip()) is not None


needs_git = pytest.mark.skipif(not _has_git_daemon(), reason="git or git-daemon is not installed")

DIRECT = {**os.environ, "no_proxy": "*"}
"""This environment, in which servers of this host are asked without a proxy."""

_ENVIRONMENT = {
    "PATH": os.environ.get("PATH", ""),
    "HOME": "/nonexistent",
    "LC_ALL": "C",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@example.com",
    "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@example.com",
    "GIT_AUTHOR_DATE": f"{COMMIT_S} +0000", "GIT_COMMITTER_DATE": f"{COMMIT_S} +0000",
}  # fmt: skip


class Work:
    """A repository with a working tree, in which tests commit."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True)
        self.git("init", "--quiet", "-b", "main")

    def git(self, *words: str | Path, data: bytes | None = None) -> str:
        done = subprocess.run(
            ["git", "-c", "protocol.file.allow=always", *words],
            cwd=self.directory, env=_ENVIRONMENT, input=data, capture_output=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode().strip()

    def commit(self, files: Mapping[str, str | None], message: str = "m") -> str:
        """Write files (None removes one) and commit; return the commit."""
        for name, content in files.items():
            path = self.directory / name
            if content is None:
                path.unlink()
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        self.git("add", "-A")
        self.git("commit", "--quiet", "--allow-empty", "-m", message)
        return self.git("rev-parse", "HEAD")

    def tree(self, *entries: tuple[str, str, bytes]) -> str:
        """Write a tree object that git itself would not make; entries are (mode, id, name)."""
        data = b"".join(
            mode.encode() + b" " + name + b"\0" + bytes.fromhex(object_id)
            for mode, object_id, name in entries
        )
        return self.git("hash-object", "-t", "tree", "-w", "--literally", "--stdin", data=data)

    def blob(self, content: bytes) -> str:
        return self.git("hash-object", "-w", "--stdin", data=content)

    def commit_tree(self, tree: str) -> str:
        """Make ``main`` a commit of a tree."""
        commit = self.git("commit-tree", "-m", "m", tree)
        self.git("update-ref", "refs/heads/main", commit)
        return commit


class GitDaemon:
    """Serves a directory's repositories over git://, one process a connection."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve)
        self._children: list[subprocess.Popen[bytes]] = []
        self.connections = 0

    def url(self, path: str) -> str:
        return f"git://127.0.0.1:{self._socket.getsockname()[1]}/{path}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()
        for child in self._children:
            child.kill()
            child.wait()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.connections += 1
            with connection:
                command = ["git", "daemon", "--inetd", "--export-all", f"--base-path={self._root}"]
                self._children.append(
                    subprocess.Popen(
                        [*command, self._root], env=_ENVIRONMENT, stdin=connection.fileno(),
                        stdout=connection.fileno(), stderr=subprocess.DEVNULL,
                    )
                )  # fmt: skip


class _GitHandler(Handler):
    """git http-backend, as a web server would call it."""

    def do_GET(self) -> None:  # noqa: N802
        self._backend()

    do_POST = do_GET  # noqa: N815

    def _backend(self) -> None:
        server = self.server
        assert isinstance(server, GitHttpServer)
        server.requests.append((self.path, dict(self.headers)))
        if server.authorization not in (None, self.headers.get("Authorization")):
            self.answer(b"", status=401, WWW_Authenticate='Basic realm="x"')
            return
        path, _, query = self.path.partition("?")
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        environment = {
            **_ENVIRONMENT,
            "GIT_PROJECT_ROOT": str(server.root), "GIT_HTTP_EXPORT_ALL": "1", "PATH_INFO": path,
            "QUERY_STRING": query, "REQUEST_METHOD": self.command,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
        }  # fmt: skip
        done = subprocess.run(
            ["git", "http-backend"], env=environment, input=body, capture_output=True, check=False
        )
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        fields = dict(line.split(": ", 1) for line in head.decode().splitlines())
        status = int(fields.pop("Status", "200").split()[0])
        self.answer(content, status=status, **{k.replace("-", "_"): v for k, v in fields.items()})
        self.close_connection = True


class GitHttpServer(LocalServer):
    """Serves a directory's repositories over smart HTTP."""

    handler = _GitHandler

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root = root
        self.authorization: str | None = None


@contextlib.contextmanager
def serving_git(root: Path) -> Iterator[GitHttpServer]:
    with GitHttpServer(root) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
