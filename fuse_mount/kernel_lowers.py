"""Whole images mounted by the kernel: an EROFS of metadata, and an overlay to shared objects.

An instance (see :mod:`fuse_mount.lowers`) has two mounts and no process:

    meta/        the chain's metadata image, EROFS
    root/        overlay, read-only: meta over the store's object tier
    kernel.json  in which boot and mount namespace they were made

Writable views are overlays over meta and the objects too, not over root, where the kernel
allows that with metacopy off; before Linux 6.16 they lie over root. An instance lives as
long as its mounts: nothing can die but the host or their mount namespace.

On the fast path: joining an instance imports nothing of the store.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from layerstore.errors import UnsupportedError
from layerstore.linux import mounts
from layerstore.linux.files import make_private_dir, read_file
from layerstore.linux.namespaces import (
    current_mount_namespace,
    in_user_namespace,
    mount_namespace_id,
    mount_namespace_lives,
)
from layerstore.snapshot.overlay import PLAIN_OPTIONS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from layerstore.digest import DiffId
    from layerstore.progress import Progress

WRITABLE_OPTIONS = (*PLAIN_OPTIONS, "xino=on")
"""An upper directory that is complete in itself, and one device number for all of a view.

Without xino a view of two file systems has files of another device than its directories
are, which programs take for a mount (tar --one-file-system leaves such files out)."""

_STATE_MAX_BYTES = 64 * 1024


def start(
    store_root: str, directory: str, layers: Sequence[DiffId], progress: Progress | None
) -> None:
    """Make what an instance needs and mount it.

    Raises:
        UnsupportedError: Not permitted here, or the kernel cannot show the image.
        LayerstoreError: Whatever making it meets in the store.
    """
    from layerstore.image.metadata_image import prepare_view
    from layerstore.linux.data_layers import follows_without_metacopy
    from layerstore.progress import Silent
    from layerstore.store.objects import kept_objects
    from layerstore.store.store import Store

    _require_privileges()
    with Store.open(store_root) as store, kept_objects(store.paths):
        image = prepare_view(store, layers, progress or Silent())
        try:
            complete = follows_without_metacopy(PLAIN_OPTIONS)
            state = _new_state(complete=complete)
            _write_state(directory, state)
            make_private_dir(f"{directory}/meta", durable=False)
            flags = mounts.MS_RDONLY | mounts.MS_NOSUID | mounts.MS_NODEV
            mounts.mount_erofs(image, f"{directory}/meta", flags)
        finally:
            os.close(image)
        mounts.mount_overlay(readable(store_root, directory), f"{directory}/root", flags)
        device = mounts.identify(f"{directory}/root").device
        _write_state(directory, {**state, "device": device})


def readable(store_root: str, directory: str) -> mounts.Overlay:
    """Return the overlay that an instance shows at ``root``, to be made once more.

    Args:
        store_root: The store.
        directory: The instance's.
    """
    from layerstore.linux.data_layers import FOLLOWING

    return mounts.Overlay(
        (f"{directory}/meta",), options=FOLLOWING, data=(f"{store_root}/objects",)
    )


def writable(store_root: str, directory: str, upper: str) -> mounts.Overlay:
    """Return the overlay of a writable view over an instance.

    Args:
        store_root: The store.
        directory: The instance's.
        upper: Has the directories ``upper`` and ``work``.
    """
    above = (f"{upper}/upper", f"{upper}/work")
    if _read_state(directory).get("complete"):
        objects = f"{store_root}/objects"
        return mounts.Overlay((f"{directory}/meta",), *above, WRITABLE_OPTIONS, (objects,))
    return mounts.Overlay((f"{directory}/root",), *above, WRITABLE_OPTIONS)


def is_visible(directory: str) -> bool:
    """Whether an instance's tree is mounted where this process can see it."""
    state = _read_state(directory)
    if state.get("boot_id") != boot_id() or not state.get("device"):
        return False
    try:
        identity = mounts.identify(f"{directory}/root")
    except OSError:
        return False
    # Not the mount's id: what is propagated to another namespace has one of its own there.
    return identity.is_root and identity.device == state["device"]


def is_alive(directory: str) -> bool:
    """Whether an instance of the kernel's is mounted here or may be in a living namespace."""
    state = _read_state(directory)
    if state.get("boot_id") != boot_id():
        return False
    if is_visible(directory):
        return True
    namespace = state.get("namespace")
    if not isinstance(namespace, int) or namespace == current_mount_namespace():
        return False
    number = state.get("namespace_id")
    return mount_namespace_lives(namespace, number if isinstance(number, int) else 0)


def boot_id() -> str:
    """Return what names this run of the host's kernel, "" if it does not tell."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


def _require_privileges() -> None:
    if os.geteuid() != 0 or in_user_namespace():
        raise UnsupportedError(
            "the kernel mounts EROFS for root outside of user namespaces only",
            hint="run it as root, or mount with --backend fuse",
        )


def _new_state(*, complete: bool) -> dict[str, object]:
    return {
        "boot_id": boot_id(),
        "namespace": current_mount_namespace(),
        "namespace_id": mount_namespace_id(),
        "device": 0,
        "complete": complete,
    }


def _write_state(directory: str, state: dict[str, object]) -> None:
    from fuse_mount.lowers import write_private_json

    write_private_json(f"{directory}/kernel.json", state)


def _read_state(directory: str) -> dict[str, object]:
    """Return an instance's state; nothing for those of FUSE, and for what cannot be read."""
    try:
        value = json.loads(read_file(f"{directory}/kernel.json", max_bytes=_STATE_MAX_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
