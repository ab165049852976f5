"""A process held by a descriptor: it names nobody else when the process has gone."""

from __future__ import annotations

import ctypes
import os

from layerstore.linux.libc import libc

_SYS_PIDFD_GETFD = 438  # of every architecture


def take_descriptor(pidfd: int, number: int) -> int:
    """Return a duplicate of a process's descriptor, sharing its offset and flags; close on exec.

    Args:
        pidfd: The process, of ``os.pidfd_open``.
        number: Its descriptor.

    Raises:
        OSError: It has none, we may not trace it, or Linux is older than 5.6.
    """
    fd: int = libc.syscall(_SYS_PIDFD_GETFD, pidfd, number, 0)
    if fd < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return fd
