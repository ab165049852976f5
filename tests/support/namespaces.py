"""A mount table of a test's own."""

from __future__ import annotations

from layerstore.linux import mounts
from layerstore.linux.namespaces import CLONE_NEWNS, unshare


def enter_private_mount_namespace() -> None:
    """Give this process its own mount table, which ends with it; call it before threads start."""
    unshare(CLONE_NEWNS)
    mounts.set_propagation("/", mounts.MS_SLAVE)
