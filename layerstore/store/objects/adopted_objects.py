"""Files that lie unpacked elsewhere made objects of the tier, without writing them once more.

Whoever stored a directory's files and is about to remove it may give them away: a file whose
content is that of a missing object is renamed into the tier. It is read once more, and must
match. Nobody else may have the directory in hand, nor have it mounted.

As everywhere, content is on disk before it has a name in the tier: what changed since the caller
brought the directory to disk is passed over. A kill leaves objects that are whole, and a
directory that lacks them.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from typing import TYPE_CHECKING, Final

from layerstore.linux.files import (
    RESOLVE_BENEATH,
    RESOLVE_NO_SYMLINKS,
    directory,
    is_shared,
    make_private_dir,
    openat2,
)
from layerstore.linux.locks import FileLock
from layerstore.linux.xattrs import read_xattrs
from layerstore.store.failures import storage_errors
from layerstore.store.objects.objects import holds, object_id, present_objects

if TYPE_CHECKING:
    from collections.abc import Iterable

    from layerstore.digest import ObjectId
    from layerstore.store.objects.objects import Extents
    from layerstore.store.paths import StorePaths

_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CLOCK_STEP_NS: Final = 20_000_000
"""Two of the longest steps in which Linux counts the time of files (100 Hz)."""

_PASSED_OVER: Final = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EPERM, errno.EXDEV}
)
"""Files that are gone, other than they were, or flagged against renaming are not taken."""


def adopt_files(
    paths: StorePaths, root: str, files: Iterable[tuple[bytes, Extents]], *, on_disk_ns: int
) -> int:
    """Take files of a directory for objects that are missing; return how many were taken.

    The caller is in :func:`layerstore.store.objects.tier.kept_objects`.

    Args:
        paths: Of the store; its file system is the directory's.
        root: The directory, which is the caller's alone and about to be removed.
        files: Paths below it, neighbours together, with the content that they should have.
        on_disk_ns: When what was in it began to be brought to disk, since the epoch.

    Raises:
        StorageError: The store cannot be written.
    """
    with storage_errors("lock the objects"):
        lock = FileLock(paths.unpack_lock)
    with lock, storage_errors("take unpacked files"), directory(root) as top:
        taking = _Taking(paths, top, on_disk_ns - _CLOCK_STEP_NS)
        try:
            for path, extents in files:
                taking.offer(path, extents)
        finally:
            taking.close()
    return taking.taken


class _Taking:
    def __init__(self, paths: StorePaths, top: int, unchanged_since_ns: int) -> None:
        self._unchanged_since_ns = unchanged_since_ns
        self._tier = paths.objects
        self._top = top
        self._present = present_objects(paths)
        self._mode = 0o660 if is_shared(paths.objects) else 0o600
        self._parent = b""
        self._parent_fd = os.dup(top)
        self.taken = 0

    def close(self) -> None:
        os.close(self._parent_fd)

    def offer(self, path: bytes, extents: Extents) -> None:
        name = object_id(extents)
        if name in self._present:
            return
        parent, _, base = path.rpartition(b"/")
        try:
            self._enter(parent)
            self._take(base, name, extents)
        except OSError as err:
            if err.errno not in _PASSED_OVER:
                raise

    def _enter(self, parent: bytes) -> None:
        if parent == self._parent:
            return
        flags = os.O_RDONLY | os.O_DIRECTORY
        found = openat2(
            self._top, parent or b".", flags, resolve=RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS
        )
        os.close(self._parent_fd)
        self._parent, self._parent_fd = parent, found

    def _take(self, base: bytes, name: ObjectId, extents: Extents) -> None:
        fd = os.open(base, _READ, dir_fd=self._parent_fd)
        try:
            status = os.fstat(fd)
            # Of links to one file the first that was taken changed its time; it is present.
            if not stat.S_ISREG(status.st_mode) or status.st_ctime_ns > self._unchanged_since_ns:
                return
            if _is_written(fd) or not holds(fd, extents):
                return
            for attribute, _ in read_xattrs(fd):
                os.removexattr(fd, attribute)
            os.fchown(fd, os.geteuid(), os.getegid())
            os.fchmod(fd, self._mode)
        finally:
            os.close(fd)
        target = name.hex()
        prefix = f"{self._tier}/{target[:2]}"
        make_private_dir(prefix, durable=False)
        os.rename(base, f"{prefix}/{target}", src_dir_fd=self._parent_fd)
        self._present.add(name)
        self.taken += 1


def _is_written(fd: int) -> bool:
    """Whether anybody has a file open for writing, in whatever way.

    Only then a read lease is refused. It is not kept: nobody can open the file any more who
    has not opened it before.

    Source: fcntl(2), "Leases".
    """
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as err:
        if err.errno == errno.EAGAIN:
            return True
        return err.errno != errno.EINVAL  # a file system without leases
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return False
