"""Mounting a container's root: what it is made of, for its start and for who looks into it."""

from __future__ import annotations

import errno

from fuse_mount.plan import writable_overlay
from layerstore.containers.records import upper_of
from layerstore.light_typing import TYPE_CHECKING, NamedTuple
from layerstore.linux import mounts
from layerstore.linux.planned import describe_overlay, execute

if TYPE_CHECKING:
    from fuse_mount.lowers import Lower
    from layerstore.containers.records import Container
    from layerstore.linux.idmaps import IdMap


class Root(NamedTuple):
    """What a container's root is made of.

    Attributes:
        lower: What shows its image.
        upper: The directory that is made to take what is written.
        overlay: What to mount.
        idmap: Who owns what in it.
    """

    lower: Lower
    upper: str
    overlay: mounts.Overlay
    idmap: IdMap


def root_of(store_root: str, container: Container, lower: Lower, backend: str) -> Root:
    """Return what a container's root is to be made of.

    Args:
        store_root: The store.
        container: Whose.
        lower: What shows its image.
        backend: By which means.
    """
    upper = upper_of(store_root, container.container_id)
    overlay = writable_overlay(store_root, backend, lower.directory, upper)
    return Root(lower, upper, overlay, id_map_of(container))


def id_map_of(container: Container) -> IdMap:
    """Return how ids of a container are ids out here; nothing where they are the same."""
    if container.settings.userns != "auto":
        return ()
    from fuse_mount.unshare import map_onto_subordinate_ids

    return map_onto_subordinate_ids()


def root_id(idmap: IdMap) -> int:
    """Return the host's id of a container's root."""
    return next((one.host for one in idmap if one.container == 0), 0)


def mount_root(root: Root, place: str, *, keeps: bool) -> None:
    """Mount a container's root.

    Args:
        root: What it is made of.
        place: Where.
        keeps: Whether what is written must last. Else nothing is forced to the disk, neither
            when programs ask for it nor at the end, for which unmounting would wait.
    """
    overlay = root.overlay
    if not keeps:
        fleeting = overlay._replace(options=(*overlay.options, "volatile"))
        try:
            execute(describe_overlay(fleeting, place, (), root.idmap))
        except mounts.MountCallError as err:
            if err.code != errno.EINVAL:  # before Linux 5.10
                raise
        else:
            return
    execute(describe_overlay(overlay, place, (), root.idmap))
