"""Sockets of ours in the file system."""

from __future__ import annotations

import _socket  # without socket, whose enumerations take 4 ms to make
import os


def bind_private(path: str) -> _socket.socket:
    """Return a socket for packets, bound to a path where only its owner reaches it.

    It does not listen yet. The umask is the process's: no other thread may make files meanwhile.

    Raises:
        OSError: Something is at the path, its directory is missing, or it is too long.
    """
    bound = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
    old = os.umask(0o177)
    try:
        bound.bind(path)
    except BaseException:
        bound.close()
        raise
    finally:
        os.umask(old)
    return bound
