"""Removing a directory tree made by somebody else: any depth, links never followed.

``shutil.rmtree`` recurses and costs a fast path its import; a writable layer may be ten
thousand directories deep and is written by whatever ran in it. On the fast path.
"""

from __future__ import annotations

import contextlib
import os
import stat

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OWNER_ALL = 0o700


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
        os.unlink(name, dir_fd=parent)
    except IsADirectoryError:
        try:
            os.rmdir(name, dir_fd=parent)
        except OSError as err:
            if not stat.S_ISDIR(os.lstat(name, dir_fd=parent).st_mode):
                raise
            if err.errno not in {39, 17}:  # ENOTEMPTY, EEXIST
                raise
            return False
    except FileNotFoundError:
        pass
    return True


def _hoist_children(name: str, top: int, device: int, moved: int) -> int:
    """Empty one directory: files go, its own directories move up beside it."""
    with contextlib.suppress(OSError):
        os.chmod(name, _OWNER_ALL, dir_fd=top)  # mode 000 stops an owner who is not root
    fd = os.open(name, _DIRECTORY, dir_fd=top)
    try:
        if os.fstat(fd).st_dev != device:
            raise OSError(16, "a file system is mounted inside", name)  # EBUSY
        for child in os.listdir(fd):
            if not _remove_name(child, fd):
                moved += 1
                # A fresh name: what was hoisted before may be called the same.
                os.rename(child, f".hoisted-{moved}-{os.getpid()}", src_dir_fd=fd, dst_dir_fd=top)
    finally:
        os.close(fd)
    return moved


__all__ = ["remove_tree"]
