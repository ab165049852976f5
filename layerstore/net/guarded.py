"""A connection whose other end is not trusted: how much it may send, and how slowly.

:mod:`http.client` reads status lines, headers and trailers for as long as they come. So what
it reads from is guarded here, below it: the head of a response is bounded in bytes and has to be
there within one window, and what comes then has to come at some pace in every window.
"""

from __future__ import annotations

import io
import time
from typing import TYPE_CHECKING

from layerstore.net.errors import NetworkError, SlowServerError

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

HEAD_MAX_BYTES = 1 << 20
"""Of status lines and headers until the body begins, interim responses included."""

MIN_BYTES_PER_S = 1000
"""Slower than this for a whole window is an attack or a dead line; git says the same."""

WINDOW_S = 30.0

_BUFFER_BYTES = 1 << 17


class GuardedSocket:
    """What :mod:`http.client` needs of a socket, with a guard on what comes in.

    Every response is read through a stream of its own, so that bounds begin anew.

    Args:
        sock: Connected; belongs to this object now.
        window_s: How long it may be slow, and how long a head may take, in seconds.
    """

    def __init__(self, sock: socket.socket, window_s: float = WINDOW_S) -> None:
        self._sock = sock
        self._window_s = window_s
        self._stream: GuardedStream | None = None
        self.sendall = sock.sendall

    def makefile(self, mode: str) -> io.BufferedReader:
        """Return the guarded reading end, which keeps the connection open until it is closed."""
        assert mode == "rb"
        self._stream = GuardedStream(self._sock.makefile("rb", buffering=0), self._window_s)
        return io.BufferedReader(self._stream, _BUFFER_BYTES)

    def body_begins(self) -> None:
        """End the bound on the head: what comes from now on is content."""
        if self._stream is not None:
            self._stream.body_begins()

    def close(self) -> None:
        """Close the connection, as soon as its reading end is closed."""
        self._sock.close()


class GuardedStream(io.RawIOBase):
    """The reading end of a :class:`GuardedSocket`; ``in_head`` says what is being read."""

    def __init__(
        self, raw: socket.SocketIO, window_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__()
        self._raw = raw
        self._window_s = window_s
        self._clock = clock
        self._has_begun = False
        self._waited_s = 0.0
        self._in_window = 0
        self._head_left = HEAD_MAX_BYTES
        self.in_head = True

    def body_begins(self) -> None:
        """End the bound on the head; the pace counts anew."""
        self.in_head = False
        self._has_begun, self._waited_s, self._in_window = False, 0.0, 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def close(self) -> None:
        """Let go of the connection."""
        self._raw.close()
        super().close()

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Read some bytes, as long as they come often enough and are not too many."""
        began = self._clock()
        try:
            count = self._raw.readinto(buffer) or 0
        except TimeoutError as err:
            raise SlowServerError("the server sends nothing any more") from err
        self._check_pace(count, self._clock() - began)
        if self.in_head:
            self._head_left -= count
            if self._head_left < 0:
                raise NetworkError(f"the response begins with more than {HEAD_MAX_BYTES} bytes")
        return count

    def _check_pace(self, count: int, waited_s: float) -> None:
        """Count what came, and how long it was waited for: not the time that we took ourselves."""
        if not self._has_begun:  # a server may think before it begins, not while it speaks
            self._has_begun = True
            return
        self._in_window += count
        self._waited_s += waited_s
        took = self._waited_s
        if took < self._window_s:
            return
        if self.in_head:
            raise SlowServerError(
                f"the server is too slow: its headers have no end after {took:.0f} seconds"
            )
        if self._in_window < took * MIN_BYTES_PER_S:
            raise SlowServerError(
                f"the server is too slow: {self._in_window} bytes in {took:.0f} seconds, "
                f"at least {MIN_BYTES_PER_S} a second are expected"
            )
        self._waited_s, self._in_window = 0.0, 0
