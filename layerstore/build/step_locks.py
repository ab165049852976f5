"""Who runs a step: of builds that want the same one at the same time, in one store, one does.

A step's key is a place in the file ``locks/steps``, which is always empty; whoever runs the
step has that byte locked. The lock is of the open file (OFD, fcntl(2)), so it ends with its
holder, however that ends, and threads of one process exclude each other.

No two builds wait for each other for ever: a step is locked when all its inputs are there,
and its holder waits for nothing but cache mounts, whose holders have their step locked
already (docs/decisions/0137).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
from typing import TYPE_CHECKING

from layerstore.linux.files import open_private
from layerstore.store.failures import storage_errors

if TYPE_CHECKING:
    from collections.abc import Iterator

    from layerstore.build.waiting import Patience

_PLACE_DIGITS = 15
"""Hexadecimal digits of a key that make its place: 60 bits, positive as an offset. Steps that
share one would wait for each other without need, and nothing worse."""


class StepLocks:
    """The step locks of a store.

    Args:
        path: The lock file.
        patience: How to wait.
    """

    def __init__(self, path: str, patience: Patience) -> None:
        self._path = path
        self._patience = patience

    @contextlib.contextmanager
    def held(self, key: str, label: str) -> Iterator[None]:
        """Hold the lock of a step, waiting for another build that runs it.

        Args:
            key: The step's key, which ends in hexadecimal digits.
            label: The step, for people.

        Raises:
            BuildCanceledError: This build ended while it waited.
            StorageError: The store cannot be written.
        """
        with storage_errors("lock a step"):
            fd = open_private(self._path, os.O_RDWR | os.O_CREAT)
        try:
            place = int(key[-_PLACE_DIGITS:], 16)
            self._patience.wait_for(
                lambda: _try_lock(fd, place), f"another build that runs the same step: {label}"
            )
            try:
                yield
            finally:  # by hand: a child that was forked meanwhile has the file open, too
                _set_lock(fd, fcntl.F_UNLCK, place)
        finally:
            os.close(fd)


def _set_lock(fd: int, kind: int, place: int) -> None:
    # struct flock: type, whence, start, length, pid, which must be 0 here.
    request = struct.pack("hhqqi4x", kind, os.SEEK_SET, place, 1, 0)
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, request)


def _try_lock(fd: int, place: int) -> bool | None:
    """Lock one byte of the file; None when somebody else has it."""
    try:
        _set_lock(fd, fcntl.F_WRLCK, place)
    except (BlockingIOError, PermissionError):  # EAGAIN or EACCES: locked
        return None
    return True
