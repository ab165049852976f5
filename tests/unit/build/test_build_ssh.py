"""The socket in front of an ssh agent: what it lets through, and that it ends."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from layerstore.build.run.settings import SshSource
from layerstore.build.run.ssh import (
    FAILURE,
    REQUEST_IDENTITIES,
    SIGN_REQUEST,
    AgentSocket,
    read_message,
    require_agent,
    write_message,
)
from layerstore.cli.build.ssh_options import parse_ssh
from layerstore.errors import BuildError, InputError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Agent:
    """Answers every request with its bytes reversed, and remembers them."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.requests: list[bytes] = []
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(self.path)
        self._listener.listen()

    def serve_one(self) -> threading.Thread:
        """Answer one connection, in a thread."""

        def work() -> None:
            connection, _ = self._listener.accept()
            with connection:
                while (request := read_message(connection)) is not None:
                    self.requests.append(request)
                    write_message(connection, request[::-1])

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        return thread

    def connect(self) -> socket.socket:
        """Return a connection."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.connect(self.path)
        return connection

    def close(self) -> None:
        """Stop."""
        self._listener.close()


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    made = Agent(tmp_path / "real")
    yield made
    made.close()


@pytest.fixture
def front(tmp_path: Path, agent: Agent) -> Iterator[AgentSocket]:
    directory = os.open(tmp_path, os.O_RDONLY)
    made = AgentSocket(directory, "front", agent.connect)
    os.close(directory)
    made.serve()
    yield made
    made.close()


def client_of(tmp_path: Path) -> socket.socket:
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.connect(str(tmp_path / "front"))
    return client


@pytest.mark.usefixtures("front")
def test_keys_are_listed_and_used_and_nothing_else(tmp_path: Path, agent: Agent) -> None:
    thread = agent.serve_one()
    allowed = [bytes([REQUEST_IDENTITIES]), bytes([SIGN_REQUEST]) + b"payload"]
    others = [b"", *(bytes([kind]) for kind in range(256) if kind not in (11, 13))]
    with client_of(tmp_path) as client:
        for request in (*allowed, *others):
            write_message(client, request)
            assert read_message(client) == (request[::-1] if request in allowed else FAILURE)
    thread.join()
    assert agent.requests == allowed


@pytest.mark.usefixtures("front")
@pytest.mark.parametrize("sent", [b"\xff\xff\xff\xff" + b"x" * 64, b"\0\0\0\x09\x0b", b"\0\0"])
def test_what_is_no_message_ends_the_connection(tmp_path: Path, agent: Agent, sent: bytes) -> None:
    with client_of(tmp_path) as client:
        client.sendall(sent)
        client.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):  # what was sent was not all read
            assert client.recv(1) == b""
    assert agent.requests == []


def test_closing_ends_connections_that_wait(
    tmp_path: Path, agent: Agent, front: AgentSocket
) -> None:
    """The agent never answers, as one does that asks its user for leave."""
    with client_of(tmp_path) as client:
        write_message(client, bytes([REQUEST_IDENTITIES]))
        silent, _ = agent._listener.accept()
        with silent:
            assert read_message(silent) == bytes([REQUEST_IDENTITIES])
            front.close()
            assert client.recv(1) == b""
            assert silent.recv(1) == b""


def test_an_agent_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"'work' cannot be reached at .*: No such file"):
        require_agent("work", str(tmp_path / "none"))


def test_words_of_the_command_line(tmp_path: Path, agent: Agent) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.touch()
    two.touch()
    environ = {"SSH_AUTH_SOCK": agent.path}
    assert parse_ssh(["default", f"git={one},{two}", f"own={agent.path}"], environ) == {
        "default": SshSource(socket=agent.path),
        "git": SshSource(keys=(str(one), str(two))),
        "own": SshSource(socket=agent.path),
    }
    assert parse_ssh([], {}) == {}
    for words in (
        [""], ["=x"], ["a="], ["a", "a"], [f"a={tmp_path}"], [f"a={one},{agent.path}"],
        ["a=/nonexistent"],
    ):  # fmt: skip
        with pytest.raises(InputError):
            parse_ssh(words, environ)
    with pytest.raises(InputError, match=r"\$SSH_AUTH_SOCK is not set"):
        parse_ssh(["default"], {})
