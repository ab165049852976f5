"""A view as data: the mounts that make it, whoever executes them.

:func:`fuse_mount.mounts.mount` executes them itself; :func:`fuse_mount.mounts.prepare` hands
them to a caller, a container runtime, that mounts where and when it likes: in a mount
namespace of its own, in an order of its own. What the mounts lead to is there before they
are told, and stays until the view is unmounted or the host restarts. The plan follows from
a view's record alone, so it may be asked for again.

On the fast path: what runtimes call in loops must not import much.
"""

from __future__ import annotations

from fuse_mount import kernel_lowers
from fuse_mount.lowers import KERNELS
from layerstore.errors import UnsupportedError
from layerstore.light_typing import TYPE_CHECKING, NamedTuple
from layerstore.linux.idmaps import parse_id_map
from layerstore.linux.mounts import Overlay
from layerstore.linux.planned import (
    READ_ONLY,
    command_line,
    describe_bind,
    describe_overlay,
    to_json,
    to_oci,
)
from layerstore.snapshot.overlay import overlay_options

if TYPE_CHECKING:
    from fuse_mount.records import MountRecord
    from layerstore.linux.planned import Mount


class ViewPlan(NamedTuple):
    """What to mount for one view.

    Attributes:
        view_id: Unmounting by this id gives up what the mounts lead to.
        backend: ``kernel``, ``kernel-packs``, ``fuse`` or ``fusepy``.
        target: Where the view is to be seen.
        mounts: In the order in which to make them; undo them in reverse.
    """

    view_id: str
    image_id: str
    backend: str
    target: str
    mounts: tuple[Mount, ...]


def plan_of(store_root: str, record: MountRecord) -> ViewPlan:
    """Return what to mount for a view whose lower and upper are there.

    Raises:
        UnsupportedError: A FUSE server of its own shows the view: there is nothing to mount.
    """
    if record.kind == "fuse":
        raise UnsupportedError(
            "without privileges a view is mounted by its own FUSE server, and only so",
            hint="run it as root, or inside a namespace of your own: layerstore unshare",
        )
    return ViewPlan(
        record.view_id,
        record.image_id,
        record.backend,
        record.target,
        (_mount_of(store_root, record),),
    )


def _mount_of(store_root: str, record: MountRecord) -> Mount:
    idmap = parse_id_map(record.idmap)
    if record.upper is not None:
        overlay = writable_overlay(store_root, record.backend, record.lower, record.upper)
        return describe_overlay(overlay, record.target, record.flags, idmap)
    flags = (READ_ONLY, *record.flags)
    if idmap and record.backend in KERNELS:
        # The lower's own overlay cannot be mapped: this one lies over the mapped metadata.
        overlay = kernel_lowers.readable(store_root, record.lower)
        return describe_overlay(overlay, record.target, flags, idmap)
    return describe_bind(f"{record.lower}/root", record.target, flags, idmap)


def writable_overlay(store_root: str, backend: str, lower: str, upper: str) -> Overlay:
    """Return the overlay of a writable view.

    Args:
        store_root: The store.
        backend: What shows the image.
        lower: Directory of the instance that does.
        upper: Has the directories ``upper`` and ``work``.
    """
    if backend in KERNELS:
        return kernel_lowers.writable(store_root, lower, upper)
    # As for the kernel's: one device number, and listings that tell the numbers stat does.
    options = (*overlay_options(), "xino=on")
    return Overlay((f"{lower}/root",), f"{upper}/upper", f"{upper}/work", options)


def plan_to_json(plan: ViewPlan) -> dict[str, object]:
    """Return a plan for json, with its mounts in the words of OCI runtimes where these can say it.

    ``mounts`` is for :func:`layerstore.linux.planned.from_json`, ``oci`` null if it has no words.
    """
    try:
        oci = [to_oci(mount) for mount in plan.mounts]
    except UnsupportedError:
        oci = None
    return {**plan._asdict(), "mounts": [to_json(mount) for mount in plan.mounts], "oci": oci}


def plan_commands(plan: ViewPlan) -> list[list[str]]:
    """Return the mount(8) commands that a plan amounts to, as lists of words.

    Raises:
        UnsupportedError: mount(8) has no words for it.
    """
    return [command_line(mount) for mount in plan.mounts]
