"""Taking views apart, whole ones and what a crash left of one, in an order that a kill may cut.

Whatever is done already does no harm when it is done again; the record goes last. On the
fast path: what runtimes call in loops must not import much.
"""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING

from fuse_mount import fusermount, lowers
from fuse_mount.holders import describe_holders
from fuse_mount.lazy_lowers import chain_of
from fuse_mount.lowers import KERNELS
from fuse_mount.records import record_path
from fuse_mount.states import is_mounted
from fuse_mount.uppers import refuse_users_elsewhere, remove_upper
from layerstore.digest import chain_id, hex_of
from layerstore.errors import MountError
from layerstore.linux import mounts as syscalls
from layerstore.store.names.usage import note_chain_use
from layerstore.store.paths import StorePaths

if TYPE_CHECKING:
    from fuse_mount.ending import Endings
    from fuse_mount.records import MountRecord


def undo(
    store_root: str,
    record: MountRecord,
    *,
    lazy: bool,
    keep_upper: bool = False,
    endings: Endings | None = None,
) -> None:
    """Unmount, leave the lower, remove the upper, and last the record.

    Args:
        store_root: The store.
        record: Of the view.
        lazy: Detach it if it is busy.
        keep_upper: Leave the upper directory.
        endings: Takes note of the server that may end with it.

    Raises:
        MountError: It is busy, here or in another mount namespace; the message names who uses it.
    """
    if endings is not None:
        endings.watch(record)
    unmount_view(record, lazy=lazy)
    if record.upper is not None and not lazy and not keep_upper:
        refuse_users_elsewhere(record.target, record.upper, record.device)
    if record.lower:
        lowers.release(store_root, record.lower, record.view_id)
    else:  # died before it knew: no other user of any chain has this name
        lowers.release_everywhere(store_root, chain_of_view(record), record.view_id)
    if record.upper is not None and not keep_upper:
        remove_upper(record.upper)
    note_use(store_root, record)  # a view of a month was needed until now
    with contextlib.suppress(FileNotFoundError):
        os.unlink(record_path(store_root, record.view_id))


def chain_of_view(record: MountRecord) -> str:
    """Return the name of the directory in which the instance of a view lies."""
    if record.remote:
        return chain_of(record.remote, record.image_id)
    return lowers.chain_name(record.layers)


def note_use(store_root: str, record: MountRecord) -> None:
    """Take note that what the kernel shows of an image was needed until now."""
    if record.backend in KERNELS and not record.remote:
        note_chain_use(StorePaths(store_root), hex_of(chain_id(record.layers)))


def unmount_view(record: MountRecord, *, lazy: bool) -> None:
    """Unmount a view if it is the very one of its record; see :func:`unmount_mount`."""
    if is_mounted(record):
        by_helper = record.kind == "fuse" and os.geteuid() != 0
        unmount_mount(record.target, lazy=lazy, by_helper=by_helper)


def unmount_mount(target: str, *, lazy: bool, by_helper: bool = False) -> None:
    """Unmount what is topmost at a directory.

    Raises:
        MountError: It is busy; the message names who uses it.
    """
    try:
        if by_helper:
            fusermount.unmount(target, lazy=lazy)
        else:
            syscalls.unmount(target, lazy=lazy)
    except syscalls.MountCallError as err:
        if err.code == errno.EBUSY:
            raise MountError(
                f"{target} is busy: {describe_holders(target)}",
                hint=f"end what uses it, or detach it: layerstore umount --lazy {target}",
            ) from err
        raise
