"""Removing a directory tree made by somebody else: any depth, links never followed.

``shutil.rmtree`` recurses and costs a fast path its import; a writable layer may be ten
thousand directories deep and is written by whatever ran in it. On the fast path.
"""

from __future__ import annotations

import array
import contextlib
import errno
import fcntl
import os
import stat

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OWNER_ALL = 0o700
_FS_IOC_GETFLAGS = 0x80086601
_FS_IOC_SETFLAGS = 0x40086602
_KEPT_FLAGS = 0x10 | 0x20
"""FS_IMMUTABLE_FL and FS_APPEND_FL (ioctl_iflags(2)): chattr +i and +a forbid removal."""


_REMOVALS_MAX = 8
"""Attempts at removing what somebody else removes at the same time; the rest is left."""


def remove_tree(path: str) -> None:
    """Remove ``path`` and all below it; harmless when it is gone.

    Deep directories are moved up to the top as they are met, so that neither paths nor
    open descriptors grow with the depth. Mounts below are not crossed.

    Raises:
        OSError: Something could not be removed (EBUSY below a mount, EPERM if immutable).
    """
    try:
        top = os.open(path, _DIRECTORY)
    except FileNotFoundError:
        return
    try:
        device = os.fstat(top).st_dev
        moved = 0
        while names := os.listdir(top):
            for name in names:
                if not _remove_name(name, top):
                    moved = _hoist_children(name, top, device, moved)
    finally:
        os.close(top)
    os.rmdir(path)


def _remove_name(name: str, parent: int) -> bool:
    """Remove a file or an empty directory; False for a directory that holds something."""
    try:
        return _try_to_remove(name, parent)
    except PermissionError:
        _make_removable(name, parent)
        return _try_to_remove(name, parent)


def _try_to_remove(name: str, parent: int) -> bool:
    try:
        os.unlink(name, dir_fd=parent)
    except FileNotFoundError:
        pass
    except IsADirectoryError:
        try:
            os.rmdir(name, dir_fd=parent)
        except OSError as err:
            if err.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                raise
            return False
    return True


def _make_removable(name: str, parent: int) -> None:
    """Take the flags off a name and its directory that forbid removing it."""
    _clear_flags(parent)
    mode = os.lstat(name, dir_fd=parent).st_mode
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):  # nothing else has flags, or may be opened
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            _clear_flags(fd)
        finally:
            os.close(fd)


def _clear_flags(fd: int) -> None:
    flags = array.array("l", [0])
    with contextlib.suppress(OSError):  # a file system without flags
        fcntl.ioctl(fd, _FS_IOC_GETFLAGS, flags)
        if flags[0] & _KEPT_FLAGS:
            flags[0] &= ~_KEPT_FLAGS
            fcntl.ioctl(fd, _FS_IOC_SETFLAGS, flags)


def _hoist_children(name: str, top: int, device: int, moved: int) -> int:
    """Empty one directory: files go, its own directories move up beside it."""
    with contextlib.suppress(OSError):
        os.chmod(name, _OWNER_ALL, dir_fd=top)  # mode 000 stops an owner who is not root
    fd = os.open(name, _DIRECTORY, dir_fd=top)
    try:
        if os.fstat(fd).st_dev != device:
            raise OSError(errno.EBUSY, "a file system is mounted inside", name)
        _clear_flags(fd)
        for child in os.listdir(fd):
            if not _remove_name(child, fd):
                moved += 1
                # A fresh name: what was hoisted before may be called the same.
                os.rename(child, f".hoisted-{moved}-{os.getpid()}", src_dir_fd=fd, dst_dir_fd=top)
    finally:
        os.close(fd)
    return moved


def remove_leftover(path: str) -> None:
    """Remove a file or a tree that somebody else may be removing too, as far as that is possible.

    What something is mounted in, or what another member of a shared store closed to others,
    is left to a later attempt, or to them.
    """
    for _ in range(_REMOVALS_MAX):
        try:
            if stat.S_ISDIR(os.lstat(path).st_mode):
                remove_tree(path)
            else:
                os.unlink(path)
        except FileNotFoundError:
            continue  # it, or something in it: look again
        except OSError as err:
            if err.errno == errno.ENOTEMPTY:
                continue
            # Something is mounted there, or it is another member's of a shared store: the
            # next gc's, or theirs.
            if err.errno not in {errno.EBUSY, errno.EACCES, errno.EPERM}:
                raise
        return


def tree_size(path: str) -> int:
    """Return the bytes of a file or of all files below a directory.

    What vanishes meanwhile, as the remains of a killed build do while its reaper is at
    work, and what lies deeper than a path can say counts nothing.
    """
    total = 0
    todo = [path]
    while todo:
        here = todo.pop()
        with contextlib.suppress(OSError):
            status = os.lstat(here)
            if stat.S_ISDIR(status.st_mode):
                todo.extend(f"{here}/{name}" for name in os.listdir(here))
            else:
                total += status.st_size
    return total
