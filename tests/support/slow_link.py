"""A TCP port that leads to another one as if that were far away; counts what comes back."""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_READ_BYTES = 1 << 16
_PIECES = 256
"""Pieces under way in one direction of a connection: 16 MiB, more than any window."""


class SlowLink:
    """Forwards connections, every byte half a round trip late; bandwidth is what the host has.

    Attributes:
        port: Of 127.0.0.1.
        received: Bytes that came back from the server.
        sent: Bytes that went there.
        connections: That were made.
    """

    def __init__(self, target: int, round_trip_s: float) -> None:
        self._target = target
        self._round_trip_s = round_trip_s
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        self.received = self.sent = self.connections = 0
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Take no more connections."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def take(self) -> tuple[int, int, int]:
        """Return bytes received, bytes sent and connections since the last call."""
        with self._lock:
            taken = self.received, self.sent, self.connections
            self.received = self.sent = self.connections = 0
        return taken

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with self._lock:
            self.connections += 1
        time.sleep(self._round_trip_s)  # the handshake of TCP
        try:
            server = socket.create_connection(("127.0.0.1", self._target))
        except OSError:
            client.close()
            return
        for each in (client, server):
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        ways = [
            threading.Thread(target=self._way, args=pair, daemon=True)
            for pair in ((client, server, "sent"), (server, client, "received"))
        ]
        for way in ways:
            way.start()
        for way in ways:
            way.join()
        client.close()
        server.close()

    def _way(self, source: socket.socket, target: socket.socket, counter: str) -> None:
        pieces: queue.Queue[tuple[float, bytes]] = queue.Queue(_PIECES)
        sender = threading.Thread(target=_deliver, args=(pieces, target), daemon=True)
        sender.start()
        piece = b"x"
        while piece:
            try:
                piece = source.recv(_READ_BYTES)
            except OSError:
                piece = b""
            with self._lock:
                setattr(self, counter, getattr(self, counter) + len(piece))
            pieces.put((time.monotonic() + self._round_trip_s / 2, piece))
        sender.join()


def _deliver(pieces: queue.Queue[tuple[float, bytes]], target: socket.socket) -> None:
    """Send pieces when they are due; an empty one ends this direction."""
    broken = False
    while True:
        due, piece = pieces.get()
        if not piece:
            with contextlib.suppress(OSError):
                target.shutdown(socket.SHUT_WR)
            return
        if not broken:
            time.sleep(max(0.0, due - time.monotonic()))
            try:
                target.sendall(piece)
            except OSError:
                broken = True


@contextlib.contextmanager
def slow_link(target: int, round_trip_s: float) -> Iterator[SlowLink]:
    """Give a link to a local port until the block ends."""
    link = SlowLink(target, round_trip_s)
    try:
        yield link
    finally:
        link.close()
