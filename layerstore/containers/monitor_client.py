"""Who is attached to a container's monitor, and what it has still to be sent.

Like :mod:`layerstore.containers.monitor`, whose messages these are, of modules written in C only.
"""

from __future__ import annotations

import _socket
import errno


class Client:
    """Somebody attached: what it has still to be sent, and whether it may write."""

    def __init__(self, sock: _socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.queue: list[bytes] = []
        self.queued = 0
        self.is_quiet = False
        self._is_gone = False

    def send(self, message: bytes) -> None:
        """Send a message as soon as it fits."""
        self.queue.append(message)
        self.queued += len(message)
        self.flush()

    def flush(self) -> bool:
        """Send what fits; return False when the client is gone, now or the last time."""
        while self.queue and not self._is_gone:
            try:
                self.sock.send(self.queue[0], _socket.MSG_NOSIGNAL)
            except BlockingIOError:
                return True
            except OSError as err:
                if err.errno == errno.ENOBUFS:
                    return True
                self._is_gone = True
                break
            self.queued -= len(self.queue.pop(0))
        if self._is_gone:
            self.queue.clear()
            self.queued = 0
        return not self._is_gone
