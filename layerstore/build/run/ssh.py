"""Agent forwarding for ``RUN --mount=type=ssh``: a socket of ours in front of an agent.

A step gets a socket with the owner and mode it asks for, and behind it one of the agents
that the command line named: the user's own, or an ssh-agent of the build's that holds keys
from files. Through the socket a step may list keys and have things signed. Everything else,
such as adding, removing or locking keys, is answered with a failure before an agent sees it.

Sockets are made and mounted in the sandbox's thread; who listens are threads of the builder,
which end when the step does. Messages are bounded as OpenSSH bounds them.

Source: SSH agent protocol (draft-ietf-sshm-ssh-agent), sections 3 and 5.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
from typing import TYPE_CHECKING

from layerstore.errors import BuildError

if TYPE_CHECKING:
    from collections.abc import Callable

    Connect = Callable[[], socket.socket]

FAILURE = b"\x05"
REQUEST_IDENTITIES = 11
SIGN_REQUEST = 13
_ALLOWED = (REQUEST_IDENTITIES, SIGN_REQUEST)
_LENGTH = struct.Struct(">I")
_MESSAGE_MAX_BYTES = 256 << 10
_CONNECTIONS_MAX = 64
"""At once; a step that opens more waits."""


class AgentSocket:
    """A socket that a step finds, and the agent behind it.

    Made in the sandbox's thread, :meth:`serve` is called where threads may be started. Use
    :meth:`close` when the step is over: then its connections end, too.

    Args:
        directory: An open directory.
        name: Of the socket, which is made there.
        connect: Returns a connection to the agent.
    """

    def __init__(self, directory: int, name: str, connect: Connect) -> None:
        self._connect = connect
        self._slots = threading.BoundedSemaphore(_CONNECTIONS_MAX)
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._closed = False
        self._threads: list[threading.Thread] = []
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            # By descriptor: names of sockets may have 107 bytes, and stores may lie deep.
            self._listener.bind(f"/proc/self/fd/{directory}/{name}")
            self._listener.listen(_CONNECTIONS_MAX)
        except BaseException:
            self._listener.close()
            raise

    def serve(self) -> None:
        """Answer whoever connects, in threads."""
        self._begin(self._accept)

    def close(self) -> None:
        """Take no more connections and end those there are; harmless when repeated."""
        with self._lock:
            self._closed = True
            for connection in (self._listener, *self._open):
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def _begin(self, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, name="ssh-agent-socket", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            self._slots.acquire()
            try:
                connection, _ = self._listener.accept()
            except OSError:  # closed
                return
            self._begin(lambda connection=connection: self._answer(connection))  # type: ignore[misc]

    def _answer(self, client: socket.socket) -> None:
        with contextlib.ExitStack() as stack:
            stack.callback(self._slots.release)
            self._keep(client, stack)
            agent: socket.socket | None = None
            with contextlib.suppress(OSError, ValueError):
                while (request := read_message(client)) is not None:
                    reply: bytes | None = FAILURE
                    if request[:1] and request[0] in _ALLOWED:
                        if agent is None:
                            agent = self._connect()
                            self._keep(agent, stack)
                        write_message(agent, request)
                        reply = read_message(agent)
                    if reply is None:
                        return
                    write_message(client, reply)

    def _keep(self, connection: socket.socket, stack: contextlib.ExitStack) -> None:
        """Close a connection with the stack; until then :meth:`close` can end it."""
        with self._lock:
            self._open.add(connection)
            if self._closed:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        stack.callback(self._drop, connection)

    def _drop(self, connection: socket.socket) -> None:
        with self._lock:
            self._open.discard(connection)
            connection.close()


def read_message(stream: socket.socket) -> bytes | None:
    """Return the next message of the agent protocol without its length, None at the end.

    Raises:
        ValueError: Longer than an agent takes.
        OSError: The connection broke.
    """
    head = _read_exactly(stream, _LENGTH.size)
    if head is None:
        return None
    (length,) = _LENGTH.unpack(head)
    if length > _MESSAGE_MAX_BYTES:
        raise ValueError("an agent's message is longer than agents take")
    return _read_exactly(stream, length)


def write_message(stream: socket.socket, message: bytes) -> None:
    """Send one message of the agent protocol.

    Raises:
        OSError: The connection broke.
    """
    stream.sendall(_LENGTH.pack(len(message)) + message)


def _read_exactly(stream: socket.socket, length: int) -> bytes | None:
    data = bytearray()
    while len(data) < length:
        piece = stream.recv(length - len(data))
        if not piece:
            return None
        data += piece
    return bytes(data)


def connector(path: str) -> Connect:
    """Return a function that connects to the agent at ``path``."""

    def connect() -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(path)
        except OSError:
            connection.close()
            raise
        return connection

    return connect


def require_agent(identity: str, path: str) -> None:
    """Refuse an agent that nobody can be asked at.

    Raises:
        BuildError: Nobody listens there.
    """
    try:
        connector(path)().close()
    except OSError as err:
        why = os.strerror(err.errno or 0)
        raise BuildError(
            f"the ssh agent {identity!r} cannot be reached at {path}: {why}",
            hint="start one and add a key: eval $(ssh-agent); ssh-add",
        ) from err
