"""Entering a mount namespace of one's own, so that mounts end with the process.

Mounts made in a private namespace vanish when its last process does, however that
came about: this is how a killed build leaves none behind.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import fcntl
import os

from layerstore.errors import MountError, UnsupportedError
from layerstore.linux.libc import libc

CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000
_NS_GET_MNTNS_ID = 0x8008B705
"""ioctl_nsfs(2), Linux 6.11: a number that no other mount namespace of this boot has."""


def unshare(flags: int) -> None:
    """Move the calling thread into new namespaces.

    Raises:
        UnsupportedError: Not permitted here.
        MountError: The kernel refused for another reason.
    """
    if libc.unshare(ctypes.c_int(flags)) == 0:
        return
    code = ctypes.get_errno()
    if code == 1:  # EPERM
        raise UnsupportedError(
            "may not create a namespace: " + os.strerror(code),
            hint="run as root, or where user namespaces are allowed "
            "(sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone)",
        )
    raise MountError(f"could not create a namespace: {os.strerror(code)}")


def enter_namespace(fd: int, kind: int) -> None:
    """Move the calling thread into a namespace that exists.

    Args:
        fd: An open descriptor of it.
        kind: Its ``CLONE_NEW`` flag.

    Raises:
        MountError: The kernel refused.
    """
    if libc.setns(ctypes.c_int(fd), ctypes.c_int(kind)) != 0:
        raise MountError(f"could not enter a namespace: {os.strerror(ctypes.get_errno())}")


def become_root_in_namespace() -> None:
    """Enter a user and a mount namespace in which this user alone is mapped, as root.

    Enough to mount FUSE and overlays; files of other owners show as nobody's. Must be
    called before threads start.

    Raises:
        UnsupportedError: User namespaces are not permitted here.
        MountError: The ids could not be mapped.
    """
    uid, gid = os.geteuid(), os.getegid()
    unshare(CLONE_NEWUSER | CLONE_NEWNS)
    try:
        # Without this the kernel refuses an unprivileged gid_map (user_namespaces(7)).
        _write_once("/proc/self/setgroups", "deny")
        _write_once("/proc/self/uid_map", f"0 {uid} 1")
        _write_once("/proc/self/gid_map", f"0 {gid} 1")
    except OSError as err:
        raise MountError(f"could not map ids into a user namespace: {err.strerror}") from err


def _write_once(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def current_mount_namespace() -> int:
    """Return the inode number that names this process's mount namespace."""
    return os.stat("/proc/self/ns/mnt").st_ino


def mount_namespace_id(path: str = "/proc/self/ns/mnt") -> int:
    """Return the number of a mount namespace that is never used twice, 0 before Linux 6.11."""
    number = array.array("Q", [0])
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.ioctl(fd, _NS_GET_MNTNS_ID, number)
        finally:
            os.close(fd)
    return number[0]


def mount_namespace_lives(inode: int, number: int) -> bool:
    """Whether any process is in a mount namespace, or a mount of ours keeps it.

    Asks every process, so ask only about others than one's own. Who may not ask them all, being
    another user than root or in a user namespace, cannot know that one is gone: it lives.

    Args:
        inode: As :func:`current_mount_namespace` gave it; used again once it is free.
        number: As :func:`mount_namespace_id` gave it; 0 if unknown.
    """
    if os.geteuid() != 0 or in_user_namespace():
        return True
    link = f"mnt:[{inode}]"
    for pid in filter(str.isdigit, os.listdir("/proc")):
        path = f"/proc/{pid}/ns/mnt"
        with contextlib.suppress(OSError):
            if os.readlink(path) == link and mount_namespace_id(path) in {number, 0}:
                return True
    # Kept by a bind mount, as unshare --mount=FILE does.
    with contextlib.suppress(OSError), open("/proc/self/mountinfo", "rb") as file:
        return f" {link} ".encode() in file.read()
    return False


def in_user_namespace() -> bool:
    """Whether ids here are mapped: the initial namespace maps all of them onto themselves."""
    try:
        with open("/proc/self/uid_map", encoding="ascii") as file:
            return file.read().split() != ["0", "0", "4294967295"]
    except OSError:
        return False


def mapped_ids() -> int:
    """Return how many ids from 0 on are mapped here for users and groups alike; 0 for all.

    In the initial namespace every id is mapped onto itself.
    """
    if not in_user_namespace():
        return 0
    return min(_mapped_from_zero("/proc/self/uid_map"), _mapped_from_zero("/proc/self/gid_map"))


def _mapped_from_zero(path: str) -> int:
    with open(path, encoding="ascii") as file:
        ranges = sorted((int(inside), int(length)) for inside, _, length in map(str.split, file))
    end = 0
    for inside, length in ranges:
        if inside == end:
            end += length
    return end


def held_capabilities() -> int:
    """Return the capabilities that this process has and may pass on, as a mask."""
    held = -1
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        for line in file:
            if line.startswith(("CapPrm:", "CapBnd:")):
                held &= int(line.split()[1], 16)
    return held
