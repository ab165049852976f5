"""What lies under a store's root, by what it is for: sizes as the host counts them.

One walk, names taken as they are, links never followed, other file systems
(mounted views) never entered, hard links counted once. Files that others make or
remove meanwhile are counted or not; each file is looked at once, so sums are
consistent in themselves. The walk makes no change and takes no lock.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, NamedTuple

from layerstore.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SECTOR_BYTES = 512
"""Unit of ``st_blocks`` (stat(2)), whatever the file system's block size."""


class FileSize(NamedTuple):
    """One inode under the root.

    Attributes:
        path: Relative to the root, as the host names it.
        apparent_size: ``st_size`` of a regular file or symlink, 0 for anything else.
        allocated_size: Bytes of the blocks the file system allocates for it.
    """

    path: str
    apparent_size: int
    allocated_size: int
    is_directory: bool


def walk_sizes(root: Path) -> Iterator[FileSize]:
    """Yield every inode under ``root`` once, the root itself included.

    Raises:
        StorageError: The root cannot be read.
    """
    try:
        info = os.lstat(root)
    except OSError as err:
        raise StorageError(f"cannot read {root}: {err.strerror}") from err
    yield FileSize("", 0, info.st_blocks * SECTOR_BYTES, is_directory=True)
    yield from _walk(str(root), "", info.st_dev, set())


def _walk(host: str, prefix: str, device: int, seen: set[int]) -> Iterator[FileSize]:
    try:
        children = sorted(os.scandir(host), key=lambda item: item.name)
    except FileNotFoundError:
        return  # removed since its parent was listed
    except OSError as err:
        raise StorageError(f"cannot read {host}: {err.strerror}") from err
    for item in children:
        try:
            info = item.stat(follow_symlinks=False)
        except OSError:
            continue  # removed since, or a dead mount: not ours to count
        if info.st_dev != device or (info.st_nlink > 1 and info.st_ino in seen):
            continue
        path = prefix + item.name
        if stat.S_ISDIR(info.st_mode):
            yield FileSize(path, 0, info.st_blocks * SECTOR_BYTES, is_directory=True)
            yield from _walk(item.path, path + "/", device, seen)
            continue
        seen.add(info.st_ino)
        has_bytes = stat.S_ISREG(info.st_mode) or stat.S_ISLNK(info.st_mode)
        yield FileSize(
            path,
            info.st_size if has_bytes else 0,
            info.st_blocks * SECTOR_BYTES,
            is_directory=False,
        )
