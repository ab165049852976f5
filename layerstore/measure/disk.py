"""What lies under a store's root, by what it is for: sizes as the host counts them.

One walk, names taken as they are, links never followed, other file systems
(mounted views) never entered, hard links counted once. Files that others make or
remove meanwhile are counted or not; each file is looked at once, so sums are
consistent in themselves. The walk makes no change and takes no lock.
"""

from __future__ import annotations

import contextlib
import operator
import os
import stat
from typing import TYPE_CHECKING, NamedTuple

from layerstore.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SECTOR_BYTES = 512
"""Unit of ``st_blocks`` (stat(2)), whatever the file system's block size."""

PATH_TOLD_CHARACTERS = 4096
"""What lies deeper goes by the directory above it: thousands of such paths would fill memory."""

# A character is at most four bytes, and a path that is opened at most 4096.
_LONG_PATH = 1000
_NAME_MAX = 255
_BY_NAME = operator.itemgetter(0)
_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class FileSize(NamedTuple):
    """One inode under the root.

    Attributes:
        path: Relative to the root, as the host names it; of what is too far down, that of a
            directory above it.
        apparent_size: ``st_size`` of a regular file or symlink, 0 for anything else.
        allocated_size: Bytes of the blocks the file system allocates for it.
    """

    path: str
    apparent_size: int
    allocated_size: int
    is_directory: bool


def walk_sizes(root: Path) -> list[FileSize]:
    """Return every inode under ``root`` once, the root itself included.

    However deep: a container may nest directories until no path reaches the last.

    Raises:
        StorageError: The root cannot be read.
    """
    try:
        info = os.lstat(root)
    except OSError as err:
        raise StorageError(f"cannot read {root}: {err.strerror}") from err
    # Tens of thousands of unpacked files pass here: one loop, no call for each.
    found = [FileSize("", 0, info.st_blocks * SECTOR_BYTES, is_directory=True)]
    device, seen = info.st_dev, set[int]()
    pending = [("", "", "")]
    while pending:
        above, parent, name = pending.pop()
        path = parent + name
        below = []
        prefix = f"{path}/" if path else ""
        is_long = len(prefix) > PATH_TOLD_CHARACTERS - _NAME_MAX
        for name, info in _children(str(root), path):
            allocated = info.st_blocks * SECTOR_BYTES
            if info.st_dev != device:
                continue
            told = above if is_long else prefix + name
            if stat.S_ISDIR(info.st_mode):
                found.append(FileSize(told, 0, allocated, is_directory=True))
                below.append((told, prefix, name))
                continue
            if info.st_nlink > 1:
                if info.st_ino in seen:
                    continue
                seen.add(info.st_ino)
            has_bytes = stat.S_ISREG(info.st_mode) or stat.S_ISLNK(info.st_mode)
            size = info.st_size if has_bytes else 0
            found.append(FileSize(told, size, allocated, is_directory=False))
        pending += reversed(below)
    return found


def _children(root: str, path: str) -> list[tuple[str, os.stat_result]]:
    """Return what a directory below the root holds, sorted by name."""
    found = []
    try:
        with _listed(root, path) as items:
            for item in items:
                try:
                    found.append((item.name, item.stat(follow_symlinks=False)))
                except OSError:
                    continue  # removed since, or a dead mount: not ours to count
    except FileNotFoundError:
        return []  # removed since its parent was listed
    except OSError as err:
        where = f"{root}/{path[:PATH_TOLD_CHARACTERS]}".rstrip("/")
        raise StorageError(f"cannot read {where}: {err.strerror}") from err
    found.sort(key=_BY_NAME)
    return found


@contextlib.contextmanager
def _listed(root: str, path: str) -> Iterator[Iterator[os.DirEntry[str]]]:
    """Give a directory's entries; one that is too far down for a path is opened in steps."""
    if len(root) + len(path) < _LONG_PATH:
        with os.scandir(f"{root}/{path}" if path else root) as items:
            yield items
        return
    fd = os.open(root, _OPEN)
    try:
        rest = os.fsencode(path)
        while rest:
            cut = rest.rindex(b"/", 0, _LONG_PATH) if len(rest) > _LONG_PATH else len(rest)
            below = os.open(rest[:cut], _OPEN | os.O_NOFOLLOW, dir_fd=fd)
            os.close(fd)
            fd, rest = below, rest[cut + 1 :]
        with os.scandir(fd) as items:
            yield items
    finally:
        os.close(fd)
