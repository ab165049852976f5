"""What a crash, a restart or a damaged record left of views: cleaned up, shown again, given up.

A record is there before anything is mounted and until all is undone (:mod:`fuse_mount.mounts`),
so whatever was cut off can be told from it.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from fuse_mount import lowers
from fuse_mount.ending import Endings
from fuse_mount.holders import mount_points_of_ours
from fuse_mount.kernel_lowers import boot_id
from fuse_mount.lazy_lowers import LazySource
from fuse_mount.mounts import Callbacks, make_shown, mounts, unmount, view_lock
from fuse_mount.records import MountRecord, read_record, record_path, view_id_of, write_record
from fuse_mount.states import STALE, is_restorable, state_of
from fuse_mount.targets import checked_target
from fuse_mount.undoing import chain_of_view, undo, unmount_mount, unmount_view
from layerstore.errors import LayerstoreError
from layerstore.linux.namespaces import current_mount_namespace, mount_namespace_id

if TYPE_CHECKING:
    from layerstore.progress import Progress


def give_up_unreadable(store_root: str, view_id: str, *, lazy: bool = False) -> list[str]:
    """Take away a view whose record cannot be read, as far as it can be told from others.

    Its mounts are those of ours, in this mount namespace, at a target that has this id.
    Writable layers of this id stay: nothing says whether somebody still uses them.

    Returns:
        Paths of these layers.

    Raises:
        MountError: It is busy; the message names who uses it.
    """
    with view_lock(store_root, view_id):
        for target in reversed(mount_points_of_ours()):
            if view_id_of(target) == view_id:
                unmount_mount(target, lazy=lazy)
        lowers.release_anywhere(store_root, view_id)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(record_path(store_root, view_id))
    try:
        names = os.listdir(f"{store_root}/uppers")
    except FileNotFoundError:
        return []
    return [f"{store_root}/uppers/{name}" for name in names if name.startswith(f"{view_id}-")]


def unmount_all_here(store_root: str) -> list[LayerstoreError]:
    """Take away the views that were mounted in this mount namespace; return why others stayed."""
    here = current_mount_namespace(), mount_namespace_id()
    failures: list[LayerstoreError] = []
    endings = Endings()
    for item in mounts(store_root, []):
        if (item.record.namespace, item.record.namespace_id) != here:
            continue
        try:
            unmount(store_root, item.record.target, endings=endings)
        except LayerstoreError as err:
            failures.append(err)
    endings.wait()
    return failures


def clean_stale(store_root: str) -> list[MountRecord]:
    """Undo every view that is not whole any more; return their records.

    Also removes what killed FUSE servers left. Writable layers of stale views go
    too: they are those of views that nobody can reach. Records that cannot be read stay.
    """
    cleaned = []
    for item in mounts(store_root, []):
        if item.state != STALE:
            continue
        with view_lock(store_root, item.record.view_id):
            record = read_record(store_root, item.record.view_id)
            if record is not None and state_of(record)[0] == STALE:
                undo(store_root, record, lazy=True)
                cleaned.append(record)
    lowers.clean_unused(store_root)
    _remove_torn_records(store_root)
    return cleaned


def restore(
    store_root: str, failures: list[LayerstoreError], progress: Progress | None = None
) -> list[MountRecord]:
    """Show again what a restart of the host or the death of a server took away.

    Writable layers are kept: what was written is there again. Processes that had files of the
    old mount open keep their errors. Views that were unmounted by hand, or whose mount
    namespace is gone, are left to :func:`unmount`.

    Args:
        store_root: The store.
        failures: Takes why single views could not be shown; these stay stale.
        progress: Told about files that are unpacked for the kernel.

    Returns:
        The new records of the views that are there again.
    """
    restored = []
    for item in mounts(store_root, []):
        with view_lock(store_root, item.record.view_id):
            record = read_record(store_root, item.record.view_id)
            if record is None or record.prepared or not is_restorable(record):
                continue
            try:
                restored.append(_restore(store_root, record, progress))
            except LayerstoreError as err:
                failures.append(err)
    lowers.clean_unused(store_root)
    return restored


def _restore(store_root: str, record: MountRecord, progress: Progress | None) -> MountRecord:
    """Make a view again; killed or failed at any moment this leaves it to be restored."""
    checked_target(store_root, record.target)
    unmount_view(record, lazy=True)
    if record.lower:
        lowers.release(store_root, record.lower, record.view_id)
    lowers.release_everywhere(store_root, chain_of_view(record), record.view_id)
    fresh = record._replace(
        lower="",
        mount_id=0,
        device=0,
        boot_id=boot_id(),
        namespace=current_mount_namespace(),
        namespace_id=mount_namespace_id(),
    )
    write_record(store_root, fresh)
    try:
        source = LazySource(record.remote, record.image_id) if record.remote else None
        return make_shown(store_root, fresh, Callbacks(None, progress, lambda *_: None, source))
    except BaseException:
        made = read_record(store_root, record.view_id) or fresh
        unmount_view(made, lazy=True)
        lowers.release_everywhere(store_root, chain_of_view(record), record.view_id)
        write_record(store_root, record._replace(lower="", mount_id=0, device=0))
        raise


def _remove_torn_records(store_root: str) -> None:
    """Remove records that a killed writer had not given their name yet."""
    for name in os.listdir(f"{store_root}/views"):
        if name.endswith(".tmp") and not os.path.exists(f"/proc/{name.split('.')[-2]}"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{store_root}/views/{name}")
