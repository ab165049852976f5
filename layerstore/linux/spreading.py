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


_GROUP_INODES = 8192
"""Inodes of a block group, as mke2fs(8) makes it for blocks of 4 KiB; or a part of them."""

_FRESH_INODES = 16
"""A group whose first free inodes are all among so many has few that were deleted lately."""

_PROBES = 4
"""The first free inode alone may be one that was deleted long ago, before many that were not."""

_TRIES = 8


def spread_children(directory: str) -> bool:
    """Have directories in ``directory`` placed anywhere on the disk, by their names.

    Returns:
        Whether the file system does so; others have no such flag.
    """
    flags = array.array("l", [0])
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.ioctl(fd, _FS_IOC_GETFLAGS, flags)
            if not flags[0] & _FS_TOPDIR_FL:
                flags[0] |= _FS_TOPDIR_FL
                fcntl.ioctl(fd, _FS_IOC_SETFLAGS, flags)
        except OSError:
            return False
        return True
    finally:
        os.close(fd)


def make_apart(path: str) -> None:
    """Make a directory in a spread one, in a group that nobody has used just now.

    Names alone lead two trees into one group now and then, and the later one's files then cost
    ten times as much or more. Which inodes a new directory and its first children get tells: the
    first ones that are free.

    Raises:
        OSError: As mkdir(2).
    """
    made: list[tuple[int, str]] = []
    for number in range(_TRIES):
        name = f"{path}.{number}" if number else path
        os.mkdir(name, 0o700)
        made.append((_looks(name), name))
        if made[-1][0] < _FRESH_INODES:
            break
    _, best = min(made)
    for _, name in made:  # kept until now: ext4 prefers groups with few directories
        if name != best:
            os.rmdir(name)
    if best != path:
        os.rename(best, path)


def _looks(directory: str) -> int:
    """Return how many inodes, about, ext4 looks at for the next file in an empty directory."""
    at = os.stat(directory).st_ino - 1
    group, place = divmod(at, _GROUP_INODES)
    if place >= _FRESH_INODES:
        return place  # it is slow there, and enough is known
    probes = [f"{directory}/{number}" for number in range(_PROBES)]
    try:
        for probe in probes:
            os.mkdir(probe, 0o700)
            there, place = divmod(os.stat(probe).st_ino - 1, _GROUP_INODES)
            if there != group:
                return _GROUP_INODES
        return place
    finally:
        for probe in probes:
            with contextlib.suppress(FileNotFoundError):
                os.rmdir(probe)
