"""The user and mount namespace that a user's containers of one store have in common.

A container that outlives its command leaves namespaces behind which every later command must be
in: there its image is shown, and there its processes may be entered. Nobody waits to hold them.
They live as long as a process is in them, and as long as there is a container one is: the FUSE
server that shows its image. Which they are is remembered by number:

    locks/rootless-UID    inode and number of the mount namespace; flocked while it is found or made
"""

from __future__ import annotations

import contextlib
import os
from fcntl import ioctl
from typing import TYPE_CHECKING

from fuse_mount import unshare
from layerstore.errors import MountError
from layerstore.linux import mounts, namespaces
from layerstore.linux.files import make_private_dir, read_file, write_all
from layerstore.linux.locks import FileLock
from layerstore.linux.namespaces import (
    CLONE_NEWNS,
    CLONE_NEWUSER,
    current_mount_namespace,
    enter_namespace,
    mount_namespace_id,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fuse_mount.records import MountRecord

_NS_GET_USERNS = 0xB701
"""ioctl_nsfs(2): the user namespace that owns another one."""

_NAMES_MAX_BYTES = 100


def enter_common(store_root: str, owner_at_hand: Callable[[], int]) -> None:
    """Move this process into the namespaces of the user's containers; before threads start.

    Where there are none they are made, and are found by whoever comes as long as we, or what we
    leave behind, are in them.

    Args:
        store_root: An existing store, whose containers they are.
        owner_at_hand: Opens the user namespace of a container that runs, -1 if none does. Asked
            where no process is in the mount namespace any more: from another user namespace
            nobody could end that container.

    Raises:
        UnsupportedError: User namespaces are not permitted here.
        MountError: The kernel refused.
    """
    directory = os.getcwd()
    make_private_dir(f"{store_root}/locks", durable=False)
    path = f"{store_root}/locks/rootless-{os.geteuid()}"
    with FileLock(path):
        namespace = _find(*_remembered(path))
        if namespace < 0:
            _make(owner_at_hand())
            _remember(path, current_mount_namespace(), mount_namespace_id())
            return
    try:
        _join(namespace)
    finally:
        os.close(namespace)
    with contextlib.suppress(OSError):  # a mount that came later and is not seen there
        os.chdir(directory)


def enter_of(record: MountRecord) -> bool:
    """Move this process to where a user's view is mounted; before threads start.

    Returns:
        Whether a process is there, so that one can go there.

    Raises:
        MountError: It is not this user's.
    """
    namespace = _find(record.namespace, record.namespace_id)
    if namespace < 0:
        return False
    try:
        _join(namespace)
    finally:
        os.close(namespace)
    return True


def _remembered(path: str) -> tuple[int, int]:
    """Return inode and number of the namespace, zeros for none."""
    words = read_file(path, max_bytes=_NAMES_MAX_BYTES).split()
    if len(words) == 2 and all(word.isdigit() for word in words):
        return int(words[0]), int(words[1])
    return 0, 0


def _remember(path: str, inode: int, number: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        write_all(fd, b"%d %d\n" % (inode, number))
    finally:
        os.close(fd)


def _find(inode: int, number: int) -> int:
    """Return an open mount namespace that a process is in; -1 if there is none.

    Args:
        inode: By which it was remembered, 0 for none.
        number: That no other has, before Linux 6.11 zero; else an inode may be another's by now.
    """
    for path in _namespaces_of_processes() if inode else ():
        with contextlib.suppress(OSError):
            if os.stat(path).st_ino != inode or mount_namespace_id(path) != number:
                continue
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            if os.fstat(fd).st_ino == inode:
                return fd
            os.close(fd)
    return -1


def _namespaces_of_processes() -> Iterator[str]:
    return (f"/proc/{pid}/ns/mnt" for pid in os.listdir("/proc") if pid.isdigit())


def _make(owner: int) -> None:
    """Enter a mount namespace of our own, in an open user namespace or, for -1, in a new one."""
    if owner < 0:
        unshare.enter()
        return
    _be_root_of(owner)
    namespaces.unshare(CLONE_NEWNS)
    mounts.set_propagation("/", mounts.MS_SLAVE)


def _join(namespace: int) -> None:
    """Enter a mount namespace as root of the user namespace that owns it."""
    try:
        owner = ioctl(namespace, _NS_GET_USERNS)
    except OSError as err:
        raise MountError(f"could not enter the containers' namespace: {err.strerror}") from err
    _be_root_of(owner)
    enter_namespace(namespace, CLONE_NEWNS)


def _be_root_of(owner: int) -> None:
    """Enter an open user namespace, and close it."""
    try:
        enter_namespace(owner, CLONE_NEWUSER)
    finally:
        os.close(owner)
    os.setgid(0)
    os.setuid(0)
