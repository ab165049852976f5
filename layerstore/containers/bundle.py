"""OCI bundles for other runtimes: a config.json and a root file system in files of its own.

The directory appears whole, under its name, or not at all. Nobody but its owner may enter it:
its files keep their owners and set-user-ID bits.

Source: OCI runtime spec, bundle.md.
"""

from __future__ import annotations

import json
import os

from layerstore.containers.records import Container, new_id
from layerstore.containers.roots import (
    container_mounts,
    device_files,
    require_no_swap_of_root,
    working_directory,
)
from layerstore.containers.spec import Prepared, runtime_config
from layerstore.errors import ConflictError, InputError, StorageError
from layerstore.light_typing import TYPE_CHECKING
from layerstore.linux.namespaces import held_capabilities
from layerstore.linux.removal import remove_tree
from layerstore.runtime.cgroups import counts_swap, is_unified
from layerstore.runtime.users import resolve_run_user, users_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from layerstore.containers.settings import Settings
    from layerstore.digest import DiffId, ImageId
    from layerstore.store.store import Store


def write_bundle(
    store: Store, image_id: ImageId, layers: Sequence[DiffId], settings: Settings, directory: str
) -> None:
    """Write a bundle; it is whole and on the disk when this returns.

    Args:
        store: Holds the image.
        image_id: Of the image.
        layers: Its layers, lowest first.
        settings: What a container of it is to be. Volumes of an image are plain directories.
        directory: Must not exist.

    Raises:
        ConflictError: The directory is there.
        InputError: Named volumes are asked for, which belong to the store.
        StorageError: It cannot be written.
        IntegrityError: Stored bytes are damaged.
    """
    from layerstore.image.checkout import restore
    from layerstore.image.trees.stack import load_root
    from layerstore.linux.files import sync_file_system

    if os.path.lexists(directory):
        raise ConflictError(f"{directory} is there already", hint="name a directory to be made")
    for mount in settings.mounts:
        if mount.kind == "volume" and not mount.anonymous:
            raise InputError(
                f"the volume {mount.source} belongs to the store, and a bundle leaves it",
                hint="mount a directory: --volume /PATH:" + mount.target,
            )
    plain = tuple(mount for mount in settings.mounts if mount.kind != "volume")
    hostname = settings.hostname or os.uname().nodename
    settings = settings._replace(mounts=plain, hostname=hostname)
    partial = f"{directory.rstrip('/')}.{os.urandom(4).hex()}.partial"
    try:
        os.mkdir(partial, 0o700)
        root = f"{partial}/rootfs"
        os.mkdir(root)
        restore(store, load_root(store, layers), root)
        config = _config(str(store.root), image_id, tuple(layers), settings, partial)
        with open(f"{partial}/config.json", "w", encoding="utf-8") as file:
            json.dump(config, file, indent=2)
        sync_file_system(partial)
        os.rename(partial, directory)
    except OSError as err:
        raise StorageError(f"could not write the bundle {directory}: {err.strerror}") from err
    finally:
        if os.path.lexists(partial):
            remove_tree(partial)


def _config(
    store_root: str,
    image_id: ImageId,
    layers: tuple[DiffId, ...],
    settings: Settings,
    place: str,
) -> dict[str, object]:
    """Return the config.json of a bundle at ``place``, whose paths in it are relative."""
    root = f"{place}/rootfs"
    require_no_swap_of_root(root)
    container = Container(new_id(), "", "", image_id, layers, 0.0, place, settings)
    mounts = tuple(
        mount._replace(source=os.path.relpath(mount.source, place))
        if mount.source.startswith(f"{place}/")
        else mount
        for mount in container_mounts(store_root, container, root)
    )
    prepared = Prepared(
        root="rootfs",
        user=resolve_run_user(users_of(root), settings.user),
        cwd=working_directory(root, settings.cwd),
        mounts=mounts,
        devices=device_files(settings),
        cgroup="",
        machine=os.uname().machine,
        held=held_capabilities(),
        swap=counts_swap() if settings.limits.memory else False,
        unified=is_unified(),
    )
    return runtime_config(settings, prepared)
