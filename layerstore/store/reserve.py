"""A little room set aside, so that gc can begin on a disk without any.

Freeing a pack begins with a commit, and a commit needs blocks and file names for SQLite's
log. ``reserve/`` holds as much; removing names and gc give it up when the disk is full, and
gc sets it aside again when it is done. Nothing depends on it: without it gc asks for room outside.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from layerstore.linux.files import make_private_dir, open_private, remove_if_present

if TYPE_CHECKING:
    from layerstore.store.paths import StorePaths

RESERVE_BYTES = 512 * 1024
"""Enough for a commit that touches a hundred pages, with its log's index."""

_NAMES = ("space", "name-1", "name-2")
"""One file of bytes, and names: a file system may run out of inodes first."""


def set_aside(paths: StorePaths) -> None:
    """Make what is missing of the reserve if there is room; nothing is waited for."""
    with contextlib.suppress(OSError):
        make_private_dir(paths.reserve, durable=False)
        for name in _NAMES:
            fd = open_private(f"{paths.reserve}/{name}", os.O_WRONLY | os.O_CREAT)
            try:
                if name == _NAMES[0] and os.fstat(fd).st_blocks * 512 < RESERVE_BYTES:
                    os.posix_fallocate(fd, 0, RESERVE_BYTES)
            finally:
                os.close(fd)


def give_up(paths: StorePaths) -> bool:
    """Free the reserve if the disk is all but full; return whether it was."""
    status = os.statvfs(paths.root)
    enough = status.f_bavail * status.f_frsize > 2 * RESERVE_BYTES
    if enough and (status.f_favail > len(_NAMES) or not status.f_files):
        return False
    freed = [remove_if_present(f"{paths.reserve}/{name}") for name in _NAMES]
    return any(freed)
