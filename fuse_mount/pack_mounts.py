"""Mounts of packs, shared by all instances that read them in place.

Instances over packs (:mod:`fuse_mount.kernel_lowers`) have their content from EROFS mounts of
pack images (:mod:`layerstore.store.objects.pack_images`). One mount serves all of them, so that two
images keep the pages of a file that both hold once:

    views/pack-mounts/NAME/MOUNT/   one mount of the pack image NAME
        root/                       where it is mounted
        kernel.json                 in which boot and mount namespace
        users/lower-INSTANCE        who needs it; the last to leave unmounts

All of it happens under ``locks/pack-images``, which comes after the locks of chains. A user is
there before the mount is, and its record before that: whoever was killed is found by
:func:`clean_unused`. An overlay keeps what it was made over, so a mount whose place is gone
still serves the instances that have it.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from fuse_mount import kernel_lowers
from layerstore.linux import mounts
from layerstore.linux.files import make_private_dir, open_private
from layerstore.linux.locks import FileLock

if TYPE_CHECKING:
    from layerstore.store.objects.pack_images import PackImage


def packs_directory(store_root: str) -> str:
    """Return where all mounts of packs lie."""
    return f"{store_root}/views/pack-mounts"


def lock(store_root: str) -> FileLock:
    """Take the lock that keeps pack images and their mounts as they are; close it to let go."""
    return FileLock(f"{store_root}/locks/pack-images")


def acquire(store_root: str, image: PackImage, user: str) -> str:
    """Join the mount of a pack image or mount it; return where it is. The caller has the lock.

    Raises:
        UnsupportedError: The kernel cannot mount it.
        MountCallError: It refused.
    """
    base = f"{packs_directory(store_root)}/{image.name}"
    for name in _names(base):
        directory = f"{base}/{name}"
        if kernel_lowers.is_visible(directory):
            _add_user(directory, user)
            return f"{directory}/root"
    directory = f"{base}/{os.urandom(6).hex()}"
    for path in (
        packs_directory(store_root),
        base,
        directory,
        f"{directory}/root",
        f"{directory}/users",
    ):
        make_private_dir(path, durable=False)
    _add_user(directory, user)
    try:
        kernel_lowers.note_mounting(directory)
        flags = mounts.MS_RDONLY | mounts.MS_NOSUID | mounts.MS_NODEV
        mounts.mount_erofs(image.image, f"{directory}/root", flags, devices=(image.pack,))
        kernel_lowers.note_mounted(directory)
    except BaseException:
        _stop(directory)
        raise
    return f"{directory}/root"


def release(store_root: str, user: str) -> None:
    """Leave all mounts of packs; the last user to leave one unmounts it."""
    with lock(store_root):
        for directory in _mounts(store_root):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{directory}/users/{user}")
                if not _names(f"{directory}/users"):
                    _stop(directory)


def clean_unused(store_root: str) -> None:
    """Unmount what no instance needs, and remove what is mounted nowhere any more."""
    if not os.path.isdir(packs_directory(store_root)):
        return
    with lock(store_root):
        for directory in _mounts(store_root):
            for user in _names(f"{directory}/users"):
                # An instance's record is older than its membership here.
                if not os.path.exists(f"{store_root}/views/{user}.json"):
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(f"{directory}/users/{user}")
            if not _names(f"{directory}/users") or not kernel_lowers.is_alive(directory):
                _stop(directory)


def _mounts(store_root: str) -> list[str]:
    base = packs_directory(store_root)
    return [f"{base}/{name}/{mount}" for name in _names(base) for mount in _names(f"{base}/{name}")]


def _names(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _add_user(directory: str, user: str) -> None:
    os.close(open_private(f"{directory}/users/{user}", os.O_WRONLY | os.O_CREAT))


def _stop(directory: str) -> None:
    """Unmount and remove a mount; what is mounted in another namespace keeps its files."""
    with contextlib.suppress(OSError):
        while mounts.identify(f"{directory}/root").is_root:
            mounts.unmount(f"{directory}/root", lazy=True)
    if kernel_lowers.is_alive(directory):
        return
    for inside in (f"{directory}/users", directory):
        for name in _names(inside):
            with contextlib.suppress(OSError):  # directories too: they follow
                os.unlink(f"{inside}/{name}")
    for path in (f"{directory}/users", f"{directory}/root", directory, os.path.dirname(directory)):
        with contextlib.suppress(OSError):
            os.rmdir(path)
