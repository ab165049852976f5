"""Whole-file locks between processes and threads, by flock(2).

A lock belongs to the open file description: two opens of one path exclude each
other even within one process, and the kernel drops the lock when the last
descriptor closes, so a killed holder never leaves one behind. Lock files are
never removed while they can be contended, except lease files (see
:mod:`layerstore.store.locks.leases`), whose names are never used twice. On the fast path.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os

from layerstore.light_typing import TYPE_CHECKING
from layerstore.linux.files import open_private

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self


_NO_FILE = (errno.ELOOP, errno.ENXIO)
"""What open(2) says of symlinks and sockets: neither can be held."""


class LockBusyError(OSError):
    """Another holder has the lock and waiting was not asked for."""


class FileLock:
    """A held flock. Close it to let go; leaving the context closes it."""

    __slots__ = ("_fd", "path")

    def __init__(self, path: str, *, shared: bool = False, wait: bool = True) -> None:
        """Open (making it if need be) and lock ``path``.

        Raises:
            LockBusyError: ``wait`` is false and somebody else holds it.
        """
        self.path = path
        self._fd = open_private(path, os.O_RDWR | os.O_CREAT)
        mode = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        try:
            fcntl.flock(self._fd, mode if wait else mode | fcntl.LOCK_NB)
        except BlockingIOError as err:
            self.close()
            raise LockBusyError(err.errno, "locked by another process", path) from err
        except BaseException:
            self.close()
            raise

    def fileno(self) -> int:
        """Return the descriptor: passing it to a child shares the lock with it."""
        return self._fd

    def close(self) -> None:
        """Let go of the lock; harmless when done before."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            # Linux lets go whatever it answers, and nothing was written.
            with contextlib.suppress(OSError):
                os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextlib.contextmanager
def exclusive(path: str) -> Iterator[None]:
    """Hold ``path`` exclusively, waiting for it."""
    with FileLock(path):
        yield


@contextlib.contextmanager
def shared(path: str) -> Iterator[None]:
    """Hold ``path`` together with other readers, waiting for a writer to leave."""
    with FileLock(path, shared=True):
        yield


def is_held(path: str) -> bool:
    """Return whether a living process holds ``path`` exclusively; False if it is absent.

    Opens without creating and asks for a shared lock, so two askers never see each other.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return False
    except OSError as err:
        if err.errno in _NO_FILE:
            return False
        raise
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False
