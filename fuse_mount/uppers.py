"""Upper directories of writable views: ``uppers/VIEW-RANDOM/{upper,work}``.

An upper is data, not a cache: it is removed with its view and with nothing else, and not
while a process works in it, in whatever mount namespace. A kill while one is removed
leaves the view's record, so that removing goes on with the next ``umount``.
"""

from __future__ import annotations

import errno
import os

from fuse_mount.holders import describe_users_elsewhere
from layerstore.errors import LayerstoreError, MountError
from layerstore.light_typing import TYPE_CHECKING
from layerstore.linux import mounts as syscalls
from layerstore.linux.files import make_private_dir
from layerstore.linux.namespaces import in_user_namespace
from layerstore.linux.removal import remove_tree
from layerstore.snapshot.overlay import copy_root_attributes

if TYPE_CHECKING:
    from fuse_mount.lowers import Lower


def make_upper(store_root: str, upper: str, lower: Lower) -> None:
    """Make what an overlay writes to; what is there of a restored view stays as it is."""
    make_private_dir(f"{store_root}/uppers", durable=False)
    if os.path.isdir(f"{upper}/work"):  # made last
        return
    for path in (upper, f"{upper}/upper"):
        make_private_dir(path, durable=False)
    copy_root_attributes(lower.root, f"{upper}/upper", escaped=lower.escaped)
    make_private_dir(f"{upper}/work", durable=False)


def remove_upper(upper: str) -> None:
    """Remove an upper directory; harmless if it is gone.

    Raises:
        MountError: It could not be removed.
    """
    try:
        remove_tree(upper)
    except OSError as err:
        raise MountError(
            f"the writable layer {upper} could not be removed: {err}",
            hint="the view is unmounted; mend that and run umount again",
        ) from err


def refuse_users_elsewhere(target: str, upper: str, device: int) -> None:
    """Keep a writable layer that a container works in, when its view was unmounted here.

    Args:
        target: Of the view.
        upper: Its upper directory.
        device: Of its overlay; 0 if unknown.

    Raises:
        MountError: A process is at work there; the message names it.
    """
    if not is_written_to(upper):
        return
    users = describe_users_elsewhere(upper, device)
    if users:
        raise MountError(
            f"{target} is unmounted here, but elsewhere {users}",
            hint="end that, then run umount again: it removes the writable layer; with --lazy now",
        )


def is_written_to(upper: str) -> bool:
    """Whether an overlay has an upper directory still, in whatever mount namespace.

    It may be an idle copy in the mount namespace of somebody who has nothing to do with the view.
    The kernel is asked to make another one there, with ``index=on``: then it refuses one that
    is in use; no mount table is read. Where it does not refuse, it leaves its marks: ask this
    only of an upper that is about to go.
    """
    if in_user_namespace() or not os.path.isdir(f"{upper}/work"):
        return False  # no index there; or its view never came to be
    beside = os.path.dirname(os.path.dirname(upper))
    trial = syscalls.Overlay(
        (f"{beside}/locks",), f"{upper}/upper", f"{upper}/work", ("index=on", "metacopy=off")
    )
    try:
        os.close(syscalls.create_overlay(trial))
    except syscalls.MountCallError as err:
        return err.code == errno.EBUSY
    except LayerstoreError:  # before Linux 6.7: nobody can tell
        return False
    return False
