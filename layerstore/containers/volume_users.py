"""Which containers have a volume, and removing those that none has."""

from __future__ import annotations

from layerstore.containers.records import all_containers, containers_lock
from layerstore.containers.volumes import remove_volume, volume_names


def drop_volume(store_root: str, name: str) -> None:
    """Remove a volume that no container has; meanwhile none is made that would have it.

    Raises:
        NotFoundError: There is none.
        ConflictError: A container has it.
        FormatError: The record of a container cannot be read, which may have it.
    """
    with containers_lock(store_root):
        remove_volume(store_root, name, _users_of_volume(store_root, name))


def _users_of_volume(store_root: str, name: str) -> list[str]:
    return [
        container.name
        for container in all_containers(store_root)
        if any(
            mount.kind == "volume" and mount.source == name for mount in container.settings.mounts
        )
    ]


def unused_volumes(store_root: str) -> list[str]:
    """Return the names of volumes that no container has.

    Raises:
        FormatError: The record of a container cannot be read: nobody knows what it has.
    """
    used = {
        mount.source
        for container in all_containers(store_root)
        for mount in container.settings.mounts
        if mount.kind == "volume"
    }
    return [name for name in volume_names(store_root) if name not in used]
