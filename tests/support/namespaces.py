"""A mount table of a test's own."""

from __future__ import annotations

import contextlib
import ctypes
import os
from typing import TYPE_CHECKING

from layerstore.linux import mounts
from layerstore.linux.namespaces import CLONE_NEWNS, CLONE_NEWUSER, unshare

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_CLONE_FS = 0x200


def enter_private_mount_namespace() -> None:
    """Give this process its own mount table, which ends with it; call it before threads start."""
    unshare(CLONE_NEWNS)
    mounts.set_propagation("/", mounts.MS_SLAVE)


@contextlib.contextmanager
def private_mount_table() -> Iterator[None]:
    """Give this thread, and what it starts, a mount table of its own for a while.

    Mounts made inside are not copied into namespaces that other tests make meanwhile, which
    would keep them, and the servers behind them, alive.
    """
    before = os.open("/proc/thread-self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        place = os.getcwd()
        enter_private_mount_namespace()
        try:
            yield
        finally:
            unshare(_CLONE_FS)  # threads that began inside share our root and directory
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.setns(ctypes.c_int(before), ctypes.c_int(CLONE_NEWNS)) != 0:
                code = ctypes.get_errno()
                raise OSError(code, os.strerror(code))
            os.chdir(place)
    finally:
        os.close(before)


def enter_user_namespace(namespace: int) -> None:
    """Become root of a user namespace, by its descriptor; for good."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(ctypes.c_int(namespace), ctypes.c_int(CLONE_NEWUSER)) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    os.setgroups([])
    os.setgid(0)
    os.setuid(0)


def forget_mounts_but(kept: str) -> None:
    """In a mount namespace of one's own: let go of other tests' mounts, which it has copies of."""
    mounts.set_propagation("/", mounts.MS_PRIVATE)
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        points = [line.split()[4] for line in file]
    for point in reversed(points):
        if "/pytest-of-" in point and not point.startswith(f"{kept}/"):
            mounts.unmount(point, lazy=True)


def end_mounts_below(directory: Path) -> None:
    """Undo all mounts in a directory of a test's, the latest first."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
        places = [line.split()[4] for line in table]
    for place in reversed([each for each in places if each.startswith(f"{directory}/")]):
        with contextlib.suppress(mounts.MountCallError):
            mounts.unmount(place, lazy=True)
