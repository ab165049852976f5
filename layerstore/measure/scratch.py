"""Directories for stores that live as long as a question.

Who is killed leaves a directory behind; the next one that makes one in the same place removes
it. What tells is a lock, which the kernel drops with its holder.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
from typing import TYPE_CHECKING

from layerstore.linux.locks import FileLock, LockBusyError
from layerstore.store.failures import storage_errors

if TYPE_CHECKING:
    from collections.abc import Iterator

PREFIX = "layerstore-savings-"
_LOCK = "lock"


@contextlib.contextmanager
def scratch_directory(where: str) -> Iterator[str]:
    """Give a directory of our own below ``where``, and remove it and what is in it.

    Raises:
        StorageError: It cannot be made there.
    """
    with storage_errors(f"make a scratch directory in {where}"):
        _remove_left(where)
        path, lock = _locked(where)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        lock.close()


def _locked(where: str) -> tuple[str, FileLock]:
    """Make a directory and hold its lock."""
    while True:
        path = tempfile.mkdtemp(prefix=PREFIX, dir=where)
        lock = FileLock(f"{path}/{_LOCK}")
        # Between its making and its locking another process may have taken it for left behind.
        if os.path.exists(f"{path}/{_LOCK}"):
            return path, lock
        lock.close()


def _remove_left(where: str) -> None:
    """Remove what killed processes of this user left here."""
    with os.scandir(where) as entries:
        left = [entry.path for entry in entries if _is_ours(entry)]
    for path in left:
        if not os.path.exists(f"{path}/{_LOCK}"):
            continue  # somebody is just making it
        with contextlib.suppress(LockBusyError, OSError), FileLock(f"{path}/{_LOCK}", wait=False):
            shutil.rmtree(path, ignore_errors=True)


def _is_ours(entry: os.DirEntry[str]) -> bool:
    if not entry.name.startswith(PREFIX):
        return False
    with contextlib.suppress(OSError):
        status = entry.stat(follow_symlinks=False)
        return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()
    return False
