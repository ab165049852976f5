"""Waiting for FUSE servers whose mounts are gone: each removes its files and ends a moment later.

A server learns of the end of its mount from the kernel, closes the store, removes its instance's
directory (:func:`fuse_mount.lowers.remove_instance`) and ends, and its keeper after it. Who
unmounts waits for that, so that a script which removes the store, mounts again or lists processes
next finds nothing of the view. Both hold the instance's file ``alive`` locked until then.

Not waited for is a server that is still needed: by another view, by files that are open in a
detached one, or by a copy of the mount in another mount namespace. The kernel tells that by the
file system's entry in sysfs, which goes with the last of its mounts. Views without a server cost
one open(2). On the fast path.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time

from layerstore.light_typing import TYPE_CHECKING, NamedTuple
from layerstore.linux import mounts

if TYPE_CHECKING:
    from fuse_mount.records import MountRecord

PATIENCE_S = 5.0
"""A server ends in some ten milliseconds; one that is stopped, or waits for a disk, in none."""

_LOOK_S = 0.002
_LOOK_MAX_S = 0.02

_SERVERS_MAX = 64
"""Watched at once, a descriptor each; before further ones these are waited for."""

_SUPER_BLOCKS = "/sys/class/bdi"
"""Has an entry for each FUSE file system, by its device, while the kernel has it."""


class _Server(NamedTuple):
    """A server that may end.

    Attributes:
        directory: Its instance's.
        alive: The open file that it holds locked.
        entry: Of its file system in sysfs.
        inode: Of that entry, which another file system with the same device does not have; 0 if
            it is not there.
    """

    directory: str
    alive: int
    entry: str
    inode: int


class Endings:
    """The servers behind views that are taken away, by whom they are waited for together."""

    def __init__(self) -> None:
        self._servers: dict[str, _Server] = {}
        self._late = 0

    def watch(self, record: MountRecord) -> None:
        """Take note of what serves a view, if anything does; before its mounts go."""
        directory = record.lower
        if not directory or directory in self._servers:
            return
        try:
            alive = os.open(f"{directory}/alive", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:  # the kernel alone shows it, or its server has ended
            return
        if len(self._servers) >= _SERVERS_MAX:
            self._await()
        device = _served_device(record)
        entry = f"{_SUPER_BLOCKS}/{os.major(device)}:{os.minor(device)}"
        self._servers[directory] = _Server(directory, alive, entry, _inode(entry))

    def wait(self) -> int:
        """Wait for the servers of what was taken away; return how many had not ended in time.

        Each call begins with nothing that is watched.
        """
        self._await()
        late, self._late = self._late, 0
        return late

    def _await(self) -> None:
        until = time.monotonic() + PATIENCE_S
        for server in self._servers.values():
            if _is_to_end(server) and not _has_ended(server.alive, until):
                self._late += 1
            os.close(server.alive)
        self._servers.clear()


def _served_device(record: MountRecord) -> int:
    """Return the device of the FUSE file system behind a view."""
    for name in ("lazy", "root"):
        with contextlib.suppress(OSError):
            identity = mounts.identify(f"{record.lower}/{name}")
            if identity.is_root:
                return identity.device
    return record.device  # it is mounted at the view's own directory alone


def _inode(entry: str) -> int:
    with contextlib.suppress(OSError):
        return os.lstat(entry).st_ino
    return 0


def _is_to_end(server: _Server) -> bool:
    """Whether nothing needs a server any more, as far as can be told without it."""
    if server.inode:
        return _inode(server.entry) != server.inode
    try:
        return not os.listdir(f"{server.directory}/users")
    except OSError:  # it has removed them
        return True


def _has_ended(alive: int, until: float) -> bool:
    """Wait until nobody holds a lock; False if that is not so in time.

    Args:
        alive: An open file. Asked for a shared lock, as by others who only look.
        until: Until when, by the monotonic clock.
    """
    pause_s = _LOOK_S
    while True:
        try:
            fcntl.flock(alive, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until:
                return False
        else:
            return True
        time.sleep(pause_s)
        pause_s = min(1.5 * pause_s, _LOOK_MAX_S)
