"""What is true of a view now: whether the very mount of its record is at its target.

Asked of the one path by statx(2), whatever else is mounted; the mount table is read only for
views whose mount nobody noted: their maker was killed, or it was made by somebody else.
On the fast path: what runtimes call in loops must not import much.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from fuse_mount import lowers
from fuse_mount.holders import is_fuse_mount, is_overlay_of, is_read_only_overlay
from fuse_mount.kernel_lowers import boot_id
from fuse_mount.lowers import KERNELS
from fuse_mount.starting import SERVED
from layerstore.linux import mounts as syscalls
from layerstore.linux.namespaces import current_mount_namespace, mount_namespace_lives

if TYPE_CHECKING:
    from fuse_mount.records import MountRecord

MOUNTED = "mounted"
STALE = "stale"
ELSEWHERE = "other namespace"
PREPARED = "prepared"
"""Somebody was given the mounts to make, and this mount namespace does not have them."""


def state_of(record: MountRecord) -> tuple[str, str]:
    """Return the state of a view and, if it is not mounted, the reason."""
    if record.boot_id != boot_id():
        return STALE, "the host was restarted"
    if record.backend in SERVED and not lowers.is_alive(record.lower):
        return STALE, "its FUSE server is gone"
    if record.remote and record.lower and not lowers.is_served(record.lower):
        return STALE, "the server that fetches its content is gone"
    if is_mounted(record):
        return MOUNTED, ""
    if record.prepared:
        return PREPARED, ""
    if record.namespace != current_mount_namespace():
        # A FUSE server ends with the last mount of its tree; the kernel's leave no such trace.
        if record.backend in KERNELS and not mount_namespace_lives(
            record.namespace, record.namespace_id
        ):
            return STALE, "its mount namespace is gone"
        return ELSEWHERE, f"namespace {record.namespace}"
    return STALE, "it was unmounted by something else"


def is_restorable(record: MountRecord) -> bool:
    """Whether a view is stale for a reason that mounting it again mends, which nobody wished.

    Made anew it is what it was: the host was restarted, its server ended, or who made or
    restored it was killed before it noted the mount.
    """
    if state_of(record)[0] != STALE:
        return False
    if record.boot_id != boot_id() or record.mount_id == 0:
        return True
    here = record.namespace == current_mount_namespace()
    if record.remote:
        return here and not lowers.is_served(record.lower)
    return here and record.backend not in KERNELS and not lowers.is_alive(record.lower)


def is_mounted(record: MountRecord) -> bool:
    """Whether the very mount of the record is what one sees at its target."""
    if record.boot_id != boot_id():
        return False
    try:
        identity = syscalls.identify(record.target)
    except OSError:
        return False
    if record.mount_id == 0:  # died between mounting and taking note of it
        return identity.is_root and _is_on(record, identity)
    return (
        identity.is_root
        and identity.mount_id == record.mount_id
        and identity.device == record.device
    )


def _is_on(record: MountRecord, identity: syscalls.MountIdentity) -> bool:
    """Whether a mount without a noted id is the one that the record announced."""
    if record.upper is None and record.idmap and record.backend in KERNELS:
        return is_read_only_overlay(record.target)
    if record.kind == "bind":
        with contextlib.suppress(OSError):
            return syscalls.identify(f"{record.lower}/root").device == identity.device
        return False
    if record.kind == "fuse":
        return is_fuse_mount(record.target)
    return record.upper is not None and is_overlay_of(record.target, record.upper)
