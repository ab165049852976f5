"""Directories whose children ext4 puts far from each other.

ext4 gives nobody an inode that was deleted within the last minutes: each new file of a block
group looks at every recently deleted inode of that group first (``recently_deleted`` in
fs/ext4/ialloc.c). Who makes, fills and removes one large tree after another in one group pays
more for that than for the files. Why: docs/decisions/0164-scratch-lies-apart.md.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import os

_FS_IOC_GETFLAGS = 0x80086601
_FS_IOC_SETFLAGS = 0x40086602
_FS_TOPDIR_FL = 0x00020000
"""ioctl_iflags(2): what is made in here is the top of a hierarchy of its own."""


def spread_children(directory: str) -> None:
    """Have directories in ``directory`` placed anywhere on the disk, by their names.

    Nothing happens where the file system has no such flag.
    """
    flags = array.array("l", [0])
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):
            fcntl.ioctl(fd, _FS_IOC_GETFLAGS, flags)
            if not flags[0] & _FS_TOPDIR_FL:
                flags[0] |= _FS_TOPDIR_FL
                fcntl.ioctl(fd, _FS_IOC_SETFLAGS, flags)
    finally:
        os.close(fd)
