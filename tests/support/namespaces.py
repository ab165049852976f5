"""A mount table of a test's own."""

from __future__ import annotations

import ctypes
import os

from layerstore.linux import mounts
from layerstore.linux.namespaces import CLONE_NEWNS, CLONE_NEWUSER, unshare


def enter_private_mount_namespace() -> None:
    """Give this process its own mount table, which ends with it; call it before threads start."""
    unshare(CLONE_NEWNS)
    mounts.set_propagation("/", mounts.MS_SLAVE)


def enter_user_namespace(namespace: int) -> None:
    """Become root of a user namespace, by its descriptor; for good."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(ctypes.c_int(namespace), ctypes.c_int(CLONE_NEWUSER)) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    os.setgroups([])
    os.setgid(0)
    os.setuid(0)
